"""From counts to sums: which roll-up and which total a count adds to. Pure; order of events does not matter."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from contracts.measures import Count

SEPARATOR: Final = "|"


class Cell(NamedTuple):
    """One figure: a measure of a programme in a county, over ``period`` (a day, YYYY-MM-DD, or a year, YYYY)."""

    measure: str
    programme: str
    county: str
    period: str

    @property
    def key(self) -> str:
        """The figure's document id."""
        return SEPARATOR.join(self)


@dataclass(slots=True)
class Sums:
    """Increments by day and by year; a cell whose counts cancel out stays, with 0: it has been counted."""

    days: dict[Cell, int] = field(default_factory=dict)
    years: dict[Cell, int] = field(default_factory=dict)

    def add(self, counts: Iterable[Count]) -> None:
        """Adds counts on their day and in the year of that day."""
        for count in counts:
            day = Cell(count.measure, count.programme, count.county, count.day)
            self.days[day] = self.days.get(day, 0) + count.delta
            year = Cell(count.measure, count.programme, count.county, count.day[:4])
            self.years[year] = self.years.get(year, 0) + count.delta


def trail(counts: Iterable[Count]) -> list[str]:
    """Where an event was counted, as ``measure|county|day``: the way from a figure down to its events."""
    return sorted({drill(count.measure, count.county, count.day) for count in counts})


def drill(measure: str, county: str, day: str) -> str:
    """One entry of :func:`trail`."""
    return SEPARATOR.join((measure, county, day))
