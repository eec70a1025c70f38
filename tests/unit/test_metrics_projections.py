"""Counts become sums, whatever their order."""

import random
from datetime import UTC, datetime

from hypothesis import given
from hypothesis import strategies as st

from contracts.catalogue import CATALOGUE
from contracts.envelope import Event
from contracts.measures import Count
from services.kernel import clock
from services.metrics.projections import Cell, Sums, trail
from tests.metrics import RECORDED, event, lives


def _sums(events: list[Event]) -> Sums:
    sums = Sums()
    for one in events:
        sums.add(CATALOGUE.counts(one))
    return sums


def test_checkin_adds_people_and_record_to_its_day_and_year() -> None:
    sums = _sums([event(RECORDED, people=3), event(RECORDED, people=4)])
    day = ("stations", "370902", "2025-07-16")
    assert sums.days() == {Cell("stations.checkins", *day): 7, Cell("stations.checkin_records", *day): 2}
    year = ("stations", "370902", "2025")
    assert sums.years() == {Cell("stations.checkins", *year): 7, Cell("stations.checkin_records", *year): 2}


def test_compensated_figure_is_zero_and_not_absent() -> None:
    sums = _sums([event(RECORDED, people=3), event("stations.checkin_voided.v1", people=-3)])
    assert set(sums.days().values()) == set(sums.years().values()) == {0}
    assert len(sums.days()) == len(sums.years()) == 2


@given(lives(), st.randoms(use_true_random=False))
def test_order_does_not_matter(events: list[Event], dice: random.Random) -> None:
    shuffled = list(events)
    dice.shuffle(shuffled)
    assert _sums(shuffled).days() == _sums(events).days()
    assert _sums(shuffled).years() == _sums(events).years()


@given(lives())
def test_years_are_the_sums_of_their_days(events: list[Event]) -> None:
    sums = _sums(events)
    again: dict[Cell, int] = {}
    for cell, value in sums.days().items():
        year = cell._replace(period=cell.period[:4])
        again[year] = again.get(year, 0) + value
    assert again == sums.years()


def test_new_year_begins_at_midnight_in_shanghai() -> None:
    before = clock.day(datetime(2025, 12, 31, 15, 59, 59, tzinfo=UTC))
    after = clock.day(datetime(2025, 12, 31, 16, 0, 0, tzinfo=UTC))
    sums = _sums([event(RECORDED, day=before, people=1), event(RECORDED, day=after, people=2)])
    years = {cell.period: value for cell, value in sums.years().items() if cell.measure == "stations.checkins"}
    assert years == {"2025": 1, "2026": 2}


def test_trail_names_every_figure_once() -> None:
    assert trail([Count("m", "p", "370902", "2025-01-01", 1), Count("m", "p", "370902", "2025-01-01", 2)]) == [
        "m|370902|2025-01-01"
    ]
    approved = event("stations.checkin_approved.v1", day="2025-07-10", quarantined_day="2025-07-16")
    assert trail(CATALOGUE.counts(approved)) == [
        "stations.checkin_records|370902|2025-07-10",
        "stations.checkins|370902|2025-07-10",
        "stations.quarantined|370902|2025-07-16",
    ]


def test_key_is_readable() -> None:
    assert Cell("stations.checkins", "stations", "370902", "2025-07-16").key == (
        "stations.checkins|stations|370902|2025-07-16"
    )
