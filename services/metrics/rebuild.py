"""Proves roll-ups and totals against the log, to the digit, and mends them, while the aggregator keeps counting.

One snapshot gives the counter ``n`` and all figures; they must be what the events numbered 1 to ``n`` add up to.
Mending adds the difference: additions commute with whatever is counted meanwhile. It works from nothing, too.
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final

from pymongo import DeleteOne
from pymongo.client_session import ClientSession
from pymongo.database import Database

from contracts.catalogue import CATALOGUE, Catalogue
from services.kernel.mongo import Document, transaction
from services.metrics import log
from services.metrics.projections import Cell, Sums

REBUILT: Final = "rebuilt"
CHUNK: Final = 500


class RebuildError(Exception):
    """Not mended, or not wholly; says what to do."""


@dataclass(frozen=True, slots=True)
class Difference:
    """A figure that is not what the log says; None: there is no such document."""

    collection: str
    cell: Cell
    expected: int | None
    found: int | None

    @property
    def missing(self) -> int:
        """What has to be added."""
        return (self.expected or 0) - (self.found or 0)

    def __str__(self) -> str:
        return f"{self.collection} {self.cell.key}: log {self.expected}, found {self.found}"


@dataclass(frozen=True, slots=True)
class Report:
    """What was compared, and what did not agree.

    ``events`` were read of the ``n`` that the counter had handed out: fewer means that the log itself has lost some.
    ``repairs``: how often figures had been mended when the snapshot was taken.
    """

    n: int
    events: int
    rollups: int
    totals: int
    differences: tuple[Difference, ...]
    repairs: int
    seconds: float

    @property
    def agrees(self) -> bool:
        """Whether every figure is what the log says, and the log is whole."""
        return not self.differences and self.events == self.n


def check(database: Database[Document], events: Catalogue = CATALOGUE) -> Report:
    """Compares every roll-up and total with the log.

    Raises:
        pymongo.errors.PyMongoError: the database is away.
    """
    started = time.perf_counter()
    n, repairs, days, years = _snapshot(database)
    sums, read = Sums(), 0
    for event in log.events(database, n):
        sums.add(events.counts(event))
        read += 1
    differences = (*_compare(log.ROLLUPS, sums.days(), days), *_compare(log.TOTALS, sums.years(), years))
    return Report(n, read, len(days), len(years), differences, repairs, time.perf_counter() - started)


def repair(database: Database[Document], events: Catalogue = CATALOGUE) -> Report:
    """Compares, then adds the differences to the figures; reports what was mended.

    Raises:
        RebuildError: the log has gaps, so that it proves nothing; or somebody else mended figures meanwhile.
        pymongo.errors.PyMongoError: the database is away; what is mended stays mended.
    """
    report = check(database, events)
    mend(database, report)
    return report


def mend(database: Database[Document], report: Report) -> None:
    """Adds the differences of a report to the figures.

    Raises:
        RebuildError: as :func:`repair`.
    """
    if report.events != report.n:
        raise RebuildError(f"the log holds {report.events} of {report.n} events: restore it from a backup first")
    for number, start in enumerate(range(0, len(report.differences), CHUNK)):
        chunk = report.differences[start : start + CHUNK]
        transaction(database, partial(_mend, database, report.repairs + number, chunk))


def _mend(database: Database[Document], repairs: int, chunk: Sequence[Difference], session: ClientSession) -> None:
    # the same difference added twice would be a new one: whoever mends takes the next number
    taken = database[log.STATE].update_one(
        {"_id": REBUILT, "repairs": repairs}, {"$inc": {"repairs": 1}}, session=session
    )
    if not taken.matched_count:
        raise RebuildError("somebody else has mended figures meanwhile: check again")
    log.add(
        database,
        {one.cell: one.missing for one in chunk if one.collection == log.ROLLUPS},
        {one.cell: one.missing for one in chunk if one.collection == log.TOTALS},
        session,
    )
    for collection in (log.ROLLUPS, log.TOTALS):
        surplus = [one.cell.key for one in chunk if one.collection == collection and one.expected is None]
        if surplus:
            database[collection].bulk_write([DeleteOne({"_id": key, "value": 0}) for key in surplus], session=session)


def _snapshot(database: Database[Document]) -> tuple[int, int, dict[Cell, int], dict[Cell, int]]:
    database[log.STATE].update_one({"_id": REBUILT}, {"$setOnInsert": {"repairs": 0}}, upsert=True)
    with database.client.start_session(snapshot=True) as session:
        n = log.state(database, session)["n"]
        rebuilt = database[log.STATE].find_one({"_id": REBUILT}, session=session)
        days = {_cell(row, "day"): row["value"] for row in database[log.ROLLUPS].find({}, session=session)}
        years = {_cell(row, "year"): row["value"] for row in database[log.TOTALS].find({}, session=session)}
    return n, rebuilt["repairs"] if rebuilt else 0, days, years


def _cell(row: Document, period: str) -> Cell:
    return Cell(row["measure"], row["programme"], row["county"], row[period])


def _compare(collection: str, expected: Mapping[Cell, int], found: Mapping[Cell, int]) -> list[Difference]:
    return [
        Difference(collection, cell, expected.get(cell), found.get(cell))
        for cell in sorted({*expected, *found})
        if expected.get(cell) != found.get(cell)
    ]
