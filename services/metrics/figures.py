"""The plan against reality: pure. What nobody has said is unknown, never 0; what may be outdated is called stale."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from contracts.codes import CITY, REPORTING_UNITS, UNITS
from contracts.measures import MEASURES
from services.kernel import clock
from services.metrics.plan import ORDINAL, Plan, Row
from services.metrics.projections import Cell

OK, STALE, NO_SOURCE = "ok", "stale", "no_source"
LAG_MAX: Final = timedelta(minutes=1)
"""The aggregator says every few seconds that nothing waits; after a minute without, the figures may be behind."""
SILENCE_MAX: Final = timedelta(hours=36)
"""Longer than any night, shorter than two days: a service that says nothing for so long may not be running."""


@dataclass(frozen=True, slots=True)
class Knowledge:
    """What is known at a moment: every total, and how fresh that is."""

    totals: Mapping[Cell, int]
    heard: Mapping[str, datetime]
    current_at: datetime | None
    now: datetime

    @property
    def this_year(self) -> int:
        """The year that it is in Shanghai."""
        return int(clock.day(self.now)[:4])

    @property
    def is_behind(self) -> bool:
        """Whether events may wait that the figures do not hold yet."""
        return self.current_at is None or self.now - self.current_at > LAG_MAX

    def status(self, service: str) -> str:
        """Whether a service's figures hold: ok, stale, or no_source where it has never been heard of."""
        last = self.heard.get(service)
        if last is None:
            return NO_SOURCE
        return STALE if self.is_behind or self.now - last > SILENCE_MAX else OK

    def by_county(self, measure: str, year: int, *, level: bool) -> dict[str, int]:
        """A measure by county in a year, or up to its end where it is a level; counties without counts have 0."""
        found = dict.fromkeys(REPORTING_UNITS, 0)
        for cell, value in self.totals.items():
            if cell.measure == measure and (cell.period <= str(year) if level else cell.period == str(year)):
                found[cell.county] = found.get(cell.county, 0) + value
        return found


@dataclass(frozen=True, slots=True)
class Figure:
    """One row of the plan with what was reached; ``by_county`` None: nobody has said anything yet."""

    row: Row
    status: str
    by_county: Mapping[str, int] | None

    @property
    def actual(self) -> int | None:
        """Reached so far, over all counties."""
        return None if self.by_county is None else sum(self.by_county.values())

    @property
    def percent(self) -> float | None:
        """Of the target, rounded down to a tenth (100 is reached, not nearly so); of an ordinal, 0 or 100."""
        if self.actual is None or self.row.target is None:
            return None
        if self.row.kind == ORDINAL:
            return 100.0 if self.actual >= self.row.target else 0.0
        return self.actual * 1000 // self.row.target / 10


def figures(plan: Plan, known: Knowledge) -> list[Figure]:
    """Every row of a plan."""
    return [_figure(row, plan.year, known) for row in plan.rows]


def _figure(row: Row, year: int, known: Knowledge) -> Figure:
    status = known.status(row.service)
    if status == NO_SOURCE:
        return Figure(row, status, None)
    return Figure(row, status, known.by_county(row.measure, year, level=row.is_level))


def county_name(code: str) -> str:
    """A county's Chinese name; the city's own figures stand under 市本级."""
    return "市本级" if code == CITY else UNITS[code].zh


def freshness(known: Knowledge, services: list[str]) -> dict[str, Any]:
    """How fresh the figures are, as a whole and by service."""
    return {
        "as_of": known.now,
        "current_at": known.current_at,
        "behind": known.is_behind,
        "services": [
            {
                "service": service,
                "status": known.status(service),
                "last_recorded": known.heard.get(service),
                "age_seconds": _age(known, service),
            }
            for service in services
        ],
    }


def _age(known: Knowledge, service: str) -> int | None:
    last = known.heard.get(service)
    return None if last is None else max(0, int((known.now - last).total_seconds()))


def levels(known: Knowledge) -> dict[Cell, int]:
    """Every measure by year: totals as they are, and for stock measures the level at each year's end (or now)."""
    found: dict[Cell, int] = {}
    for cell, value in known.totals.items():
        measure = MEASURES.get(cell.measure)
        first = int(cell.period)
        for year in range(first, max(first, known.this_year) + 1 if measure and measure.stock else first + 1):
            later = cell._replace(period=str(year))
            found[later] = found.get(later, 0) + value
    return found
