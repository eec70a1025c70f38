"""Plan, figures, pages and exporter over HTTP, from the process as it really runs."""

import json
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families
from pymongo.database import Database

from contracts.catalogue import CATALOGUE
from contracts.codes import REPORTING_UNITS
from contracts.envelope import Event
from services.kernel import clock, mongo
from services.kernel.mongo import Document
from services.kernel.settings import Settings
from services.metrics import log
from services.metrics.exporter import PlanCollector
from services.metrics.log import Fact
from services.metrics.plan import Plans
from tests.metrics import RECORDED, checkins, database_of, event
from tests.parts import Parts, Process, World

YEAR = int(clock.day(clock.now())[:4])
TODAY = clock.day(clock.now())
BASE = "/api/v1/metrics"


@dataclass(frozen=True)
class Answered:
    """An HTTP answer of any status."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


def _get(process: Process, path: str, token: str | None = None) -> Answered:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    request = urllib.request.Request(f"http://127.0.0.1:{process.http_port}{path}", headers=headers)
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return Answered(answer.status, answer.headers, answer.read())
    except urllib.error.HTTPError as error:
        with error:
            return Answered(error.code, error.headers, error.read())


def _apply(database: Database[Document], events: list[Event]) -> None:
    facts = [Fact(one, CATALOGUE.counts(one), datetime.fromisoformat(one["recordedtime"])) for one in events]
    log.apply(database, facts, clock.now(), look_first=True)
    log.mark_current(database, clock.now())


@pytest.fixture(scope="module")
def database(shared_world: World) -> Iterator[Database[Document]]:
    """Figures: stations has been heard of, nobody else."""
    made = database_of(shared_world)
    _apply(
        made,
        [
            *checkins(3, day=TODAY, people=4),
            *checkins(2, day=TODAY, county="370911-gx", people=5),
            *checkins(1, day="2025-07-16", people=100),
            event("stations.checkin_voided.v1", day="2025-07-16", people=-30),
            event("stations.station_opened.v1", day="2025-03-08", county="370982", facilities=["mother_room"]),
            event("stations.station_opened.v1", day=TODAY, county="370982", facilities=["mother_room"]),
        ],
    )
    yield made
    made.client.close()


@pytest.fixture(scope="module")
def process(shared_world: World, database: Database[Document]) -> Process:
    """The service over those figures."""
    del database
    return shared_world.process("service", "metrics").start()


@pytest.fixture(autouse=True)
def _current(database: Database[Document]) -> None:
    """The aggregator would say so every few seconds."""
    log.mark_current(database, clock.now())


def _rows(process: Process, year: int) -> dict[str, Any]:
    return {row["key"]: row for row in _get(process, f"{BASE}/plan/{year}").json["rows"]}


def test_plan_of_2025_shows_what_stations_proved(process: Process) -> None:
    answer = _get(process, f"{BASE}/plan/2025")
    assert answer.status == 200
    plan = answer.json
    assert (plan["year"], plan["targets_of"], plan["federation"]["zh"]) == (2025, 2025, "泰安市总工会")
    rows = {row["key"]: row for row in plan["rows"]}
    assert len(rows) == 10
    rooms = rows["stations.mother_rooms"]
    assert (rooms["target"], rooms["actual"], rooms["percent"], rooms["status"]) == (10, 1, 10.0, "ok")
    assert {"county": "370982", "zh": "新泰市", "actual": 1} in rooms["by_county"]
    assert [one["county"] for one in rooms["by_county"]] == list(REPORTING_UNITS)
    assert (rows["stations.checkins"]["actual"], rows["stations.checkins"]["percent"]) == (70, None)


def test_row_without_a_source_is_unknown(process: Process) -> None:
    for year in (2025, YEAR):
        rows = _rows(process, year)
        unknown = [row for row in rows.values() if row["service"] != "stations"]
        assert len(unknown) == 8
        for row in unknown:
            assert (row["status"], row["actual"], row["percent"], row["by_county"]) == ("no_source", None, None, [])


def test_year_without_a_plan_of_its_own_says_whose_targets_it_shows(process: Process) -> None:
    plan = _get(process, f"{BASE}/plan/{YEAR}").json
    assert (plan["year"], plan["targets_of"]) == (YEAR, 2025)
    rows = {row["key"]: row for row in plan["rows"]}
    assert rows["stations.checkins"]["actual"] == 22
    parts = {one["county"]: one["actual"] for one in rows["stations.checkins"]["by_county"]}
    assert (parts["370902"], parts["370911-gx"], sum(parts.values())) == (12, 10, 22)
    assert rows["stations.mother_rooms"]["target"] == 10


@pytest.mark.parametrize("year", ["2024", str(YEAR + 1), "0", "x", "20255", "-2025", "2025.0", "٢٠٢٥", "9" * 5000])
def test_there_is_no_plan_of_other_years(process: Process, year: str) -> None:
    answer = _get(process, f"{BASE}/plan/{urllib.parse.quote(year)}")
    assert answer.status == 404
    assert answer.json["code"] == "not_found"


def test_freshness_by_service(process: Process) -> None:
    shown = _get(process, f"{BASE}/freshness").json
    assert not shown["behind"]
    by_service = {one["service"]: one for one in shown["services"]}
    assert set(by_service) == {"care", "childcare", "mixers", "people", "stations", "subsidies"}
    assert by_service["stations"]["status"] == "ok"
    assert 0 <= by_service["stations"]["age_seconds"] < 600
    assert by_service["care"] == {"service": "care", "status": "no_source", "last_recorded": None, "age_seconds": None}


def test_figures_of_an_aggregator_that_fell_silent_are_stale(process: Process, database: Database[Document]) -> None:
    long_ago = clock.now() - timedelta(minutes=5)
    database["state"].update_one({"_id": "applied"}, {"$set": {"current_at": long_ago}})
    shown = _get(process, f"{BASE}/freshness").json
    assert shown["behind"]
    rows = _rows(process, 2025)
    assert (rows["stations.checkins"]["status"], rows["stations.checkins"]["actual"]) == ("stale", 70)
    assert rows["care.winter"]["status"] == "no_source"
    assert "统计可能滞后" in _get(process, "/").body.decode()


def test_rollups_page_by_page(process: Process) -> None:
    seen: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        page = _get(
            process, f"{BASE}/rollups?measure=stations.checkins&limit=1&cursor={urllib.parse.quote(cursor)}"
        ).json
        assert len(page["items"]) == 1
        seen += page["items"]
        cursor = page["next"]
    assert [(row["day"], row["county"], row["value"]) for row in seen] == [
        ("2025-07-16", "370902", 70),
        (TODAY, "370902", 12),
        (TODAY, "370911-gx", 10),
    ]
    one = _get(process, f"{BASE}/rollups?measure=stations.checkins&county=370902&from={TODAY}&to={TODAY}").json
    assert one == {
        "items": [
            {
                "measure": "stations.checkins",
                "programme": "stations",
                "county": "370902",
                "day": TODAY,
                "value": 12,
            }
        ],
        "next": None,
    }


def test_series_over_all_counties(process: Process) -> None:
    answer = _get(process, f"{BASE}/series?measure=stations.checkins&from=2025-01-01&to={TODAY}").json
    assert answer["points"] == [{"day": "2025-07-16", "value": 70}, {"day": TODAY, "value": 22}]
    assert (answer["zh"], answer["unit"], answer["stock"]) == ("工会驿站服务人次", "人次", False)
    level = _get(process, f"{BASE}/series?measure=stations.stations&from=2025-06-01&to={TODAY}").json
    assert level["points"] == [{"day": "2025-06-01", "value": 1}, {"day": TODAY, "value": 2}]
    assert level["stock"]


def test_events_behind_a_figure_are_for_officers_of_the_district(process: Process, shared_world: World) -> None:
    path = f"{BASE}/events?measure=stations.checkins&county=370902&day=2025-07-16"
    assert _get(process, path).status == 401
    assert _get(process, path, shared_world.token(roles=("worker",))).status == 403
    other = shared_world.token(roles=("county_officer",), scope="370982")
    assert _get(process, path, other).status == 404
    county = shared_world.token(roles=("county_officer",), scope="370902")
    for token in (county, shared_world.token()):
        page = _get(process, f"{path}&limit=1", token).json
        (first,) = page["items"]
        assert (first["type"], first["data"]["people"]) == (RECORDED, 100)
        rest = _get(process, f"{path}&cursor={page['next']}", token).json
        assert [one["data"]["people"] for one in rest["items"]] == [-30]
        assert rest["next"] is None
    zone = f"{BASE}/events?measure=stations.checkins&county=370911-gx&day={TODAY}"
    parent = shared_world.token(roles=("county_officer",), scope="370911")
    assert len(_get(process, zone, parent).json["items"]) == 2
    assert _get(process, f"{BASE}/events?measure=stations.checkins&county=370900&day={TODAY}", county).status == 404
    city = _get(process, f"{BASE}/events?measure=stations.checkins&county=370900&day={TODAY}", shared_world.token())
    assert city.json == {"items": [], "next": None}


@pytest.mark.parametrize(
    ("path", "status", "field"),
    [
        ("/rollups", 422, "measure"),
        ("/rollups?measure=nothing", 422, "measure"),
        ("/rollups?measure[$ne]=x", 422, "*"),
        ("/rollups?measure=stations.checkins&county=110000", 422, "county"),
        ("/rollups?measure=stations.checkins&from=2025-02-30", 422, "from"),
        ("/rollups?measure=stations.checkins&from=2025-02-02&to=2025-02-01", 422, "to"),
        ("/rollups?measure=stations.checkins&limit=0", 422, "limit"),
        ("/rollups?measure=stations.checkins&limit=100000", 422, "limit"),
        ("/rollups?measure=stations.checkins&more=1", 422, "more"),
        ("/rollups?measure=stations.checkins&cursor=x", 400, None),
        ("/series?measure=stations.checkins&measure=stations.checkins", 422, "measure"),
        ("/series?measure=stations.checkins&to=tomorrow", 422, "to"),
        ("/events?measure=stations.checkins&county=370902", 422, "day"),
        ("/events?measure=stations.checkins&county=370902&day=2025-07-16&cursor=-1", 400, None),
        ("/events?measure=stations.checkins&county=370902&day=2025-07-16&cursor=1e3", 400, None),
        ("/events?measure=stations.checkins&county=370902&day=2025-07-16&cursor=" + "9" * 40, 400, None),
        ("/nothing", 404, None),
    ],
)
def test_bad_input_is_named_and_not_echoed(
    process: Process, shared_world: World, path: str, status: int, field: str | None
) -> None:
    answer = _get(process, BASE + path, shared_world.token())
    assert answer.status == status
    assert answer.headers["Content-Type"] == "application/problem+json"
    problem = answer.json
    assert [error["field"] for error in problem.get("errors", [])][:1] == ([field] if field else [])
    assert problem["title"]
    assert not any("填写内容有误" in error["message"] for error in problem.get("errors", [])), "each code has its text"


def test_openapi_document_describes_every_address(process: Process) -> None:
    document = _get(process, f"{BASE}/openapi.json").json
    assert document["openapi"] == "3.1.0"
    assert set(document["paths"]) == {
        f"{BASE}/{name}" for name in ("plan/{year}", "freshness", "rollups", "series", "events", "openapi.json")
    }
    parameters = document["paths"][f"{BASE}/rollups"]["get"]["parameters"]
    assert {one["name"] for one in parameters} == {"measure", "county", "from", "to", "limit", "cursor"}


def test_pages_are_plain_and_linked(process: Process) -> None:
    board = _get(process, "/")
    assert board.status == 200
    assert board.headers["Content-Type"] == "text/html; charset=utf-8"
    text = board.body.decode()
    assert f"泰安e站 · {YEAR} 年工作计划" in text
    assert "<script" not in text
    assert "style=" not in text
    style = text.split('rel="stylesheet" href="')[1].split('"')[0]
    answer = _get(process, style)
    assert (answer.status, answer.headers["Content-Type"]) == (200, "text/css")
    assert "immutable" in answer.headers["Cache-Control"]
    for path in ("/docs", "/docs/events"):
        assert _get(process, path).status == 200


def _samples(text: str) -> dict[str, dict[tuple[tuple[str, str], ...], float]]:
    found: dict[str, dict[tuple[tuple[str, str], ...], float]] = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            series = found.setdefault(sample.name, {})
            key = tuple(sorted(sample.labels.items()))
            assert key not in series, f"{sample.name} stands twice"
            series[key] = sample.value
    return found


def test_exporter_tells_plan_measures_and_freshness(process: Process) -> None:
    samples = _samples(process.ops("/metrics"))
    assert samples["estation_exporter_up"] == {(): 1}
    targets = {dict(labels)["key"]: value for labels, value in samples["estation_plan_target"].items()
               if dict(labels)["year"] == "2025"}  # fmt: skip
    assert targets == {
        "childcare.classes": 200,
        "childcare.enrolments": 4000,
        "subsidies.degree": 450,
        "mixers.editions": 17,
        "stations.mother_rooms": 10,
    }
    actual = {tuple(dict(labels).values()): value for labels, value in samples["estation_plan_actual"].items()}
    assert {key for _county, key, _year in actual} == {"stations.checkins", "stations.mother_rooms"}
    assert actual["370902", "stations.checkins", "2025"] == 70
    assert actual["370911-gx", "stations.checkins", str(YEAR)] == 10
    assert actual["370983", "stations.checkins", str(YEAR)] == 0
    measures = {tuple(dict(labels).values()): value for labels, value in samples["estation_measure"].items()}
    assert measures["370902", "stations.checkins", "stations", "2025"] == 70
    assert measures["370982", "stations.stations", "stations", "2025"] == 1
    assert measures["370982", "stations.stations", "stations", str(YEAR)] == (2 if YEAR > 2025 else 1)
    assert list(samples["estation_freshness_seconds"]) == [(("service", "stations"),)]
    assert 0 <= samples["estation_figures_lag_seconds"][()] < 60


def test_exporter_without_database_shows_no_figure() -> None:
    nowhere = Settings(mongodb_url="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200")
    database = mongo.connect(nowhere, "metrics", "test")
    registry = CollectorRegistry()
    registry.register(PlanCollector(database, Plans(), clock.now))
    samples = _samples(generate_latest(registry).decode())
    assert samples == {"estation_exporter_up": {(): 0}}
    database.client.close()


def test_without_its_database_nothing_old_is_shown(world: World, parts: Parts) -> None:
    database = database_of(world)
    _apply(database, checkins(3, day=TODAY))
    process = world.process("service", "metrics").start()
    assert "最近数据" in _get(process, "/").body.decode()
    parts.kill("mongod")
    try:
        board = _get(process, "/")
        assert (board.status, board.headers["Retry-After"]) == (503, "5")
        assert "暂时无法读取" in board.body.decode()
        plan = _get(process, f"{BASE}/plan/2025")
        assert (plan.status, plan.json["code"]) == (503, "unavailable")
        samples = _samples(process.ops("/metrics"))
        assert samples["estation_exporter_up"] == {(): 0}
        assert not {"estation_plan_actual", "estation_measure", "estation_plan_target"} & set(samples)
    finally:
        parts.start("mongod")
        parts.await_ready("mongod")
    process.await_ready()
    assert _get(process, f"{BASE}/plan/2025").status == 200
    assert process.stop() == 0
    database.client.close()
