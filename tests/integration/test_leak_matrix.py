"""Every role at every operation of every service, for the own district and for another one.

What is right stands in ``ORACLE``, written by hand from what the services promise and not from their code. The
operations come from the services' OpenAPI documents: one that the oracle does not know fails the test.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from itertools import count, product
from pathlib import Path
from typing import Any, Final
from urllib.parse import urlencode
from uuid import uuid4

import pytest
from urllib3 import PoolManager

from services.kernel import clock, mongo, telemetry
from services.metrics import store as metrics_store
from services.people.handlers import notices
from tests.builders import id_number
from tests.integration.stations_api import UNLIMITED, Stations, ago, row
from tests.parts import Process, World
from tests.people import People

HERE, ELSEWHERE, CITY = "370902", "370982", "370900"
PUBLIC, NOTHING, ITEM, LIST, OWN, LAST = "public", "nothing", "item", "list", "own", "last"
"""What an operation is about: anyone's, nothing of a district, one thing of one, a list of one, one's own, oneself."""
NOBODY, DEVICE, IMPOSTOR = "nobody", "device", "impostor"
"""Without a credential; with a device's key; with a token that says ``device`` and ``system``."""
PEOPLE: Final = (
    *("worker", "parent", "station_staff", "volunteer", "unit_officer"),
    *("county_officer", "city_officer", "finance", "ops"),
)
OF_THE_CITY: Final = ("city_officer", "finance", "ops")
OFFICERS = "county_officer city_officer"
READERS = "county_officer city_officer unit_officer station_staff ops"
STAFF = "county_officer city_officer station_staff"
UNITS = "county_officer city_officer unit_officer"
COUNTER = UNITS + " station_staff"
EVERYBODY = " ".join(PEOPLE)
NAME: Final = "王小明"
BORN: Final = date(2018, 6, 1)
_numbers = count()

ORACLE: Final[Mapping[str, tuple[str, str]]] = {
    "get_stations_openapi_json": (PUBLIC, ""),
    "get_stations_open": (PUBLIC, ""),
    "get_stations_stations": (LIST, READERS),
    "post_stations_stations": (ITEM, OFFICERS),
    "get_stations_stations_id": (ITEM, READERS),
    "patch_stations_stations_id": (ITEM, OFFICERS),
    "post_stations_stations_id_move": (ITEM, OFFICERS),
    "post_stations_stations_id_facilities": (ITEM, OFFICERS),
    "delete_stations_stations_id_facilities_kind": (ITEM, OFFICERS),
    "post_stations_stations_id_devices": (ITEM, OFFICERS),
    "get_stations_stations_id_devices": (ITEM, READERS),
    "get_stations_devices_id": (ITEM, READERS),
    "post_stations_devices_id_rotate": (ITEM, OFFICERS),
    "post_stations_devices_id_revoke": (ITEM, OFFICERS),
    "post_stations_heartbeats": (NOTHING, DEVICE),
    "post_stations_checkins": (NOTHING, DEVICE),
    "post_stations_checkins_import": (ITEM, OFFICERS),
    "get_stations_checkins_quarantine": (LIST, READERS),
    "get_stations_checkins_id": (ITEM, READERS),
    "post_stations_checkins_id_approve": (ITEM, OFFICERS),
    "post_stations_checkins_id_void": (ITEM, OFFICERS),
    "get_stations_counts": (LIST, READERS),
    "post_stations_faults": (ITEM, STAFF + " device"),
    "get_stations_faults": (LIST, READERS),
    "get_stations_faults_id": (ITEM, READERS),
    "post_stations_faults_id_clear": (ITEM, STAFF),
    "post_stations_supplies": (ITEM, STAFF),
    "get_stations_supplies": (LIST, READERS),
    "get_stations_supplies_id": (ITEM, READERS),
    "patch_stations_supplies_id": (ITEM, STAFF),
    "get_metrics_openapi_json": (PUBLIC, ""),
    "get_metrics_plan_year": (PUBLIC, ""),
    "get_metrics_freshness": (PUBLIC, ""),
    "get_metrics_rollups": (PUBLIC, ""),
    "get_metrics_series": (PUBLIC, ""),
    "get_metrics_events": (ITEM, UNITS),
    "get_people_openapi_json": (PUBLIC, ""),
    "get_people_jwks_json": (PUBLIC, ""),
    "get_people_me": (NOTHING, EVERYBODY),
    "get_people_sessions": (OWN, EVERYBODY),
    "post_people_sessions_id_revoke": (OWN, EVERYBODY),
    "get_people_accounts": (LIST, UNITS),
    "get_people_accounts_id": (ITEM, UNITS),
    "post_people_accounts_id_grants": (ITEM, UNITS),
    "post_people_accounts_id_grants_role_withdraw": (ITEM, UNITS),
    "post_people_accounts_id_sign_out": (ITEM, UNITS),
    "get_people_me_person": (NOTHING, EVERYBODY),
    "put_people_me_person": (NOTHING, EVERYBODY),
    "post_people_me_consents_purpose": (NOTHING, EVERYBODY),
    "post_people_me_consents_purpose_withdraw": (NOTHING, EVERYBODY),
    "get_people_children": (OWN, EVERYBODY),
    "post_people_children": (NOTHING, EVERYBODY),
    "delete_people_children_id": (OWN, EVERYBODY),
    "get_people_me_notices": (NOTHING, EVERYBODY),
    "post_people_me_notices_read": (NOTHING, EVERYBODY),
    "get_people_me_export": (OWN, EVERYBODY),
    "delete_people_me": (LAST, EVERYBODY),
    "get_people_erasures_id": (PUBLIC, ""),
    "post_people_persons_find": (LIST, COUNTER),
    "get_people_persons_id": (ITEM, COUNTER),
    "post_people_persons_id_reveal": (ITEM, OFFICERS),
    "post_people_persons_id_verify": (ITEM, COUNTER),
    "post_people_persons_id_release": (ITEM, UNITS),
    "get_people_notices": (LIST, UNITS),
}
REFUSED: Final = {404, 422}
"""What somebody gets who names a thing of another district: it is not there, or cannot be made there."""


@dataclass(frozen=True, slots=True)
class Request:
    """How one operation is called about the things of a place."""

    path: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: Any = None
    version_of: str = ""
    """Where the ETag comes from that an edit has to name."""


class Place:
    """One of everything in one reporting unit."""

    def __init__(self, site: "Site", county: str) -> None:
        stations, people = site.stations, site.people
        kiosk = stations.kiosk(county=county)
        waiting, counted = row(captured_at=ago(days=40)), row()
        kiosk.api.checkins(waiting, counted)
        stock = {"station": kiosk.station, "item": "水", "quantity": 1, "unit": "箱"}
        self.county: str = county
        self.erased: str = people.account(county)
        people.erase(self.erased)
        self.key: str = kiosk.key
        self.station: str = kiosk.station
        self.device: str = kiosk.id
        self.waiting: str = kiosk.checkin_id(waiting["id"])
        self.counted: str = kiosk.checkin_id(counted["id"])
        self.fault: str = stations.officer.post("/faults", {"station": kiosk.station, "kind": "power"}).json["id"]
        self.supply: str = stations.officer.post("/supplies", stock).json["id"]
        self.account: str = people.account(county)
        self.volunteer: str = people.account(county, ("volunteer", county))
        people.identify(self.account, NAME, id_number(next(_numbers)))
        notices.tell(people.store, people.store.own_account(self.account), "welcome", clock.now(), NO_TRACE)

    @property
    def marks(self) -> set[str]:
        """What may stand in nobody's answer but that of who sees this place."""
        return {self.station, self.device, self.waiting, self.fault, self.supply, self.account, self.volunteer}


def whoever(born: date = date(1991, 1, 1)) -> dict[str, Any]:
    """Somebody whom nobody was before."""
    return {"name": NAME, "id_number": id_number(next(_numbers), born), "consent": True}


REASON = {"reason": "as planned"}
NO_TRACE: Final = telemetry.continued(None)
TODAY = clock.day(clock.now())
REQUESTS: Final[Mapping[str, Callable[[Place], Request]]] = {
    "post_stations_stations": lambda at: Request(
        body={"county": at.county, "name": "新站", "address": "路 1 号", "facilities": ["water"]}
    ),
    "get_stations_stations_id": lambda at: Request({"id": at.station}),
    "patch_stations_stations_id": lambda at: Request(
        {"id": at.station}, body={"name": "改名"}, version_of=f"/api/v1/stations/stations/{at.station}"
    ),
    "post_stations_stations_id_move": lambda at: Request({"id": at.station, "move": "suspend"}, body=REASON),
    "post_stations_stations_id_facilities": lambda at: Request({"id": at.station}, body={"facility": "rest"}),
    "delete_stations_stations_id_facilities_kind": lambda at: Request({"id": at.station, "kind": "water"}),
    "post_stations_stations_id_devices": lambda at: Request({"id": at.station}, body={"label": "new"}),
    "get_stations_stations_id_devices": lambda at: Request({"id": at.station}),
    "get_stations_devices_id": lambda at: Request({"id": at.device}),
    "post_stations_devices_id_rotate": lambda at: Request({"id": at.device}),
    "post_stations_devices_id_revoke": lambda at: Request({"id": at.device}, body=REASON),
    "post_stations_heartbeats": lambda _at: Request(body={"unsent": 0}),
    "post_stations_checkins": lambda _at: Request(body={"items": [row()]}),
    "post_stations_checkins_import": lambda at: Request(body={"device": at.device, "items": [row()], **REASON}),
    "get_stations_checkins_id": lambda at: Request({"id": at.waiting}),
    "post_stations_checkins_id_approve": lambda at: Request({"id": at.waiting}, body=REASON),
    "post_stations_checkins_id_void": lambda at: Request({"id": at.counted}, body=REASON),
    "get_stations_counts": lambda _at: Request(query={"first_day": TODAY, "last_day": TODAY}),
    "post_stations_faults": lambda at: Request(body={"station": at.station, "kind": "power"}),
    "get_stations_faults_id": lambda at: Request({"id": at.fault}),
    "post_stations_faults_id_clear": lambda at: Request({"id": at.fault}, body=REASON),
    "post_stations_supplies": lambda at: Request(
        body={"station": at.station, "item": "水", "quantity": 1, "unit": "箱"}
    ),
    "get_stations_supplies_id": lambda at: Request({"id": at.supply}),
    "patch_stations_supplies_id": lambda at: Request(
        {"id": at.supply}, body={"quantity": 5}, version_of=f"/api/v1/stations/supplies/{at.supply}"
    ),
    "get_metrics_plan_year": lambda _at: Request({"year": "2025"}),
    "get_metrics_rollups": lambda _at: Request(query={"measure": "stations.checkins"}),
    "get_metrics_series": lambda _at: Request(query={"measure": "stations.checkins"}),
    "get_metrics_events": lambda at: Request(query={"measure": "stations.checkins", "county": at.county, "day": TODAY}),
    "get_people_accounts_id": lambda at: Request({"id": at.account}),
    "post_people_accounts_id_grants": lambda at: Request(
        {"id": at.account}, body={"role": "volunteer", "scope": at.county, **REASON}
    ),
    "post_people_accounts_id_grants_role_withdraw": lambda at: Request(
        {"id": at.volunteer, "role": "volunteer"}, body=REASON
    ),
    "post_people_accounts_id_sign_out": lambda at: Request({"id": at.account}, body=REASON),
    "put_people_me_person": lambda _at: Request(body={**whoever(), "phone": "13805480002"}),
    "post_people_me_consents_purpose": lambda _at: Request({"purpose": "sms"}),
    "post_people_me_consents_purpose_withdraw": lambda _at: Request({"purpose": "sms"}),
    "post_people_children": lambda _at: Request(body=whoever(BORN)),
    "get_people_erasures_id": lambda at: Request({"id": at.erased}),
    "post_people_persons_find": lambda _at: Request(body={"name": NAME}),
    "get_people_persons_id": lambda at: Request({"id": at.account}),
    "post_people_persons_id_reveal": lambda at: Request({"id": at.account}, body=REASON),
    "post_people_persons_id_verify": lambda at: Request({"id": at.account}, body={**REASON, "rev": 1}),
    "post_people_persons_id_release": lambda at: Request({"id": at.account}, body={**REASON, "rev": 1}),
}
"""Requests that succeed for who may; operations that need nothing are left out."""


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of a service's document."""

    id: str
    origin: str
    method: str
    path: str
    creates: bool

    @property
    def service(self) -> str:
        """Whose it is."""
        return self.path.split("/")[3]

    @property
    def changes(self) -> bool:
        """Whether a call may use up what it is about."""
        return self.method != "GET"


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls, with which credential; ``place`` is the district of who has one."""

    role: str
    credential: str
    account: str = ""


@dataclass(frozen=True, slots=True)
class Finding:
    """An answer that the oracle does not allow."""

    caller: str
    operation: str
    about: str
    said: str

    def __str__(self) -> str:
        return f"{self.caller} at {self.operation} ({self.about}): {self.said}"


class Site:
    """The services, their operations, and somebody of every role over ``HERE``."""

    def __init__(self, world: World, stations: Stations, people: People, origins: Mapping[str, str]) -> None:
        self.world, self.stations, self.people = world, stations, people
        self._pool = PoolManager(maxsize=8)
        self.operations = [one for name, origin in origins.items() for one in self._operations(name, origin)]
        self.own, self.other = Place(self, HERE), Place(self, ELSEWHERE)
        self.own_things: dict[str, Callable[[str], str]] = {
            "sessions": people.session,
            "me": people.session,
            "children": lambda account: people.child(account, "王小妹", id_number(next(_numbers), BORN)),
        }
        self.callers = [
            Caller(NOBODY, ""),
            Caller(DEVICE, self.own.key),
            Caller(IMPOSTOR, world.token(str(uuid4()), ("device", "system"), CITY)),
            *(self.person(role) for role in PEOPLE),
        ]

    def person(self, role: str) -> Caller:
        scope = CITY if role in OF_THE_CITY else "" if role in {"worker", "parent"} else HERE
        account = self.people.account(HERE)
        self.people.identify(account, "李大海", id_number(next(_numbers)))
        return Caller(role, self.world.token(account, (role,), scope), account)

    def _operations(self, name: str, origin: str) -> Iterator[Operation]:
        document = json.loads(self._pool.request("GET", f"{origin}/api/v1/{name}/openapi.json").data)
        for path, methods in document["paths"].items():
            for method, about in methods.items():
                creates = any(parameter["name"] == "Idempotency-Key" for parameter in about["parameters"])
                yield Operation(about["operationId"], origin, method.upper(), path, creates)

    def call(self, operation: Operation, caller: Caller, request: Request) -> tuple[int, str]:
        """Status and body."""
        headers = {"Authorization": f"Bearer {caller.credential}"} if caller.credential else {}
        if operation.creates:
            headers["Idempotency-Key"] = uuid4().hex
        if request.body is not None:
            headers["Content-Type"] = "application/json"
        if request.version_of:
            officer = {"Authorization": f"Bearer {self.stations.officer.token}"}
            seen = self._pool.request("GET", operation.origin + request.version_of, headers=officer)
            headers["If-Match"] = seen.headers["ETag"]
        query = f"?{urlencode(request.query)}" if request.query else ""
        answer = self._pool.request(
            operation.method,
            operation.origin + operation.path.format(**request.path) + query,
            body=None if request.body is None else json.dumps(request.body),
            headers=headers,
            retries=False,
        )
        return answer.status, answer.data.decode()


class Matrix:
    """Calls everything as everybody and holds each answer against the oracle."""

    def __init__(self, site: Site) -> None:
        self.site = site
        self.calls = 0
        self.findings: list[Finding] = []
        self.succeeded: set[str] = set()

    def run(self) -> "Matrix":
        """All of it."""
        known = {"stations": {*PEOPLE, IMPOSTOR, DEVICE}, "metrics": {*PEOPLE, IMPOSTOR}, "people": {*PEOPLE, IMPOSTOR}}
        for operation, caller in product(self.site.operations, self.site.callers):
            kind, who = ORACLE[operation.id]
            if kind == PUBLIC:
                self._expect(operation, caller, self.site.own, "public", {200})
            elif caller.role not in who.split():
                refused = {401} if caller.role not in known[operation.service] else {403}
                for about, place in (("own district", self.site.own), ("another district", self.site.other)):
                    self._expect(operation, caller, place, about, refused, request=self._refused(operation, place))
            else:
                self._allowed(operation, caller, kind)
        return self

    def _allowed(self, operation: Operation, caller: Caller, kind: str) -> None:
        city, site = caller.role in OF_THE_CITY, self.site
        if kind == OWN:
            self._own(operation, caller)
            return
        if kind == LAST:  # somebody who is not needed any more
            self._expect(operation, site.person(caller.role), site.own, "oneself", {202})
            return
        used = operation.changes and kind == ITEM and caller.role != DEVICE
        self._expect(operation, caller, Place(site, HERE) if used else site.own, "own district", {200, 201, 204})
        if kind == ITEM and caller.role != DEVICE:
            place = Place(site, ELSEWHERE) if used and city else site.other
            self._expect(operation, caller, place, "another district", {200, 201, 204} if city else REFUSED)
        if kind == LIST:
            self._list(operation, caller, city=city)

    def _own(self, operation: Operation, caller: Caller) -> None:
        make = self.site.own_things[operation.path.split("/")[4]]
        mine, others = make(caller.account), make(self.site.person(caller.role).account)
        if "{id}" in operation.path:
            self._expect(operation, caller, self.site.own, "one's own", {200, 204}, request=Request({"id": mine}))
            self._expect(operation, caller, self.site.own, "somebody else's", {404}, request=Request({"id": others}))
            return
        body = self._expect(operation, caller, self.site.own, "one's own", {200}, request=Request())
        if mine not in body:
            self._find(operation, caller, "one's own", "lacks one's own")
        if others in body:
            self._find(operation, caller, "somebody else's", "is shown")

    def _list(self, operation: Operation, caller: Caller, *, city: bool) -> None:
        request = self._request(operation, self.site.own)
        self.calls += 1
        whole = Request(query={**request.query, **_whole(operation)}, body=request.body)
        _status, body = self.site.call(operation, caller, whole)
        own, other = (place.marks | {place.county} for place in (self.site.own, self.site.other))
        if not any(mark in body for mark in own):
            self._find(operation, caller, "own district", "lacks what lies there")
        if any(mark in body for mark in other) != city:
            self._find(operation, caller, "another district", "lacks it" if city else "is shown")

    def _expect(
        self,
        operation: Operation,
        caller: Caller,
        place: Place,
        about: str,
        expected: set[int],
        *,
        request: Request | None = None,
    ) -> str:
        self.calls += 1
        status, body = self.site.call(operation, caller, request or self._request(operation, place))
        if status < 300:
            self.succeeded.add(operation.id)
        if status not in expected:
            self._find(operation, caller, about, f"{status} instead of {sorted(expected)} {body[:160]}")
        elif status >= 400 and any(mark in body for mark in place.marks):
            self._find(operation, caller, about, f"{status} shows what it refuses")
        return body

    def _find(self, operation: Operation, caller: Caller, about: str, said: str) -> None:
        self.findings.append(Finding(caller.role, operation.id, about, said))

    @staticmethod
    def _request(operation: Operation, place: Place) -> Request:
        made = REQUESTS.get(operation.id)
        return made(place) if made else Request()

    def _refused(self, operation: Operation, place: Place) -> Request:
        if ORACLE[operation.id][0] == OWN:
            return Request({"id": str(uuid4())})
        return self._request(operation, place)


def _whole(operation: Operation) -> dict[str, str]:
    return {} if operation.id in {"get_stations_counts", "post_people_persons_find"} else {"limit": "200"}


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    """The people service."""
    with People(shared_world) as running:
        yield running


@pytest.fixture(scope="module")
def stations(shared_world: World) -> Iterator[Stations]:
    """The stations service."""
    with Stations(shared_world, relay=False) as running:
        yield running


@pytest.fixture(scope="module")
def metrics(shared_world: World) -> Process:
    """The metrics service."""
    database = mongo.connect(shared_world.settings("metrics"), "metrics", "test")
    metrics_store.ensure_indexes(database)
    database.client.close()
    return shared_world.process("service", "metrics", **UNLIMITED).start()


@pytest.mark.slow
def test_nobody_reaches_what_is_not_theirs_and_every_operation_succeeds_for_somebody(
    shared_world: World, stations: Stations, people: People, metrics: Process
) -> None:
    origins = {
        "stations": stations.origin,
        "metrics": f"http://127.0.0.1:{metrics.http_port}",
        "people": people.origin,
    }
    site = Site(shared_world, stations, people, origins)
    assert {operation.id for operation in site.operations} == set(ORACLE), "the oracle knows every operation"
    matrix = Matrix(site).run()
    print(  # noqa: T201 (the size belongs into the record)
        f"leak matrix: {len(site.operations)} operations x {len(site.callers)} callers, {matrix.calls} calls, "
        f"{len(matrix.findings)} findings"
    )
    assert [str(finding) for finding in matrix.findings] == []
    assert {operation.id for operation in site.operations} - matrix.succeeded == set()


@pytest.mark.slow
def test_a_planted_leak_is_found(shared_world: World, stations: Stations, people: People, tmp_path: Path) -> None:
    site = Site(shared_world, stations, people, {"stations": stations.origin})
    environ = shared_world.environ("stations", **UNLIMITED)
    process = Process(("service", "stations"), environ, tmp_path / "leaky.log", module="tests.run_leaky").start()
    try:
        origin = f"http://127.0.0.1:{process.http_port}"
        site.operations = [
            Operation(one.id, origin, one.method, one.path, one.creates)
            for one in site.operations
            if one.method == "GET"
        ]
        found = Matrix(site).run().findings
        assert {finding.operation for finding in found} >= {
            *("get_stations_stations_id", "get_stations_devices_id", "get_stations_checkins_id"),
            *("get_stations_faults_id", "get_stations_supplies_id", "get_stations_stations", "get_stations_faults"),
        }
        assert {finding.about for finding in found} == {"another district"}
    finally:
        process.stop()
