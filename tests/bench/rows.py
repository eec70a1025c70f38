"""A line of the table: what was measured, against what, the goal, whether it was reached; and how it is shown."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any, Final

HEAD: Final = ("figure", "measured", "against", "ratio", "goal", "reached")


@dataclass(frozen=True, slots=True)
class Goal:
    """A bound on the ratio, or on the figure itself where it is measured against nothing."""

    sign: str
    """``>=`` or ``<``."""
    bound: float

    def is_reached(self, value: float) -> bool:
        """Whether a value lies on the right side."""
        return value >= self.bound if self.sign == ">=" else value < self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass(frozen=True, slots=True)
class Row:
    """One line: a value a round, and what it is measured against in the same rounds."""

    figure: str
    unit: str
    values: Sequence[float]
    against: str = ""
    reference: Sequence[float] = ()
    goal: Goal | None = None
    note: str = ""
    samples: Mapping[str, Any] = field(default_factory=dict)
    """Whatever else was seen; goes to the JSON file only."""

    @property
    def median(self) -> float:
        """Of all rounds."""
        return median(self.values)

    @property
    def ratio(self) -> float | None:
        """The median of the rounds' ratios; None where it is measured against nothing."""
        if not self.reference:
            return None
        return median(
            value / other if other else float("inf") for value, other in zip(self.values, self.reference, strict=True)
        )

    @property
    def reached(self) -> bool | None:
        """Whether the goal was reached; None where there is none."""
        if self.goal is None:
            return None
        return self.goal.is_reached(self.median if self.ratio is None else self.ratio)

    def cells(self) -> tuple[str, ...]:
        """The line as it is printed."""
        spread = f" [{number(min(self.values))}..{number(max(self.values))}]" if len(self.values) > 1 else ""
        against = f"{self.against} {number(median(self.reference))}" if self.reference else self.against
        return (
            self.figure,
            f"{number(self.median)}{spread} {self.unit}" + (f" ({self.note})" if self.note else ""),
            against,
            "" if self.ratio is None else f"{self.ratio:.2f}",
            str(self.goal or ""),
            {None: "", True: "yes", False: "NO"}[self.reached],
        )

    def document(self) -> dict[str, Any]:
        """The line for machines."""
        return {
            "figure": self.figure,
            "unit": self.unit,
            "values": list(self.values),
            "median": self.median,
            "against": self.against,
            "reference": list(self.reference),
            "ratio": self.ratio,
            "goal": str(self.goal) if self.goal else None,
            "reached": self.reached,
            "note": self.note,
            "samples": dict(self.samples),
        }


def number(value: float) -> str:
    """With as many digits as mean something: 12,345 and 67.8 and 0.91."""
    digits = 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2
    return f"{value:,.{digits}f}"


def table(rows: Iterable[Row]) -> str:
    """All lines, in columns; Markdown, too."""
    lines = [HEAD, *(row.cells() for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(HEAD))]
    shown = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)) + " |" for line in lines
    ]
    return "\n".join([shown[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *shown[1:]])
