"""The stations service with its relay on real parts, and a client that speaks to it as officers and devices do."""

import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final, Self
from uuid import uuid4

import mongoengine
from pymongo.database import Database
from urllib3 import PoolManager

from contracts import envelope
from contracts.catalogue import CATALOGUE
from contracts.envelope import Event
from services.kernel import clock, mongo
from services.kernel.mongo import Document
from services.stations import store
from services.stations.models import ALIAS
from tests.parts import Process, World, listens, until

BASE: Final = "/api/v1/stations"
UNLIMITED: Final = {
    "ESTATION_REQUESTS_PER_MINUTE": "1000000",
    "ESTATION_DEVICE_REQUESTS_PER_MINUTE": "1000000",
}


def new_id() -> str:
    """An id as a device makes one."""
    return str(uuid4())


def ago(**span: float) -> str:
    """An instant before now, as devices write it."""
    return (clock.now() - timedelta(**span)).isoformat()


def row(*, id: str | None = None, captured_at: str | None = None, **fields: Any) -> dict[str, Any]:  # noqa: A002
    """A check-in that counts, unless told otherwise."""
    known = {"id": id or new_id(), "captured_at": captured_at or ago(seconds=1), "kind": "water", "people": 3}
    return {**known, **fields}


@dataclass(frozen=True, slots=True)
class Reply:
    """What the service answered."""

    status: int
    headers: Mapping[str, str]
    raw: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.raw)

    @property
    def code(self) -> str:
        """The code of a problem document."""
        return str(self.json["code"])

    @property
    def etag(self) -> str:
        """The version."""
        return self.headers["ETag"]

    def errors(self) -> dict[str, str]:
        """The wrong fields of a problem document, with their codes."""
        return {error["field"]: error["code"] for error in self.json["errors"]}


class Api:
    """A client of one caller; any number of threads may use it."""

    def __init__(self, origin: str, token: str, pool: PoolManager) -> None:
        self._origin, self.token, self._pool = origin, token, pool

    def call(
        self,
        method: str,
        path: str,
        body: object = None,
        *,
        raw: bytes | Iterable[bytes] | None = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Reply:
        """One request below ``/api/v1/stations``.

        ``body`` is JSON, ``raw`` is bytes (an iterable of them: chunked). A header that is None is left out, also
        one that is sent otherwise: the credential, a fresh Idempotency-Key of each POST.
        """
        content = raw if raw is not None else None if body is None else json.dumps(body).encode()
        known: dict[str, str | None] = {
            "Authorization": f"Bearer {self.token}" if self.token else None,
            "Content-Type": None if content is None else "application/json",
            "Idempotency-Key": new_id() if method == "POST" else None,
        }
        wanted = {**known, **(headers or {})}
        answer = self._pool.request(
            method,
            self._origin + BASE + path,
            body=content,
            headers={name: text for name, text in wanted.items() if text},
            retries=False,
            redirect=False,
            timeout=60,
        )
        return Reply(answer.status, answer.headers, answer.data)

    def get(self, path: str) -> Reply:
        """GET."""
        return self.call("GET", path)

    def post(self, path: str, body: object = None, **headers: str | None) -> Reply:
        """POST; ``_`` stands for ``-`` in the names of headers."""
        return self.call("POST", path, body, headers={name.replace("_", "-"): text for name, text in headers.items()})

    def patch(self, path: str, body: object, etag: str | None) -> Reply:
        """PATCH of a version."""
        return self.call("PATCH", path, body, headers={"If-Match": etag})

    def checkins(self, *rows: Any, sent_at: str | None = None) -> list[dict[str, Any]]:
        """Posts rows as a device; the result of each."""
        reply = self.post("/checkins", {"items": rows, **({"sent_at": sent_at} if sent_at else {})})
        assert reply.status == 200, reply.raw
        results: list[dict[str, Any]] = reply.json["results"]
        return results


@dataclass(frozen=True, slots=True)
class Kiosk:
    """A device as its station has it."""

    id: str
    station: str
    county: str
    key: str
    api: Api

    def checkin_id(self, client_id: str) -> str:
        """The id that the service derives from the device's own."""
        from services.kernel import ids

        return ids.derived(self.id, client_id)


class Stations:
    """The running service and its relay in a world."""

    def __init__(self, world: World, *, relay: bool = True, **environ: str) -> None:
        self.world = world
        self._pool = PoolManager(maxsize=64)
        with documents(world):  # its indexes
            self.database = mongo.connect(world.settings("stations"), "stations", "test")
        self.process: Process = world.process("service", "stations", **{**UNLIMITED, **environ})
        self.start()
        self.relay = world.process("relay", "stations").start() if relay else None
        self.officer = self.person()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        self._pool.clear()
        self.database.client.close()

    @property
    def origin(self) -> str:
        """Where the service is."""
        return f"http://127.0.0.1:{self.process.http_port}"

    def start(self) -> None:
        """Starts the service, again after a stop; returns when it answers."""
        self.process.start()
        until(lambda: listens(self.process.http_port), "the service listens")

    def person(self, *roles: str, scope: str = "370900", subject: str = "officer-1") -> Api:
        """Somebody with a token: a city officer unless told."""
        return self.with_token(self.world.token(subject, roles or ("city_officer",), scope))

    def with_token(self, token: str) -> Api:
        """Somebody with whatever credential."""
        return Api(self.origin, token, self._pool)

    def station(
        self, county: str = "370902", *, opened: bool = True, facilities: Iterable[str] = ("water",), **fields: Any
    ) -> dict[str, Any]:
        """A registered station, in service unless told."""
        body = {
            "county": county,
            "name": "驿站一号",
            "address": "东岳大街 1 号",
            "facilities": list(facilities),
            **fields,
        }
        made = self.officer.post("/stations", body)
        assert made.status == 201, made.raw
        if opened:
            made = self.move(made.json["id"], "open")
        station: dict[str, Any] = made.json
        return station

    def move(self, station: str, move: str) -> Reply:
        """Opens, suspends, resumes or closes a station."""
        reply = self.officer.post(f"/stations/{station}/{move}", {"reason": "as planned"})
        assert reply.status == 200, reply.raw
        return reply

    def kiosk(self, station: Mapping[str, Any] | None = None, county: str = "370902") -> Kiosk:
        """A device with its key, at a station of its own unless told."""
        at = station or self.station(county)
        made = self.officer.post(f"/stations/{at['id']}/devices", {"label": "tablet"})
        assert made.status == 201, made.raw
        key = made.json["key"]
        return Kiosk(made.json["id"], at["id"], at["county"], key, self.with_token(key))

    def act(self, path: str, **body: Any) -> dict[str, Any]:
        """An officer's act that succeeds; the changed document."""
        reply = self.officer.post(path, {"reason": "looked at it", **body})
        assert reply.status == 200, reply.raw
        changed: dict[str, Any] = reply.json
        return changed

    def backdate(self, kiosk: Kiosk, *, days: float) -> None:
        """Makes a device and its station look as if they had been in service for so long."""
        since = clock.now() - timedelta(days=days)
        self.database["devices"].update_one({"_id": kiosk.id}, {"$set": {"enrolled_at": since}})
        self.database["stations"].update_one(
            {"_id": kiosk.station}, {"$set": {"history": [{"state": "active", "since": since}]}}
        )

    def settled(self) -> None:
        """Returns when the relay has published everything."""
        names = [source.collection for source in store.SOURCES]
        until(lambda: not any(self.database[name].find_one({"open": True}) for name in names), "all is published")


@contextmanager
def documents(world: World) -> Iterator[Database[Document]]:
    """The service's database with its indexes, for code of the service that runs in the test's own process."""
    database = mongo.connect_documents(world.settings("stations"), ALIAS, "test")
    store.ensure_indexes(database)
    yield database
    mongoengine.disconnect(ALIAS)


def once_each(events: Iterable[Event]) -> list[Event]:
    """The events by their ids, as consumers take them: publishing is at least once."""
    return list({event["id"]: event for event in events}.values())


def total(events: Iterable[Event]) -> dict[tuple[str, str, str], int]:
    """What events add up to, each taken once and checked: (measure, county, day) -> sum, without zeros."""
    sums: dict[tuple[str, str, str], int] = {}
    for event in once_each(events):
        CATALOGUE.check(envelope.check(event))
        for measure, _programme, county, day, delta in CATALOGUE.counts(event):
            sums[measure, county, day] = sums.get((measure, county, day), 0) + delta
    return {key: value for key, value in sums.items() if value}


def day_of(instant: str) -> str:
    """The Asia/Shanghai date."""
    return clock.day(datetime.fromisoformat(instant))
