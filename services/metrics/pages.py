"""What people see of metrics: the board, the documents of the API and of the events."""

from collections.abc import Iterable

from contracts.catalogue import METRICS
from contracts.codes import UNITS
from contracts.describe import EventDescription
from services.kernel import web
from services.kernel.http import Answer, Call
from services.metrics.figures import Figure, Knowledge
from services.metrics.plan import Plan


def board(call: Call, known: Knowledge, plan: Plan | None, figures: Iterable[Figure]) -> Answer:
    """The landing page: the year's plan today, what runs here, where to read on."""
    return web.page(
        call, "board.html", year=known.this_year, known=known, plan=plan, figures=list(figures), units=UNITS
    )


def unavailable(call: Call) -> Answer:
    """The landing page without its database: no figures rather than old ones."""
    return web.page(call, "unavailable.html", status=503, headers={"Retry-After": "5"})


def docs(call: Call, services: Iterable[str]) -> Answer:
    """Where each service's API is described: its own page, but that of metrics stands under /docs."""
    places = {name: "/docs/metrics" if name == METRICS else f"/{name}/docs" for name in services}
    return web.page(call, "docs.html", places_of=places)


def events(call: Call, descriptions: Iterable[EventDescription]) -> Answer:
    """Every event that the services publish, with its fields."""
    return web.page(call, "events.html", events=list(descriptions))
