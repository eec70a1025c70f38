"""The metrics service's table of contents: every address, who may call it, which use case answers."""

from typing import Any, Final

from prometheus_client import REGISTRY
from pymongo.errors import PyMongoError

from contracts.catalogue import CATALOGUE, METRICS
from contracts.describe import describe
from services.kernel import body, logging, mongo, openapi, web
from services.kernel.fields import page_of
from services.kernel.host import run_service
from services.kernel.http import Answer, AppProvider, Call, endpoint
from services.kernel.process import await_database
from services.kernel.settings import Settings
from services.metrics import handlers, pages, schemas
from services.metrics.app import Metrics
from services.metrics.exporter import PlanCollector
from services.metrics.figures import figures

BASE: Final = "/api/v1/metrics"
SVG: Final = "image/svg+xml"
OFFICERS: Final = frozenset({"unit_officer", "county_officer", "city_officer"})


class MetricsService:
    """The year's plan against reality, and the figures behind it."""

    name = METRICS
    app: Any = AppProvider()

    @endpoint(
        "GET", f"{BASE}/plan/<year>", "A year's plan: target and actual, by county", answers={200: schemas.PlanOut}
    )
    def get_plan(self, call: Call) -> Answer:
        shown = handlers.show_plan(call.app.database, call.app.plans, call.path["year"], call.now)
        return Answer(schemas.PlanOut().dump(shown))

    @endpoint("GET", f"{BASE}/freshness", "How fresh the figures are", answers={200: schemas.Freshness})
    def get_freshness(self, call: Call) -> Answer:
        return Answer(schemas.Freshness().dump(handlers.show_freshness(call.app.database, call.app.plans, call.now)))

    @endpoint(
        "GET",
        f"{BASE}/rollups",
        "A measure by day and county",
        query=schemas.RollupQuery,
        answers={200: page_of(schemas.RollupOut)},
    )
    def get_rollups(self, call: Call) -> Answer:
        rows, following = handlers.list_rollups(call.app.database, call.query)
        return Answer({"items": schemas.RollupOut(many=True).dump(rows), "next": following})

    @endpoint(
        "GET",
        f"{BASE}/series",
        "A measure by day, of one county or over all",
        query=schemas.SeriesQuery,
        answers={200: schemas.SeriesOut},
    )
    def get_series(self, call: Call) -> Answer:
        return Answer(schemas.SeriesOut().dump(handlers.show_series(call.app.database, call.query)))

    @endpoint(
        "GET",
        f"{BASE}/events",
        "The events behind a figure of your district",
        query=schemas.EventQuery,
        answers={200: schemas.EventsPage},
        roles=OFFICERS,
        conflicts=(404,),
    )
    def get_events(self, call: Call) -> Answer:
        return Answer(handlers.list_events(call.app.database, call.caller, call.query))

    @endpoint("GET", f"{BASE}/openapi.json", "This document", answers={200: None}, limited=False)
    def get_openapi(self, call: Call) -> Answer:
        del call
        return Answer(DOCUMENT, headers={"Cache-Control": "public, max-age=60"})

    @endpoint("GET", "/", "The plan today", answers={200: None}, media_type=web.HTML)
    def get_board(self, call: Call) -> Answer:
        try:
            known, plan = handlers.this_years_plan(call.app.database, call.app.plans, call.now)
        except PyMongoError as error:
            logging.get().warning("board_without_figures", exc_info=error)
            return web.html(pages.unavailable(), 503, {"Retry-After": "5"})
        return web.html(pages.board(known, plan, figures(plan, known) if plan else ()))

    @endpoint("GET", "/docs", "The HTTP API for people", answers={200: None}, media_type=web.HTML)
    def get_docs(self, call: Call) -> Answer:
        del call
        return web.html(DOCS_PAGE)

    @endpoint("GET", "/docs/metrics", "The API of metrics for people", answers={200: None}, media_type=web.HTML)
    def get_api_docs(self, call: Call) -> Answer:
        del call
        return web.html(API_PAGE)

    @endpoint("GET", "/docs/events", "The events for people", answers={200: None}, media_type=web.HTML)
    def get_event_docs(self, call: Call) -> Answer:
        del call
        return web.html(EVENTS_PAGE)

    @endpoint("GET", web.STYLE_PATH, "The pages' style", answers={200: None}, media_type="text/css", limited=False)
    def get_style(self, call: Call) -> Answer:
        del call
        return web.asset(web.STYLE, "text/css")

    @endpoint("GET", web.ICON_PATH, "The pages' icon", answers={200: None}, media_type=SVG, limited=False)
    def get_icon(self, call: Call) -> Answer:
        del call
        return web.asset(web.ICON, SVG)


_DESCRIBED: Final = openapi.document(
    METRICS,
    "E-Station: metrics (统计)",
    "The year's plan against what the services' events prove; every figure down to its events.",
    openapi.endpoints(MetricsService),
)
DOCUMENT: Final = body.dumps(_DESCRIBED)
API_PAGE: Final = web.api_page("统计 metrics", _DESCRIBED)
DOCS_PAGE: Final = pages.api(sorted({METRICS, *CATALOGUE.owners}))
EVENTS_PAGE: Final = pages.events(describe())


def run(settings: Settings) -> None:
    """The process ``service metrics``."""
    database = mongo.connect(settings, METRICS, "service")
    await_database(database)
    app = Metrics(settings, database)
    REGISTRY.register(PlanCollector(database, app.plans, app.clock))
    run_service(MetricsService, app)
