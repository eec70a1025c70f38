"""What each event adds to the measures, and that what is taken back is taken back exactly."""

from collections import Counter
from collections.abc import Iterable
from datetime import date
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts.catalogue import CATALOGUE
from contracts.codes import REPORTING_UNITS
from contracts.envelope import Event
from contracts.measures import MEASURES, Count
from tests.contract.builders import DAY, build

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
days = st.dates(date(2000, 1, 1), date(2099, 12, 31)).map(date.isoformat)
people = st.integers(1, 500)
counties = st.sampled_from(REPORTING_UNITS)


def counts(event: Event) -> tuple[Count, ...]:
    """What a valid event counts."""
    CATALOGUE.check(event)
    return CATALOGUE.counts(event)


def by_day(*events: Event) -> dict[tuple[str, str, str, str], int]:
    """Sums per (measure, programme, county, day), zeros left out."""
    return _sum(events, lambda count: (count.measure, count.programme, count.county, count.day))


def levels(*events: Event) -> dict[tuple[str, str], int]:
    """Sums per (measure, county) over all days, zeros left out."""
    return _sum(events, lambda count: (count.measure, count.county))


def _sum(events: Iterable[Event], key: Any) -> dict[Any, int]:
    totals: Counter[Any] = Counter()
    for event in events:
        for count in counts(event):
            totals[key(count)] += count.delta
    return {key: total for key, total in totals.items() if total}


@pytest.mark.parametrize(
    ("type_", "data", "expected"),
    [
        ("station_opened", {"facilities": []}, {"stations": 1}),
        ("station_opened", {"facilities": ["water", "mother_room"]}, {"stations": 1, "mother_rooms": 1}),
        ("facility_added", {"facility": "mother_room"}, {"mother_rooms": 1}),
        ("facility_added", {"facility": "water"}, {}),
        ("facility_removed", {"facilities": [{"kind": "mother_room", "since": DAY}]}, {"mother_rooms": -1}),
        ("facility_removed", {"facilities": [{"kind": "water", "since": DAY}]}, {}),
        ("station_suspended", {}, {"suspended": 1}),
        ("station_resumed", {}, {"suspended": -1}),
        ("station_closed", {"was_suspended": False, "facilities": []}, {"stations": -1}),
        (
            "station_closed",
            {"was_suspended": True, "facilities": [{"kind": "mother_room", "since": DAY}]},
            {"stations": -1, "suspended": -1, "mother_rooms": -1},
        ),
        ("checkin_recorded", {"people": 7}, {"checkins": 7, "checkin_records": 1}),
        ("checkin_quarantined", {"people": 7}, {"quarantined": 1}),
        (
            "checkin_approved",
            {"people": 7, "quarantined_day": DAY},
            {"checkins": 7, "checkin_records": 1, "quarantined": -1},
        ),
        ("checkin_voided", {"people": -7}, {"checkins": -7, "checkin_records": -1}),
        ("checkin_voided", {"people": 0, "was_quarantined": True}, {"quarantined": -1}),
        ("device_enrolled", {}, {"devices": 1}),
        ("device_revoked", {}, {"devices": -1}),
        ("fault_reported", {}, {"faults": 1}),
        ("fault_cleared", {}, {"faults": -1}),
        ("heartbeat_missed", {}, {"silences": 1}),
    ],
)
def test_counts_of_each_event(type_: str, data: dict[str, Any], expected: dict[str, int]) -> None:
    event = build(f"stations.{type_}.v1", county="370911-gx", **data)
    assert by_day(event) == {
        (f"stations.{measure}", "stations", "370911-gx", DAY): delta for measure, delta in expected.items()
    }


@pytest.mark.parametrize("entry", list(CATALOGUE), ids=lambda entry: entry.type)
def test_every_event_counts_under_known_measures(entry: Any) -> None:
    found = counts(build(entry.type))
    assert bool(found) != entry.schema.restricted  # metrics never hears what is restricted
    assert {count.measure for count in found} <= MEASURES.keys()
    assert all(type(count.delta) is int for count in found)


def test_every_measure_is_counted_by_some_event() -> None:
    assert {count.measure for entry in CATALOGUE for count in counts(build(entry.type))} == MEASURES.keys()


@untimed
@given(days, people, counties)
def test_void_takes_back_a_recorded_checkin(day: str, number: int, county: str) -> None:
    recorded = build("stations.checkin_recorded.v1", county=county, day=day, people=number)
    voided = build("stations.checkin_voided.v1", county=county, day=day, people=-number)
    assert by_day(recorded) != {}
    assert by_day(recorded, voided) == {}


@untimed
@given(days, people, counties)
def test_void_takes_back_a_quarantined_checkin(day: str, number: int, county: str) -> None:
    quarantined = build("stations.checkin_quarantined.v1", county=county, day=day, people=number)
    voided = build("stations.checkin_voided.v1", county=county, day=day, people=0, was_quarantined=True)
    assert by_day(quarantined, voided) == {}


@untimed
@given(days, days, people, counties)
def test_void_takes_back_an_approved_checkin(received: str, approved_for: str, number: int, county: str) -> None:
    quarantined = build("stations.checkin_quarantined.v1", county=county, day=received, people=number)
    approved = build(
        "stations.checkin_approved.v1", county=county, day=approved_for, quarantined_day=received, people=number
    )
    voided = build("stations.checkin_voided.v1", county=county, day=approved_for, people=-number)
    recorded = build("stations.checkin_recorded.v1", county=county, day=approved_for, people=number)
    assert by_day(quarantined, approved) == by_day(recorded)
    assert by_day(quarantined, approved, voided) == {}


@untimed
@given(days, days, counties)
def test_mother_room_lost_in_its_year_never_was_and_later_stays_new(since: str, lost: str, county: str) -> None:
    rooms = [{"kind": "mother_room", "since": since}]
    stays = {("stations.mother_rooms", "stations", county, since): 1} if since[:4] != lost[:4] else {}
    added = build("stations.facility_added.v1", county=county, day=since, facility="mother_room")
    removed = build("stations.facility_removed.v1", county=county, day=lost, facilities=rooms)
    assert by_day(added, removed) == stays

    opened = build("stations.station_opened.v1", county=county, day=since, facilities=["mother_room"])
    closed = build("stations.station_closed.v1", county=county, day=lost, was_suspended=False, facilities=rooms)
    rooms_only = {key: total for key, total in by_day(opened, closed).items() if key[0] == "stations.mother_rooms"}
    assert rooms_only == stays


@untimed
@given(days, days, days, counties)
def test_levels_return_to_nothing(first: str, second: str, third: str, county: str) -> None:
    def at(type_: str, day: str, **data: object) -> Event:
        return build(f"stations.{type_}.v1", county=county, day=day, **data)

    opened = at("station_opened", first, facilities=[])
    suspended = at("station_suspended", second)
    assert levels(suspended, at("station_resumed", third)) == {}
    assert levels(opened, at("station_closed", third, was_suspended=False, facilities=[])) == {}
    assert levels(opened, suspended, at("station_closed", third, was_suspended=True, facilities=[])) == {}
    assert levels(at("device_enrolled", first), at("device_revoked", second)) == {}
    assert levels(at("fault_reported", first), at("fault_cleared", second, reported_day=first)) == {}


def test_every_level_is_a_stock() -> None:
    lowered = {
        count.measure
        for type_ in ("station_resumed", "station_closed", "device_revoked", "fault_cleared", "checkin_approved")
        for count in counts(build(f"stations.{type_}.v1"))
        if count.delta < 0
    }
    stocks = {measure.key for measure in MEASURES.values() if measure.stock and measure.key.startswith("stations.")}
    assert lowered - {"stations.mother_rooms"} == stocks
