"""From counts to sums: which roll-up and which total a count adds to. Pure; order of events does not matter."""

from collections.abc import Iterable
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


class Sums:
    """What counts add up to; a figure whose counts cancel out stays, with 0: it has been counted."""

    def __init__(self) -> None:
        self._days: dict[tuple[str, str, str, str], int] = {}

    def add(self, counts: Iterable[Count]) -> None:
        """Adds counts."""
        for count in counts:
            cell = (count.measure, count.programme, count.county, count.day)
            self._days[cell] = self._days.get(cell, 0) + count.delta

    def days(self) -> dict[Cell, int]:
        """By day."""
        return {Cell(*cell): value for cell, value in self._days.items()}

    def years(self) -> dict[Cell, int]:
        """By the year of the day."""
        found: dict[Cell, int] = {}
        for (measure, programme, county, day), value in self._days.items():
            cell = Cell(measure, programme, county, day[:4])
            found[cell] = found.get(cell, 0) + value
        return found


def trail(counts: Iterable[Count]) -> list[str]:
    """Where an event was counted, as ``measure|county|day``: the way from a figure down to its events."""
    return sorted({drill(count.measure, count.county, count.day) for count in counts})


def drill(measure: str, county: str, day: str) -> str:
    """One entry of :func:`trail`."""
    return f"{measure}|{county}|{day}"
