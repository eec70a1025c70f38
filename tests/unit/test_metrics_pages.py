"""The pages of metrics: unknown said as unknown, outdated as outdated, in both languages, without a script."""

from datetime import timedelta
from typing import Any

import pytest

from contracts.catalogue import CATALOGUE
from contracts.describe import describe
from services.kernel import web
from services.kernel.http import Answer
from services.metrics import pages, service
from services.metrics.figures import Knowledge, figures
from services.metrics.plan import SUM, Plan, Plans, Row
from services.metrics.projections import Cell
from tests.pages import NOW, Outline, call


def _board(known: Knowledge, plan: Plan | None, language: str = "zh") -> Outline:
    return Outline(pages.board(call(language=language), known, plan, figures(plan, known) if plan else ()))


def _known(**changes: Any) -> Knowledge:
    totals = {Cell("stations.mother_rooms", "stations", "370982", "2025"): 4}
    known: dict[str, Any] = {"totals": totals, "heard": {"stations": NOW}, "current_at": NOW, "now": NOW}
    return Knowledge(**{**known, **changes})


def test_board_shows_reached_of_target_and_unknown_as_a_dash() -> None:
    page = _board(_known(), Plans().of(2025, 2025))
    assert "2025 年工作计划" in page.text
    assert "新建工会妈妈小屋" in page.text
    assert "目标 10 家 · 40%" in page.text
    assert "尚无数据来源的项目" in page.text
    assert page.text.count("—") == 8
    assert "2025年7月16日 12:00:00（北京时间）" in page.text
    assert "新泰市" in page.text
    assert "市本级" not in page.text
    assert "script" not in page.tags
    assert "尚未公布" not in page.text


def test_board_names_the_citys_own_share() -> None:
    totals = {Cell("stations.mother_rooms", "stations", "370900", "2025"): 4}
    for language, name in (("zh", "市本级"), ("en", "City level")):
        assert name in _board(_known(totals=totals), Plans().of(2025, 2025), language).text


def test_board_in_english() -> None:
    page = _board(_known(), Plans().of(2025, 2025), "en")
    assert "Work plan 2025" in page.text
    assert "Target 10 · 40%" in page.text
    assert "Xintai City" in page.text
    assert "16 Jul 2025, 12:00:00 (Beijing time)" in page.text


def test_board_says_what_may_be_outdated() -> None:
    plan = Plans().of(2025, 2025)
    assert "统计可能滞后" in _board(_known(current_at=NOW - timedelta(hours=1)), plan).text
    assert "统计尚未开始" in _board(_known(current_at=None), plan).text
    assert "数据可能过时" in _board(_known(heard={"stations": NOW - timedelta(days=9)}), plan).text
    assert "数据可能过时" not in _board(_known(), plan).text


def test_board_of_a_year_without_a_plan_says_whose_targets_it_shows() -> None:
    later = NOW.replace(year=2026)
    page = _board(_known(now=later, current_at=later), Plans().of(2026, 2026))
    assert "2026 年计划尚未公布，目标取自 2025 年计划" in page.text
    assert "没有已公布的工作计划" in _board(_known(now=NOW.replace(year=2024)), None).text


def test_board_shows_more_than_reached_and_less_than_nothing() -> None:
    row = Row("stations.mother_rooms", "新建", "New", 2, "家", "stations", "stations.mother_rooms", SUM)
    for value, shown, bar in ((4, "200%", "100"), (-1, "-50%", "0")):
        totals = {Cell("stations.mother_rooms", "stations", "370982", "2025"): value}
        page = _board(_known(totals=totals), Plan(2025, 2025, {"zh": "泰安", "en": "Tai'an"}, (row,)))
        assert shown in page.text
        assert [names["value"] for names in page.of("progress")] == [bar]


def test_board_escapes_what_the_plan_holds() -> None:
    row = Row("a.b", "<b>甲&乙</b>", "<i>", None, "<u>", "stations", "stations.checkins", SUM)
    page = _board(_known(), Plan(2025, 2025, {"zh": "<p>", "en": "&"}, (row,)))
    assert "<b>甲&乙</b>" in page.text
    assert not {"b", "i", "u"} & set(page.tags)


def test_page_without_database_shows_no_figure() -> None:
    answer = pages.unavailable(call())
    assert answer.status == 503
    assert answer.headers["Retry-After"] == "5"
    page = Outline(answer)
    assert "暂时无法读取" in page.text
    assert not any(character.isdigit() for character in page.text)


def test_documents_name_every_operation_and_event() -> None:
    places = Outline(pages.docs(call(), ["metrics", "stations"]))
    assert {"/docs/metrics", "/stations/docs"} <= set(places.links)
    assert {"/api/v1/metrics/openapi.json", "/api/v1/stations/openapi.json"} <= set(places.links)
    docs = Outline(web.api(call(), {"zh": "统计", "en": "Metrics"}, service._DESCRIBED))
    assert "GET /api/v1/metrics/plan/{year}" in docs.text
    events = Outline(pages.events(call(), describe()))
    for entry in CATALOGUE:
        assert entry.type in events.text
    assert "people" in events.text


def test_restricted_event_and_optional_field_are_marked() -> None:
    (one, *_) = describe()
    one["restricted"] = True
    one["fields"][0]["required"] = False
    page = Outline(pages.events(call(), [one])).text
    assert "restricted" in page
    assert "(optional)" in page


@pytest.mark.parametrize(
    "answer",
    [
        pages.docs(call(), ["metrics"]),
        pages.events(call(), describe()),
        pages.unavailable(call()),
        web.api(call(), {"zh": "统计", "en": "Metrics"}, service._DESCRIBED),
    ],
)
def test_every_page_links_its_style_and_fits_a_phone(answer: Answer) -> None:
    page = Outline(answer)
    assert web.static.url("estation.css") in page.links
    assert {"name": "viewport", "content": "width=device-width, initial-scale=1"} in page.of("meta")
    assert page.of("html", lang="zh-CN")
