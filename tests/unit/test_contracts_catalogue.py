"""The catalogue: who may say what, and what it refuses."""

import json
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts import catalogue
from contracts.catalogue import CATALOGUE, Catalogue, Entry
from contracts.envelope import MalformedError
from contracts.events import CountyCode, EventData
from contracts.events.stations import StationResumedV1, StationSuspendedV1
from deploy import run
from tests.contract.builders import DATA, build

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
CHECKIN = "stations.checkin_recorded.v1"
CLOSED = "stations.station_closed.v1"


class _Restricted(EventData):
    type = "care.household_roster.v1"
    restricted = True


class _Misnamed(EventData):
    type = "stations.resumed"


class _OfCounty(EventData):
    type = "care.quota_moved.v1"
    county = CountyCode()


def test_owner_and_meaning_come_from_the_schema() -> None:
    entry = CATALOGUE[CHECKIN]
    assert entry.owner == "stations"
    assert entry.meaning == "People were served at a station; ``day`` is the day of capture."


def test_owners_consumers_and_bindings() -> None:
    own = Catalogue([Entry(StationSuspendedV1, ("metrics", "care")), Entry(_Restricted, ("childcare",))])
    assert own.owners == ("care", "stations")
    assert own.consumers == ("care", "childcare", "metrics")
    assert [entry.type for entry in own.consumed_by("care")] == ["stations.station_suspended.v1"]
    assert own.consumed_by("mixers") == ()


def test_a_service_is_awaited_until_it_is_there() -> None:
    assert set(catalogue.AWAITED).isdisjoint(run.SERVICES)
    assert sorted(run.PUBLISHERS) == list(catalogue.PUBLISHING)
    assert set(CATALOGUE.consumers) <= set(run.SERVICES), "an inbox that nobody reads fills"


def test_names_on_the_broker() -> None:
    assert catalogue.exchange("stations") == "stations.events"
    assert catalogue.inbox("metrics") == "metrics.inbox"
    assert [catalogue.wait("metrics", pause) for pause in catalogue.WAITS] == [
        "metrics.wait.5s",
        "metrics.wait.30s",
        "metrics.wait.5m",
    ]
    assert list(catalogue.WAITS.values()) == [5, 30, 300]
    assert catalogue.dead("metrics") == "metrics.dead"
    assert catalogue.UNROUTED == "unrouted"


@pytest.mark.parametrize(
    ("entries", "fault"),
    [
        ([Entry(StationResumedV1, ("metrics",)), Entry(StationResumedV1, ())], "stands twice"),
        ([Entry(_Restricted, ("childcare", "metrics"))], "restricted"),
        ([Entry(_Misnamed, ("metrics",))], "is not <service>"),
    ],
)
def test_impossible_entries_are_refused(entries: list[Entry], fault: str) -> None:
    with pytest.raises(ValueError, match=fault):
        Catalogue(entries)


def test_metrics_hears_every_event_that_is_not_restricted() -> None:
    assert list(CATALOGUE.consumed_by("metrics")) == [entry for entry in CATALOGUE if not entry.schema.restricted]


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"type": "stations.checkin_recorded.v2"}, "unknown_type"),
        ({"type": "stations.checkin_forged.v1"}, "unknown_type"),
        ({"source": "/services/metrics"}, "source"),
        ({"source": "/services/stations/"}, "source"),
        ({"county": "370999"}, "county"),
        ({"county": "370911-zz"}, "county"),
        ({"data": {}}, "data.day"),
        ({"data": {**DATA[CHECKIN], "people": 1.9}}, "data.people"),
    ],
)
def test_refused_events(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(MalformedError) as caught:
        CATALOGUE.check({**build(CHECKIN), **changes})
    assert caught.value.args == (fault,)


@pytest.mark.parametrize("county", ["370900", "370983", "370911-gx"])
def test_event_of_the_city_a_division_or_a_zone_is_taken(county: str) -> None:
    CATALOGUE.check(build(CHECKIN, county=county))


@untimed
@given(
    st.dictionaries(
        st.sampled_from(sorted(DATA[CLOSED])) | st.text(max_size=5),
        st.none()
        | st.booleans()
        | st.integers()
        | st.floats()
        | st.text()
        | st.lists(st.text() | st.dictionaries(st.text(), st.text())),
    )
)
def test_any_data_is_taken_or_refused_by_a_name_of_ours(data: dict[str, Any]) -> None:
    fault = None
    try:
        CATALOGUE.check({**build(CLOSED), "data": data})
    except MalformedError as error:
        [fault] = error.args
    assert fault in {None, "data.day", "data.was_suspended", "data.facilities", "data.unknown_field"}


@pytest.mark.parametrize("value", [2**70, float("nan"), "\ud800", {"$ne": 1}, {"a.b": 1}, {"": 1}, {"a\0": 1}])
@pytest.mark.parametrize("place", ["data", "inside"])
def test_unknown_field_that_no_database_takes_is_refused(value: object, place: str) -> None:
    event = build(CLOSED)
    if place == "data":
        event["data"]["later"] = value
    else:
        event["data"]["facilities"] = [{"kind": "water", "since": "2024-11-05", "later": value}]
    with pytest.raises(MalformedError, match=r"^data\.unknown_field$"):
        CATALOGUE.check(event)


def test_unknown_name_that_no_database_takes_is_refused() -> None:
    event = build(CLOSED)
    event["data"]["$set"] = 1
    with pytest.raises(MalformedError, match=r"^data\.unknown_field$"):
        CATALOGUE.check(event)


@pytest.mark.parametrize(
    ("type_", "data", "field"),
    [
        (CLOSED, {"was_suspended": 1}, "was_suspended"),
        (CLOSED, {"facilities": [{"kind": "water", "since": DATA[CLOSED]["day"]}] * 2}, "facilities"),
        (
            CLOSED,
            {"facilities": [{"kind": "water", "since": "2024-01-02"}, {"kind": "water", "since": "2025-01-02"}]},
            "facilities",
        ),
        ("stations.station_opened.v1", {"facilities": ["water", "water"]}, "facilities"),
        ("stations.facility_removed.v1", {"facilities": []}, "facilities"),
        ("stations.checkin_quarantined.v1", {"reasons": []}, "reasons"),
        ("stations.checkin_voided.v1", {"people": 0}, "people"),
        ("stations.checkin_voided.v1", {"was_quarantined": True}, "people"),
        ("stations.checkin_voided.v1", {"people": 3}, "people"),
        ("stations.checkin_recorded.v1", {"people": 0}, "people"),
        ("stations.checkin_recorded.v1", {"people": 501}, "people"),
        ("stations.checkin_recorded.v1", {"people": True}, "people"),
        ("stations.checkin_recorded.v1", {"day": "2025-07-16\n"}, "day"),
        ("stations.checkin_recorded.v1", {"day": "2025-02-29"}, "day"),
        ("stations.checkin_recorded.v1", {"station": "station-1"}, "station"),
    ],
)
def test_data_that_would_count_wrongly_is_refused(type_: str, data: dict[str, Any], field: str) -> None:
    with pytest.raises(MalformedError) as caught:
        CATALOGUE.check(build(type_, **data))
    assert caught.value.args == (f"data.{field}",)


def test_checking_leaves_the_event_alone() -> None:
    event = build(CLOSED, later=1)
    before = json.dumps(event)
    CATALOGUE.check(event)
    assert json.dumps(event) == before


def test_county_field_takes_reporting_units_only() -> None:
    assert not _OfCounty().validate({"county": "370902-js"})
    assert _OfCounty().validate({"county": "370900"})


def test_event_that_counts_nothing_counts_nothing() -> None:
    own = Catalogue([Entry(_OfCounty, ("metrics",))])
    assert own.counts({"type": "care.quota_moved.v1", "data": {"county": "370902"}}) == ()
