"""Every query and conditional write of the stations service.

Each function takes the actor and sees only what lies in the actor's district.
"""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from pymongo.database import Database

from contracts import envelope
from contracts.envelope import Event
from contracts.events.stations import CheckinQuarantinedV1, CheckinRecordedV1
from services.kernel import clock, outbox
from services.kernel.auth import Actor
from services.kernel.errors import NotFound
from services.kernel.mongo import Document, GroupCommit
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
)
"""What the relay reads, busiest first."""


def ensure_indexes(database: Database[Document]) -> None:
    """Creates the indexes of every collection (``estation migrate``)."""
    for model in DOCUMENTS:
        model.ensure_indexes()
    for source in SOURCES:
        outbox.ensure_index(database[source.collection])
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
        query = self._scoped(model, actor).filter(**where)
        if cursor:
            query = query.filter(pk__gt=cursor)
        rows = [dict(row) for row in query.order_by("pk").limit(limit + 1).as_pymongo()]
        return rows[:limit], rows[limit - 1]["_id"] if len(rows) > limit else None

    def open_stations(self, *, limit: int, cursor: str, where: Mapping[str, Any]) -> tuple[list[Document], str | None]:
        """What anyone may know: stations that serve now."""
        query = Station.objects(state=rules.ACTIVE, **where)
        if cursor:
            query = query.filter(pk__gt=cursor)
        rows = [dict(row) for row in query.order_by("pk").limit(limit + 1).as_pymongo()]
        return rows[:limit], rows[limit - 1]["_id"] if len(rows) > limit else None

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

    def beat(self, device: str, at: datetime, unsent: int, offset_ms: int) -> None:
        """Notes that a device was heard of; no event, no revision: beats are many."""
        self.database["devices"].update_one({"_id": device, "state": rules.ENROLLED}, {"$set": {"state": rules.ACTIVE}})
        self.database["devices"].update_one(
            {"_id": device},
            {"$max": {"last_seen": at}, "$set": {"unsent": unsent, "offset_ms": offset_ms, "silent": False}},
        )

    def silent_devices(self, before: datetime, limit: int = 200) -> list[Document]:
        """Devices not heard of since ``before`` and not yet known to be silent."""
        query = Device.objects(silent=False, state=rules.ACTIVE, last_seen__lt=before)
        return [dict(row) for row in query.order_by("last_seen").limit(limit).as_pymongo()]

    def stations_of(self, devices: Sequence[Document]) -> dict[str, Document]:
        """The stations of some devices, by id, in one query."""
        query = Station.objects(pk__in=[device["station"] for device in devices]).as_pymongo()
        return {row["_id"]: dict(row) for row in query}

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
