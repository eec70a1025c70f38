"""Every query and conditional write of the stations service.

What a person may ask for takes the actor and sees only what lies in the actor's district.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, Final

from mongoengine import Q
from pymongo.database import Database

from contracts import envelope
from contracts.envelope import Event
from contracts.events.stations import CheckinQuarantinedV1, CheckinRecordedV1
from services.kernel import audit, clock, forgetting, outbox, sessions
from services.kernel.auth import Actor
from services.kernel.errors import FieldError, Invalid, NotFound
from services.kernel.mongo import Document, GroupCommit, ensure_model_indexes
from services.kernel.outbox import Idempotency, Write
from services.stations import rules
from services.stations.models import DOCUMENTS, Checkin, Device, Fault, Station, Supply

Model = type[Station] | type[Device] | type[Checkin] | type[Fault] | type[Supply]
_IDEMPOTENT: Final[tuple[Model, ...]] = (Station, Device, Fault, Supply)


def checkin_events(document: Document) -> list[Event]:
    """A check-in is its own event: the first is read off the document, later ones ride in it."""
    first = CheckinQuarantinedV1 if document["reasons"] else CheckinRecordedV1
    data: dict[str, Any] = {
        "day": clock.day(document["received_at"]) if document["reasons"] else clock.day(document["captured_at"]),
        "station": document["station"],
        "kind": document["kind"],
        "people": document["people"],
    }
    if document["reasons"]:
        data["reasons"] = document["reasons"]
    recorded = envelope.event(
        id=document["_id"],
        type=first.type,
        subject=document["_id"],
        seq=1,
        county=document["county"],
        time=clock.rfc3339(document["captured_at"]),
        recordedtime=clock.rfc3339(document["received_at"]),
        traceparent=document["trace"],
        data=data,
    )
    return [recorded, *outbox.embedded(document)] if document.get("out") else [recorded]


SOURCES: Final = (
    outbox.Source(
        "checkins",
        checkin_events,
        ("out", "county", "captured_at", "received_at", "station", "kind", "people", "reasons", "trace"),
    ),
    outbox.Source("stations"),
    outbox.Source("devices"),
    outbox.Source("faults"),
    forgetting.SOURCE,
)
"""What the relay reads, busiest first."""

AUDITED: Final = (
    audit.Source("stations"),
    audit.Source("devices"),
    audit.Source("faults"),
    audit.Source("supplies"),
    forgetting.AUDITED,
    audit.LOOKS,
    audit.Source("checkins", own=True),
)
"""What the sealer reads; the many last, so that nothing waits behind them."""


def ensure_indexes(database: Database[Document]) -> None:
    """Creates the indexes of every collection (``estation migrate``)."""
    for model in DOCUMENTS:
        ensure_model_indexes(model)
    for source in SOURCES:
        outbox.ensure_index(database[source.collection])
    audit.ensure_indexes(database, AUDITED)
    sessions.ensure_index(database)
    for created in _IDEMPOTENT:
        outbox.ensure_idempotency_index(created._get_collection())  # noqa: SLF001 (mongoengine's own way)


class Store:
    """The stations database."""

    def __init__(self, database: Database[Document]) -> None:
        self.database = database
        self._commit = GroupCommit(database["checkins"])

    def get(self, model: Model, id_: str, actor: Actor) -> Document:
        """One document in the actor's district.

        Raises:
            NotFound: not there, or not the actor's to see.
        """
        found = self._scoped(model, actor).filter(pk=id_).as_pymongo().first()
        if found is None:
            raise NotFound
        return dict(found)

    def page(
        self, model: Model, actor: Actor, *, limit: int, cursor: str, where: Mapping[str, Any]
    ) -> tuple[list[Document], str | None]:
        """Documents in id order after ``cursor`` that meet ``where``, and the next cursor."""
        return _page(self._scoped(model, actor).filter(**where), limit, cursor)

    def open_stations(self, *, limit: int, cursor: str, where: Mapping[str, Any]) -> tuple[list[Document], str | None]:
        """What anyone may know: stations in service."""
        return _page(Station.objects(state=rules.ACTIVE, **where), limit, cursor)

    def quarantine(self, actor: Actor, *, limit: int, cursor: str) -> tuple[list[Document], str | None]:
        """Check-ins that wait, in the order received: their ids tell no time, and none may slip in behind the cursor.

        Raises:
            Invalid: not a cursor of ours.
        """
        query = self._scoped(Checkin, actor).filter(status=rules.QUARANTINED)
        if cursor:
            received_at, id_ = _position(cursor)
            query = query.filter(Q(received_at__gt=received_at) | Q(received_at=received_at, pk__gt=id_))
        rows = [dict(row) for row in query.order_by("received_at", "pk").limit(limit + 1).as_pymongo()]
        last = rows[limit - 1] if len(rows) > limit else None
        return rows[:limit], f"{clock.rfc3339(last['received_at'])}_{last['_id']}" if last else None

    def create(
        self, model: Model, document: Document, write: Write, idempotency: Idempotency | None
    ) -> tuple[Document, bool]:
        """Inserts a document with its events; (document, whether it is new).

        Raises:
            Conflict: the Idempotency-Key was used with another body.
        """
        model(**{"id" if name == "_id" else name: value for name, value in document.items()}).validate()
        return outbox.insert(model._get_collection(), document, write, idempotency=idempotency)  # noqa: SLF001

    def change(self, model: Model, current: Document, write: Write, **changes: object) -> Document:
        """Changes a document under its revision, with its events.

        Raises:
            Stale: somebody else was faster.
        """
        return outbox.update(model._get_collection(), current, write, changes=changes)  # noqa: SLF001

    def device_for_key(self, id_: str) -> tuple[Document, Document] | None:
        """A device and its station, to check a key against; None where there is none."""
        device = Device.objects(pk=id_).as_pymongo().first()
        station = Station.objects(pk=device["station"]).as_pymongo().first() if device else None
        return (dict(device), dict(station)) if device and station else None

    def hear(self, device: str, at: datetime, **told: int) -> None:
        """Notes that a device was heard of, and what it ``told``; no event and no audit row: beats are many.

        The revision rises all the same, so that nobody declares it silent who looked before.
        """
        self.database["devices"].update_one(
            {"_id": device}, {"$max": {"last_seen": at}, "$set": {**told, "silent": False}, "$inc": {"rev": 1}}
        )

    def quiet_devices(self, before: datetime) -> Iterator[tuple[Document, Document]]:
        """Devices not heard of since ``before`` and not yet said to be silent, each with its station, which serves."""
        found = self.database["devices"].aggregate(
            [
                {"$match": {"silent": False, "state": rules.ACTIVE, "last_seen": {"$lt": before}}},
                {"$lookup": {"from": "stations", "localField": "station", "foreignField": "_id", "as": "at"}},
                {"$unwind": "$at"},
                {"$match": {"at.state": rules.ACTIVE}},
            ]
        )
        for device in found:
            station = device.pop("at")
            yield device, station

    def station_history(self, id_: str) -> list[Document]:
        """The states of a station, oldest first."""
        found = self.database["stations"].find_one({"_id": id_}, {"history": 1})
        return list(found["history"]) if found else []

    def insert_checkins(self, documents: Sequence[Document]) -> list[Document | None]:
        """Inserts check-ins; for each the document that was there before, or None where it is new.

        Concurrent callers share one write. An id that stands twice among the documents is new once.
        """
        if not documents:
            return []
        fresh = self._commit.insert(documents)
        known = [document["_id"] for document, new in zip(documents, fresh, strict=True) if not new]
        if not known:
            return [None] * len(documents)
        earlier = {row["_id"]: row for row in self.database["checkins"].find({"_id": {"$in": known}})}
        return [None if new else earlier[document["_id"]] for document, new in zip(documents, fresh, strict=True)]

    def counts(self, actor: Actor, first_day: str, last_day: str) -> list[Document]:
        """What counts, by county and day, for the daily comparison with metrics."""
        return list(
            self.database["checkins"].aggregate(
                [
                    {
                        "$match": {
                            "county": {"$in": list(actor.counties)},
                            "day": {"$gte": first_day, "$lte": last_day},
                            "status": {"$in": list(rules.COUNTED)},
                        }
                    },
                    {
                        "$group": {
                            "_id": {"county": "$county", "day": "$day"},
                            "people": {"$sum": "$people"},
                            "records": {"$sum": 1},
                        }
                    },
                    {"$sort": {"_id.day": 1, "_id.county": 1}},
                ]
            )
        )

    @staticmethod
    def _scoped(model: Model, actor: Actor) -> Any:
        return model.objects(county__in=list(actor.counties))


def _page(query: Any, limit: int, cursor: str) -> tuple[list[Document], str | None]:
    if cursor:
        query = query.filter(pk__gt=cursor)
    rows = [dict(row) for row in query.order_by("pk").limit(limit + 1).as_pymongo()]
    return rows[:limit], rows[limit - 1]["_id"] if len(rows) > limit else None


def _position(cursor: str) -> tuple[datetime, str]:
    received_at, _, id_ = cursor.partition("_")
    try:
        return datetime.fromisoformat(received_at).astimezone(UTC), id_
    except (ValueError, OverflowError):
        raise Invalid([FieldError("cursor", "bad_cursor")]) from None
