"""Use cases of metrics: what readers ask of the figures. One function each; nothing is written here."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.database import Database

from contracts.catalogue import PUBLISHING
from contracts.codes import CITY
from contracts.measures import MEASURES
from services.kernel.auth import Actor
from services.kernel.errors import BadRequest, NotFound
from services.kernel.mongo import Document
from services.metrics import figures, store
from services.metrics.figures import Figure, Knowledge, county_name
from services.metrics.plan import Plan, Plans

CURSOR_DIGITS: Final = 15


def show_plan(database: Database[Document], plans: Plans, year: str, now: datetime) -> dict[str, Any]:
    """A year's plan against reality.

    Raises:
        NotFound: the year has no plan, or is no year.
    """
    known = store.knowledge(database, now)
    plan = plans.of(int(year), known.this_year) if is_year(year) else None
    if plan is None:
        raise NotFound
    return {
        "year": plan.year,
        "targets_of": plan.targets_of,
        "federation": plan.federation,
        "freshness": figures.freshness(known, services_of(plan)),
        "rows": [_row(figure) for figure in figures.figures(plan, known)],
    }


def this_years_plan(database: Database[Document], plans: Plans, now: datetime) -> tuple[Knowledge, Plan | None]:
    """What is known now, and the plan to hold it against."""
    known = store.knowledge(database, now)
    return known, plans.of(known.this_year, known.this_year)


def show_freshness(database: Database[Document], plans: Plans, now: datetime) -> dict[str, Any]:
    """How fresh the figures of every service are that publishes or is promised."""
    known, plan = this_years_plan(database, plans, now)
    return figures.freshness(known, services_of(plan))


def list_rollups(database: Database[Document], query: Mapping[str, Any]) -> tuple[list[Document], str | None]:
    """One page of a measure's roll-ups, by day.

    Raises:
        BadRequest: the cursor is not one of ours.
    """
    return store.rollups(
        database,
        query["measure"],
        query.get("county"),
        query["first_day"],
        query["last_day"],
        limit=query["limit"],
        cursor=query["cursor"],
    )


def show_series(database: Database[Document], query: Mapping[str, Any]) -> dict[str, Any]:
    """A measure over days."""
    measure = MEASURES[query["measure"]]
    points = store.series(database, measure.key, query.get("county"), query["first_day"], query["last_day"])
    return {
        "measure": measure.key,
        "zh": measure.zh,
        "unit": measure.unit,
        "stock": measure.stock,
        "points": [{"day": day, "value": value} for day, value in points],
    }


def list_events(database: Database[Document], actor: Actor, query: Mapping[str, Any]) -> dict[str, Any]:
    """One page of the events that were counted in a figure of the actor's district.

    Raises:
        NotFound: not the actor's district.
        BadRequest: the cursor is not one of ours.
    """
    if query["county"] not in actor.counties and actor.scope != CITY:
        raise NotFound
    cursor = query["cursor"] or "0"
    if not (cursor.isascii() and cursor.isdecimal() and len(cursor) <= CURSOR_DIGITS):
        raise BadRequest("bad_cursor")
    items, following = store.events(
        database, query["measure"], query["county"], query["day"], limit=query["limit"], cursor=int(cursor)
    )
    return {"items": items, "next": None if following is None else str(following)}


def services_of(plan: Plan | None) -> list[str]:
    """The services that publish today or that a plan counts on."""
    promised = (row.service for row in plan.rows) if plan else ()
    return sorted({*PUBLISHING, *promised})


def is_year(text: str) -> bool:
    """Whether the text is a year with four digits."""
    return len(text) == 4 and text.isascii() and text.isdecimal()  # noqa: PLR2004


def _row(figure: Figure) -> dict[str, Any]:
    row = figure.row
    return {
        "key": row.key,
        "zh": row.zh,
        "en": row.en,
        "unit": row.unit,
        "kind": row.kind,
        "service": row.service,
        "measure": row.measure,
        "target": row.target,
        "actual": figure.actual,
        "percent": figure.percent,
        "by_county": [
            {"county": county, "zh": county_name(county), "actual": value}
            for county, value in (figure.by_county or {}).items()
        ],
        "status": figure.status,
    }
