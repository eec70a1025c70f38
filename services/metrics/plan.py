"""The year's plan as the federation published it: contracts/plan/<year>.yaml, checked as a whole when read."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import yaml
from marshmallow import RAISE, Schema, ValidationError, fields, post_load, validate

import contracts

FOLDER: Final = Path(contracts.__file__).parent / "plan"
SUM, STOCK, ORDINAL = "sum", "stock", "ordinal"
KINDS: Final = (SUM, STOCK, ORDINAL)


@dataclass(frozen=True, slots=True)
class Row:
    """One programme that events prove; ``target`` None: the plan names it without a figure."""

    key: str
    zh: str
    en: str
    target: int | None
    unit: str
    service: str
    measure: str
    kind: str

    @property
    def is_level(self) -> bool:
        """Whether the actual figure adds up over all years, not over one."""
        return self.kind != SUM


@dataclass(frozen=True, slots=True)
class Plan:
    """A year's plan; ``targets_of`` is the year whose file its targets come from."""

    year: int
    targets_of: int
    federation: Mapping[str, str]
    rows: tuple[Row, ...]


class _Strict(Schema):
    class Meta:
        unknown = RAISE


class _Names(_Strict):
    zh = fields.String(required=True, validate=validate.Length(1, 60))
    en = fields.String(required=True, validate=validate.Length(1, 100))


class _Programme(_Names):
    key = fields.String(required=True, validate=validate.Regexp(r"^[a-z]+\.[a-z0-9_]+\Z"))
    target = fields.Integer(required=True, allow_none=True, strict=True, validate=validate.Range(1))
    unit = fields.String(required=True, validate=validate.Length(1, 10))
    note = fields.String()


class _Measured(_Programme):
    service = fields.String(required=True, validate=validate.Regexp(r"^[a-z]+\Z"))
    measure = fields.String(required=True, validate=validate.Regexp(r"^[a-z]+\.[a-z0-9_]+\Z"))
    kind = fields.String(required=True, validate=validate.OneOf(KINDS))
    event = fields.String(required=True)
    minus = fields.String(required=True, allow_none=True)

    @post_load
    def to_row(self, data: dict[str, Any], **_kwargs: object) -> Row:
        """Leaves out what only readers of the file need."""
        return Row(**{name: data[name] for name in Row.__slots__})


class _Milestone(_Programme):
    per = fields.String(validate=validate.OneOf(["county"]))


class _Federation(_Names):
    code = fields.String(required=True, validate=validate.Regexp(r"^[0-9]{6}\Z"))


class _File(_Strict):
    year = fields.Integer(required=True, strict=True)
    federation = fields.Nested(_Federation, required=True)
    source = fields.Dict(required=True)
    counties = fields.List(fields.String(), required=True)
    measured = fields.List(fields.Nested(_Measured), required=True, validate=validate.Length(1))
    milestones = fields.List(fields.Nested(_Milestone), required=True)


class PlanError(ValueError):
    """A plan's file does not hold what it must; says the file and the fields."""


class Plans:
    """Every plan there is, read once."""

    def __init__(self, folder: Path = FOLDER) -> None:
        """Reads all files.

        Raises:
            PlanError: a file is not a plan, or is named after another year.
        """
        self._plans = {plan.year: plan for plan in map(_read, sorted(folder.glob("*.yaml")))}

    def of(self, year: int, this_year: int) -> Plan | None:
        """The plan of a year; None before the first plan, and for a coming year that has none of its own.

        A year without a file takes the targets of the latest earlier plan: the federation promises them every year.
        An ordinal is no promise of every year (the 17th edition is held once): its target is not carried over.
        """
        if year in self._plans:
            return self._plans[year]
        earlier = [plan for plan in self._plans.values() if plan.year < year <= this_year]
        if not earlier:
            return None
        latest = max(earlier, key=lambda plan: plan.year)
        rows = tuple(_carried(row) for row in latest.rows)
        return Plan(year, latest.year, latest.federation, rows)

    def years(self, this_year: int) -> Iterable[int]:
        """The years that have a plan, up to now."""
        return range(min(self._plans, default=this_year + 1), this_year + 1)


def _carried(row: Row) -> Row:
    if row.kind != ORDINAL:
        return row
    return Row(row.key, row.zh, row.en, None, row.unit, row.service, row.measure, row.kind)


def _read(path: Path) -> Plan:
    try:
        loaded = _File().load(yaml.safe_load(path.read_text("utf-8")))
    except (ValidationError, yaml.YAMLError) as error:
        raise PlanError(f"{path.name}: {error}") from error
    if path.stem != str(loaded["year"]):
        raise PlanError(f"{path.name}: holds the plan of {loaded['year']}")
    return Plan(loaded["year"], loaded["year"], loaded["federation"], tuple(loaded["measured"]))
