"""The pages: Chinese first, no script, unknown said as unknown."""

from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any

import pytest

from contracts.catalogue import CATALOGUE
from contracts.describe import describe
from services.kernel import web
from services.metrics import pages, service
from services.metrics.figures import Knowledge, figures
from services.metrics.plan import SUM, Plan, Plans, Row
from services.metrics.projections import Cell

NOW = datetime(2025, 7, 16, 4, 0, tzinfo=UTC)
VOID = {"meta", "link", "br"}


class _Outline(HTMLParser):
    """Tags in order, and whether each was closed in its turn."""

    def __init__(self, page: bytes) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.text = ""
        self.links: list[str] = []
        self._open: list[str] = []
        self.feed(page.decode())
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        names = dict(attrs)
        assert not [name for name in names if name.startswith("on") or name == "style"]
        if names.get("href"):
            self.links.append(str(names["href"]))
        if tag not in VOID:
            self._open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def _board(known: Knowledge, plan: Plan | None) -> _Outline:
    return _Outline(pages.board(known, plan, figures(plan, known) if plan else ()))


def _known(**changes: Any) -> Knowledge:
    totals = {Cell("stations.mother_rooms", "stations", "370982", "2025"): 4}
    known: dict[str, Any] = {"totals": totals, "heard": {"stations": NOW}, "current_at": NOW, "now": NOW}
    return Knowledge(**{**known, **changes})


def test_board_shows_reached_of_target_and_unknown_as_a_dash() -> None:
    page = _board(_known(), Plans().of(2025, 2025))
    assert "新建工会妈妈小屋" in page.text
    assert "目标 10 家 · 40%" in page.text
    assert page.text.count("尚无数据来源") == 8
    assert page.text.count("—") == 8
    assert "2025-07-16 12:00:00(北京时间)" in page.text
    assert "script" not in page.tags
    assert "尚未公布" not in page.text


def test_board_says_what_may_be_outdated() -> None:
    plan = Plans().of(2025, 2025)
    assert "统计可能滞后" in _board(_known(current_at=NOW - timedelta(hours=1)), plan).text
    assert "统计尚未开始" in _board(_known(current_at=None), plan).text
    assert "数据可能过时" in _board(_known(heard={"stations": NOW - timedelta(days=9)}), plan).text
    assert "数据可能过时" not in _board(_known(), plan).text


def test_board_of_a_year_without_a_plan_says_whose_targets_it_shows() -> None:
    later = NOW.replace(year=2026)
    page = _board(_known(now=later, current_at=later), Plans().of(2026, 2026))
    assert "2026 年计划尚未公布,目标取自 2025 年计划" in page.text
    assert "没有已公布的工作计划" in _board(_known(now=NOW.replace(year=2024)), None).text


def test_board_shows_more_than_reached_and_less_than_nothing() -> None:
    row = Row("stations.mother_rooms", "新建", "New", 2, "家", "stations", "stations.mother_rooms", SUM)
    for value, shown in ((4, "200%"), (-1, "-50%")):
        totals = {Cell("stations.mother_rooms", "stations", "370982", "2025"): value}
        page = _board(_known(totals=totals), Plan(2025, 2025, {"zh": "泰安", "en": "Tai'an"}, (row,)))
        assert shown in page.text


def test_board_escapes_what_the_plan_holds() -> None:
    row = Row("a.b", "<b>甲&乙</b>", "<i>", None, "<u>", "stations", "stations.checkins", SUM)
    page = _board(_known(), Plan(2025, 2025, {"zh": "<p>", "en": "&"}, (row,)))
    assert "<b>甲&乙</b>" in page.text
    assert not {"b", "i", "u"} & set(page.tags)


def test_page_without_database_shows_no_figure() -> None:
    page = _Outline(pages.unavailable())
    assert "暂时无法读取" in page.text
    assert not any(character.isdigit() for character in page.text)


def test_documents_name_every_operation_and_event() -> None:
    places = _Outline(service.DOCS_PAGE)
    assert {"/docs/metrics", "/stations/docs"} <= set(places.links)
    assert {"/api/v1/metrics/openapi.json", "/api/v1/stations/openapi.json"} <= set(places.links)
    docs = _Outline(service.API_PAGE)
    assert "GET /api/v1/metrics/plan/{year}" in docs.text
    events = _Outline(service.EVENTS_PAGE)
    for entry in CATALOGUE:
        assert entry.type in events.text
    assert "checkin_recorded" in events.text
    assert "people" in events.text


def test_restricted_event_and_optional_field_are_marked() -> None:
    (one, *_) = describe()
    one["restricted"] = True
    one["fields"][0]["required"] = False
    page = _Outline(pages.events([one])).text
    assert "restricted" in page
    assert "(optional)" in page


@pytest.mark.parametrize("page", [service.DOCS_PAGE, service.API_PAGE, service.EVENTS_PAGE, pages.unavailable()])
def test_every_page_links_its_style_and_fits_a_phone(page: bytes) -> None:
    assert web.STYLE_PATH in _Outline(page).links
    assert b'<meta name="viewport" content="width=device-width, initial-scale=1">' in page
    assert b'<html lang="zh-CN">' in page
