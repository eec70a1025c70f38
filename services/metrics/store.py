"""Every query of those who read the figures: levels for plan and exporter, pages of roll-ups, series, events."""

from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.database import Database

from contracts.codes import REPORTING_UNITS
from contracts.envelope import Event
from contracts.measures import MEASURES
from services.kernel import clock, sessions
from services.kernel.errors import BadRequest
from services.kernel.mongo import Document
from services.metrics import log
from services.metrics.figures import Knowledge
from services.metrics.projections import SEPARATOR, Cell, drill

_ROLLUP: Final = {"_id": 1, "measure": 1, "programme": 1, "county": 1, "day": 1, "value": 1}


def ensure_indexes(database: Database[Document]) -> None:
    """Creates the indexes of every collection (``estation migrate``)."""
    log.ensure_indexes(database)
    database[log.ROLLUPS].create_index([("measure", 1), ("day", 1), ("_id", 1)], name="measure_day")


def knowledge(database: Database[Document], now: datetime) -> Knowledge:
    """All totals (one a measure, programme, county and year: the vocabulary bounds their number), and how fresh."""
    state = log.state(database)
    totals = {
        Cell(row["measure"], row["programme"], row["county"], row["year"]): row["value"]
        for row in database[log.TOTALS].find({}, {"_id": 0})
    }
    return Knowledge(totals, state["heard"], state.get("current_at"), now)


def rollups(
    database: Database[Document],
    measure: str,
    county: str | None,
    first_day: str,
    last_day: str,
    *,
    limit: int,
    cursor: str,
) -> tuple[list[Document], str | None]:
    """A measure's roll-ups of one county (None: of all), by day, after ``cursor``; and the next cursor.

    Raises:
        BadRequest: the cursor is not one of ours.
    """
    where: Document = {"measure": measure, "day": {"$gte": first_day, "$lte": last_day}}
    if county is not None:
        where["county"] = county
    if cursor:
        parts = cursor.split(SEPARATOR)
        if len(parts) != len(Cell._fields):
            raise BadRequest("bad_cursor")
        day = parts[-1]
        where["$or"] = [{"day": {"$gt": day}}, {"day": day, "_id": {"$gt": cursor}}]
    found = database[log.ROLLUPS].find(where, _ROLLUP).sort([("day", 1), ("_id", 1)]).limit(limit + 1)
    rows = list(found)
    return rows[:limit], rows[limit - 1]["_id"] if len(rows) > limit else None


def series(
    database: Database[Document], measure: str, county: str | None, first_day: str, last_day: str
) -> list[tuple[str, int]]:
    """(day, value) of one county (None: over all) for each day that was counted on.

    A stock measure's value is its level at the end of that day; where it changed before ``first_day`` only, its level
    on that day is the first point.
    """
    where: Document = {"measure": measure, "day": {"$lte": last_day}}
    stock = MEASURES[measure].stock
    if not stock:
        where["day"]["$gte"] = first_day
    if county is not None:
        where["county"] = county
    group: list[Document] = [
        {"$match": where},
        {"$group": {"_id": "$day", "value": {"$sum": "$value"}}},
        {"$sort": {"_id": 1}},
    ]
    points: dict[str, int] = {}
    level = 0
    for row in database[log.ROLLUPS].aggregate(group):
        level = level + row["value"] if stock else row["value"]
        points[max(first_day, row["_id"])] = level
    return list(points.items())


def events(
    database: Database[Document], measure: str, county: str, day: str, *, limit: int, cursor: int
) -> tuple[list[Event], int | None]:
    """The events that were counted in one figure, in the order they were applied, after ``cursor``; the next cursor."""
    where: dict[str, Any] = {"trail": drill(measure, county, day), "n": {"$gt": cursor}}
    rows = list(database[log.EVENTS].find(where, {"n": 1, "event": 1}).sort("n", 1).limit(limit + 1))
    return [row["event"] for row in rows[:limit]], rows[limit - 1]["n"] if len(rows) > limit else None


def revoked_sessions(database: Database[Document], now: datetime) -> set[str]:
    """The logins that have ended while tokens of theirs may still be good: the log knows, nothing else is kept."""
    since = now - timedelta(seconds=sessions.KEEP_SECONDS)
    days = {clock.day(since), clock.day(now)}
    counted = [drill("people.revocations", county, day) for county in REPORTING_UNITS for day in days]
    where = {"trail": {"$in": counted}, "event.recordedtime": {"$gte": clock.rfc3339(since)}}
    return {row["event"]["data"]["session"] for row in database[log.EVENTS].find(where, {"event.data.session": 1})}
