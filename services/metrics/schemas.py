"""Shapes of HTTP input and output of metrics."""

from typing import Any, Final

from marshmallow import ValidationError, fields, validates_schema

from contracts.codes import PLACES
from contracts.measures import MEASURES
from services.kernel.fields import Out, choice, day
from services.kernel.http import Page, ReadQuery
from services.metrics.figures import NO_SOURCE, OK, STALE
from services.metrics.plan import KINDS

FIRST_DAY: Final = "2000-01-01"
LAST_DAY: Final = "2099-12-31"
STATUSES: Final = (OK, STALE, NO_SOURCE)


class _Days(ReadQuery):
    """A measure over some days, both included, in one county or all of them."""

    measure = choice(MEASURES, required=True)
    county = choice(PLACES)
    first_day = day(data_key="from", load_default=FIRST_DAY)
    last_day = day(data_key="to", load_default=LAST_DAY)

    @validates_schema
    def refuse_backward(self, data: dict[str, Any], **_kwargs: object) -> None:
        """The first day comes first."""
        if data["last_day"] < data["first_day"]:
            raise ValidationError("out_of_range", "to")


class SeriesQuery(_Days):
    """What to draw."""


class RollupQuery(_Days, Page):
    """Which roll-ups."""


class EventQuery(Page):
    """The figure to look behind."""

    measure = choice(MEASURES, required=True)
    county = choice(PLACES, required=True)
    day = day(required=True)


class CountyFigure(Out):
    """A county's part."""

    county = fields.String(required=True)
    zh = fields.String(required=True)
    actual = fields.Integer(required=True)


class PlanRow(Out):
    """A programme of the plan; null: not known (``actual``) or not set (``target``). ``percent`` is rounded down."""

    key = fields.String(required=True)
    zh = fields.String(required=True)
    en = fields.String(required=True)
    unit = fields.String(required=True)
    kind = choice(KINDS, required=True)
    service = fields.String(required=True)
    measure = fields.String(required=True)
    target = fields.Integer(required=True, allow_none=True)
    actual = fields.Integer(required=True, allow_none=True)
    percent = fields.Float(required=True, allow_none=True)
    by_county = fields.List(fields.Nested(CountyFigure), required=True)
    status = choice(STATUSES, required=True)


class ServiceFreshness(Out):
    """When a service was last heard of; null: never."""

    service = fields.String(required=True)
    status = choice(STATUSES, required=True)
    last_recorded = fields.AwareDateTime(required=True, allow_none=True)
    age_seconds = fields.Integer(required=True, allow_none=True)


class Freshness(Out):
    """What the figures know: everything that had reached the inbox by ``current_at``."""

    as_of = fields.AwareDateTime(required=True)
    current_at = fields.AwareDateTime(required=True, allow_none=True)
    behind = fields.Boolean(required=True)
    services = fields.List(fields.Nested(ServiceFreshness), required=True)


class Federation(Out):
    """Whose plan it is."""

    code = fields.String(required=True)
    zh = fields.String(required=True)
    en = fields.String(required=True)


class PlanOut(Out):
    """A year's plan and what was reached; ``targets_of``: the year whose published plan the targets are."""

    year = fields.Integer(required=True)
    targets_of = fields.Integer(required=True)
    federation = fields.Nested(Federation, required=True)
    freshness = fields.Nested(Freshness, required=True)
    rows = fields.List(fields.Nested(PlanRow), required=True)


class RollupOut(Out):
    """A figure of one day."""

    measure = fields.String(required=True)
    programme = fields.String(required=True)
    county = fields.String(required=True)
    day = fields.String(required=True)
    value = fields.Integer(required=True)


class Point(Out):
    """A day that was counted on."""

    day = fields.String(required=True)
    value = fields.Integer(required=True)


class SeriesOut(Out):
    """A measure by day; of a stock measure, the level at the end of the day."""

    measure = fields.String(required=True)
    zh = fields.String(required=True)
    unit = fields.String(required=True)
    stock = fields.Boolean(required=True)
    points = fields.List(fields.Nested(Point), required=True)


class EventsPage(Out):
    """Events as their service published them (CloudEvents)."""

    items = fields.List(fields.Dict(keys=fields.String()), required=True)
    next = fields.String(required=True, allow_none=True)
