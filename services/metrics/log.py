"""The event log and the figures beside it: written together, in one transaction a batch, or not at all.

``events`` holds every event once (``_id`` is the event's id) with its number ``n`` and its ``trail``; ``rollups``
and ``totals`` hold what the events add up to by day and by year. The document ``applied`` of ``state`` hands out
``n``: two aggregators that run by mistake meet there, and one of them tries again with what is then known. The log is
the history: it is kept.
"""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

import pymongo
from pymongo import ReadPreference, ReturnDocument, UpdateOne, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from contracts.envelope import Event
from contracts.measures import Count
from services.kernel.mongo import DUPLICATE_KEY, Document
from services.metrics.projections import Cell, Sums, trail

EVENTS: Final = "events"
ROLLUPS: Final = "rollups"
TOTALS: Final = "totals"
STATE: Final = "state"
APPLIED: Final = "applied"
ATTEMPT_SECONDS: Final = 10.0

_EVENTS_OWN: Final = frozenset({2, 9, 14, 121, 10334, 17280})
"""BadValue, FailedToParse, TypeMismatch, DocumentValidationFailure, BSONObjectTooLarge, KeyTooLong."""


class Fact(NamedTuple):
    """An event that passed its contract, what it counts, and when its service wrote it."""

    event: Event
    counts: tuple[Count, ...]
    recorded: datetime


def ensure_indexes(database: Database[Document]) -> None:
    """A number stands once; events are found from the figures that they were counted in."""
    database[EVENTS].create_index([("n", 1)], name="n", unique=True)
    database[EVENTS].create_index([("trail", 1), ("n", 1)], name="trail")


def begin(database: Database[Document]) -> None:
    """Sees to it that the counter stands at the highest number of the log."""
    last = database[EVENTS].find_one({}, {"n": 1}, sort=[("n", -1)])
    database[STATE].update_one({"_id": APPLIED}, {"$max": {"n": last["n"] if last else 0}}, upsert=True)


def apply(
    database: Database[Document],
    facts: Sequence[Fact],
    now: datetime,
    *,
    look_first: bool,
    current_at: datetime | None = None,
) -> list[Fact]:
    """Lets facts, each id once, take effect in one transaction; returns those that had not taken effect before.

    ``look_first`` leaves out what the log already has. Without it, a known event fails the whole transaction: the
    faster way as long as deliveries come once. ``current_at``: see :func:`mark_current`.

    Raises:
        pymongo.errors.PyMongoError: judge it by :func:`is_known` and :func:`is_events_own`; otherwise the outcome is
            unknown and the same facts may be applied again.
        bson.errors.InvalidDocument, OverflowError: an event cannot be stored.
    """
    with (
        pymongo.timeout(ATTEMPT_SECONDS),
        database.client.start_session() as session,
        session.start_transaction(
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern("majority", j=True),
            read_preference=ReadPreference.PRIMARY,
        ),
    ):
        fresh = _unknown(database, facts, session) if look_first else list(facts)
        if fresh:
            first = _take_numbers(database, fresh, now, current_at, session)
            rows = [_row(fact, n, now) for n, fact in enumerate(fresh, start=first)]
            database[EVENTS].insert_many(rows, session=session)
            sums = Sums()
            for fact in fresh:
                sums.add(fact.counts)
            add(database, sums.days(), sums.years(), session)
    return fresh


def is_known(error: Exception) -> bool:
    """Whether a failed :func:`apply` met an event (or a number) that the log already has."""
    return _code(error) == DUPLICATE_KEY


def is_events_own(error: Exception) -> bool:
    """Whether a failed :func:`apply` is the fault of an event, not of the database or of the moment."""
    return not isinstance(error, PyMongoError) or _code(error) in _EVENTS_OWN


def add(
    database: Database[Document], days: Mapping[Cell, int], years: Mapping[Cell, int], session: ClientSession
) -> None:
    """Adds increments to roll-ups and totals."""
    for collection, period, cells in ((ROLLUPS, "day", days), (TOTALS, "year", years)):
        if cells:
            database[collection].bulk_write(
                [_increment(cell, period, delta) for cell, delta in cells.items()], session=session
            )


def mark_current(database: Database[Document], at: datetime) -> None:
    """Notes that everything that had reached the inbox by ``at`` is in the log.

    The newest word holds, whatever it says: where the host's clock is set back, a mark from before would look
    fresh until the clock has caught up with it.
    """
    database[STATE].update_one({"_id": APPLIED}, {"$set": {"current_at": at}}, upsert=True)


def state(database: Database[Document], session: ClientSession | None = None) -> Document:
    """``n``, ``last_applied_at``, ``current_at`` and ``heard``: by service, the newest ``recordedtime``."""
    return {"n": 0, "heard": {}, **(database[STATE].find_one({"_id": APPLIED}, session=session) or {})}


def events(database: Database[Document], up_to: int) -> Iterator[Event]:
    """The log's events with ``n`` up to a number, in no order."""
    for row in database[EVENTS].find({"n": {"$lte": up_to}}, {"event": 1}, batch_size=5000):
        yield row["event"]


def _unknown(database: Database[Document], facts: Sequence[Fact], session: ClientSession) -> list[Fact]:
    ids = [fact.event["id"] for fact in facts]
    known = {row["_id"] for row in database[EVENTS].find({"_id": {"$in": ids}}, {"_id": 1}, session=session)}
    return [fact for fact in facts if fact.event["id"] not in known]


def _take_numbers(
    database: Database[Document],
    fresh: Sequence[Fact],
    now: datetime,
    current_at: datetime | None,
    session: ClientSession,
) -> int:
    """The first of as many numbers as there are fresh facts; where writers meet, before either has written more."""
    newest: dict[str, datetime] = {}
    for fact in fresh:
        source = fact.event["source"]
        if source not in newest or fact.recorded > newest[source]:
            newest[source] = fact.recorded
    # a producer whose clock runs ahead must not look fresh for longer
    later = {f"heard.{source.rsplit('/', 1)[-1]}": min(at, now) for source, at in newest.items()}
    marks = {"last_applied_at": now, **({"current_at": current_at} if current_at is not None else {})}
    counter = database[STATE].find_one_and_update(
        {"_id": APPLIED},
        {"$inc": {"n": len(fresh)}, "$set": marks, "$max": later},
        upsert=True,
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    return int(counter["n"]) - len(fresh) + 1


def _row(fact: Fact, n: int, now: datetime) -> Document:
    return {"_id": fact.event["id"], "n": n, "at": now, "trail": trail(fact.counts), "event": fact.event}


def _increment(cell: Cell, period: str, delta: int) -> UpdateOne:
    named = {"measure": cell.measure, "programme": cell.programme, "county": cell.county, period: cell.period}
    return UpdateOne({"_id": cell.key}, {"$inc": {"value": delta}, "$setOnInsert": named}, upsert=True)


def _code(error: Exception) -> int | None:
    if isinstance(error, BulkWriteError) and error.details and error.details.get("writeErrors"):
        return int(error.details["writeErrors"][0]["code"])
    return error.code if isinstance(error, OperationFailure) else None
