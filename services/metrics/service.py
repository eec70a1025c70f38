"""The metrics service's table of contents: every address, who may call it, which use case answers."""

from typing import Any, Final

from prometheus_client import REGISTRY
from pymongo.errors import PyMongoError

from contracts.catalogue import METRICS, PUBLISHING
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
DESIGNED: Final = "<any(form,refused,confirm,problem):part>"
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
            return pages.unavailable(call)
        return pages.board(call, known, plan, figures(plan, known) if plan else ())

    @endpoint("GET", "/docs", "The HTTP API for people", answers={200: None}, media_type=web.HTML)
    def get_docs(self, call: Call) -> Answer:
        return pages.docs(call, sorted({METRICS, *PUBLISHING}))

    @endpoint("GET", "/docs/metrics", "The API of metrics for people", answers={200: None}, media_type=web.HTML)
    def get_api_docs(self, call: Call) -> Answer:
        return web.api(call, {"zh": "统计 metrics", "en": "Metrics"}, _DESCRIBED)

    @endpoint("GET", "/docs/events", "The events for people", answers={200: None}, media_type=web.HTML)
    def get_event_docs(self, call: Call) -> Answer:
        return pages.events(call, describe())

    @endpoint("GET", "/docs/design", "Every part of the pages' frame", answers={200: None}, media_type=web.HTML)
    def get_design(self, call: Call) -> Answer:
        return web.design_page(call)

    @endpoint("GET", f"/docs/design/{DESIGNED}", "A form of the frame", answers={200: None}, media_type=web.HTML)
    def get_designed(self, call: Call) -> Answer:
        return web.design_page(call, call.path["part"])

    @endpoint(
        "POST",
        "/docs/design/form",
        "A form of the frame, checked and forgotten",
        form=True,
        body=web.DesignForm,
        answers={200: None},
        media_type=web.HTML,
    )
    def post_designed(self, call: Call) -> Answer:
        return web.design_page(call, "form")

    # What every page of every service stands on

    @endpoint("GET", "/static/<tag>/<name>", "A file of the frame", answers={200: None}, limited=False)
    def get_static(self, call: Call) -> Answer:
        return web.static_file(call)

    @endpoint(
        "GET",
        "/language/<any(zh,en):language>",
        "Go on in another language",
        query=web.LanguageQuery,
        answers={303: None},
        media_type=web.HTML,
    )
    def get_language(self, call: Call) -> Answer:
        return web.choose_language(call)


_DESCRIBED: Final = openapi.document(
    METRICS,
    "E-Station: metrics (统计)",
    "The year's plan against what the services' events prove; every figure down to its events.",
    openapi.endpoints(MetricsService),
)
DOCUMENT: Final = body.dumps(_DESCRIBED)


def run(settings: Settings) -> None:
    """The process ``service metrics``."""
    database = mongo.connect(settings, METRICS, "service")
    await_database(database)
    app = Metrics(settings, database)
    REGISTRY.register(PlanCollector(database, app.plans, app.clock))
    run_service(MetricsService, app)
