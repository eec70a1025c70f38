"""Plan against reality: unknown is not 0, outdated is said, nearly reached is not reached."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from contracts.codes import CITY, REPORTING_UNITS
from services.metrics.figures import (
    LAG_MAX,
    NO_SOURCE,
    OK,
    SILENCE_MAX,
    STALE,
    Figure,
    Knowledge,
    county_name,
    figures,
    freshness,
    levels,
)
from services.metrics.plan import ORDINAL, STOCK, SUM, Plan, Row
from services.metrics.projections import Cell

NOW = datetime(2025, 7, 16, 4, 0, tzinfo=UTC)
FEDERATION = {"code": "370900", "zh": "泰安市总工会", "en": "Federation"}


def _row(**changes: Any) -> Row:
    known: dict[str, Any] = {
        "key": "stations.checkins",
        "zh": "工会驿站服务",
        "en": "Services",
        "target": 100,
        "unit": "人次",
        "service": "stations",
        "measure": "stations.checkins",
        "kind": SUM,
    }
    return Row(**{**known, **changes})


def _known(totals: dict[Cell, int] | None = None, **changes: Any) -> Knowledge:
    known: dict[str, Any] = {"heard": {"stations": NOW}, "current_at": NOW, "now": NOW}
    return Knowledge(totals or {}, **{**known, **changes})


def _cell(value: str = "2025", county: str = "370902", measure: str = "stations.checkins") -> Cell:
    return Cell(measure, "stations", county, value)


def _figure(row: Row, known: Knowledge) -> Figure:
    (figure,) = figures(Plan(2025, 2025, FEDERATION, (row,)), known)
    return figure


def test_service_never_heard_of_is_unknown_and_not_zero() -> None:
    figure = _figure(_row(), _known({_cell(): 7}, heard={}))
    assert (figure.status, figure.actual, figure.percent, figure.by_county) == (NO_SOURCE, None, None, None)


def test_service_that_was_heard_of_and_counted_nothing_has_zero() -> None:
    figure = _figure(_row(), _known())
    assert (figure.status, figure.actual, figure.percent) == (OK, 0, 0.0)
    assert figure.by_county == dict.fromkeys(REPORTING_UNITS, 0)


def test_actual_is_the_sum_over_counties_of_the_year_alone() -> None:
    totals = {
        _cell(): 30,
        _cell(county="370911-gx"): 12,
        _cell("2024"): 1000,
        _cell("2026"): 1000,
        _cell(measure="stations.checkin_records"): 5,
    }
    figure = _figure(_row(), _known(totals))
    assert figure.actual == 42
    assert figure.by_county is not None
    assert (figure.by_county["370902"], figure.by_county["370911-gx"], figure.by_county["370983"]) == (30, 12, 0)


@pytest.mark.parametrize("kind", [STOCK, ORDINAL])
def test_level_adds_up_over_the_years_so_far(kind: str) -> None:
    figure = _figure(_row(kind=kind), _known({_cell("2023"): 9, _cell("2025"): -2, _cell("2026"): 50}))
    assert figure.actual == 7


def test_figure_of_the_city_itself_is_part_of_the_sum() -> None:
    figure = _figure(_row(), _known({_cell(county=CITY): 3, _cell(): 1}))
    assert figure.actual == 4
    assert figure.by_county is not None
    assert figure.by_county[CITY] == 3
    assert (county_name(CITY), county_name("370911-gx")) == ("市本级", "高新区")


@pytest.mark.parametrize(
    ("actual", "target", "percent"),
    [(0, 3, 0.0), (1, 3, 33.3), (2999, 3000, 99.9), (3000, 3000, 100.0), (7, 3, 233.3), (-1, 1000, -0.1)],
)
def test_percent_is_rounded_down(actual: int, target: int, percent: float) -> None:
    assert _figure(_row(target=target), _known({_cell(): actual})).percent == percent


@pytest.mark.parametrize(("actual", "percent"), [(16, 0.0), (17, 100.0), (18, 100.0)])
def test_ordinal_is_reached_or_not(actual: int, percent: float) -> None:
    assert _figure(_row(kind=ORDINAL, target=17), _known({_cell("2024"): actual})).percent == percent


def test_no_percent_without_a_target() -> None:
    assert _figure(_row(target=None), _known({_cell(): 5})).percent is None


@pytest.mark.parametrize(
    ("changes", "status"),
    [
        ({"current_at": NOW - LAG_MAX}, OK),
        ({"current_at": NOW - LAG_MAX - timedelta(seconds=1)}, STALE),
        ({"current_at": None}, STALE),
        ({"heard": {"stations": NOW - SILENCE_MAX}}, OK),
        ({"heard": {"stations": NOW - SILENCE_MAX - timedelta(seconds=1)}}, STALE),
        ({"heard": {"care": NOW}}, NO_SOURCE),
        ({"heard": {}, "current_at": None}, NO_SOURCE),
    ],
)
def test_status_says_what_may_be_outdated(changes: dict[str, Any], status: str) -> None:
    assert _known(**changes).status("stations") == status


def test_freshness_tells_never_from_long_ago() -> None:
    shown = freshness(_known(heard={"stations": NOW - timedelta(seconds=90)}), ["care", "stations"])
    assert not shown["behind"]
    assert shown["services"] == [
        {"service": "care", "status": NO_SOURCE, "last_recorded": None, "age_seconds": None},
        {"service": "stations", "status": OK, "last_recorded": NOW - timedelta(seconds=90), "age_seconds": 90},
    ]


def test_this_year_is_shanghais() -> None:
    assert _known(now=datetime(2025, 12, 31, 15, 59, tzinfo=UTC)).this_year == 2025
    assert _known(now=datetime(2025, 12, 31, 16, 0, tzinfo=UTC)).this_year == 2026


def test_levels_carry_a_stock_on_to_now_and_leave_sums_in_their_year() -> None:
    stock, summed = "stations.stations", "stations.checkins"
    totals = {_cell("2023", measure=stock): 5, _cell("2025", measure=stock): -1, _cell("2023", measure=summed): 8}
    assert levels(_known(totals)) == {
        _cell("2023", measure=stock): 5,
        _cell("2024", measure=stock): 5,
        _cell("2025", measure=stock): 4,
        _cell("2023", measure=summed): 8,
    }


def test_level_booked_for_a_coming_year_stands_there_alone() -> None:
    cell = _cell("2026", measure="stations.stations")
    assert levels(_known({cell: 2})) == {cell: 2}


def test_measure_that_is_no_longer_known_is_shown_as_it_is() -> None:
    cell = _cell("2023", measure="stations.retired")
    assert levels(_known({cell: 2})) == {cell: 2}
