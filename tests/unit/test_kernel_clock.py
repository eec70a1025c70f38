"""Clock and ids: Shanghai's days, BSON's milliseconds, ids that sort and ids that follow from their parts."""

from datetime import UTC, datetime, timedelta, timezone
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kernel import clock, ids

instants = st.datetimes(
    min_value=datetime(1992, 1, 1),  # noqa: DTZ001 (hypothesis adds the zone)
    max_value=datetime(2099, 1, 1),  # noqa: DTZ001
    timezones=st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
)


@pytest.mark.parametrize(
    ("instant", "day"),
    [
        (datetime(2025, 7, 15, 15, 59, 59, 999999, tzinfo=UTC), "2025-07-15"),
        (datetime(2025, 7, 15, 16, 0, tzinfo=UTC), "2025-07-16"),
        (datetime(2025, 12, 31, 15, 59, 59, tzinfo=UTC), "2025-12-31"),
        (datetime(2025, 12, 31, 16, 0, tzinfo=UTC), "2026-01-01"),
        (datetime(2025, 7, 15, 23, 0, tzinfo=timezone(timedelta(hours=-9))), "2025-07-16"),
    ],
)
def test_a_day_begins_at_midnight_in_shanghai(instant: datetime, day: str) -> None:
    assert clock.day(instant) == day


@given(instants)
def test_a_day_is_utc_plus_eight_hours(instant: datetime) -> None:
    """China has had no summer time since 1991."""
    assert clock.day(instant) == (instant.astimezone(UTC) + timedelta(hours=8)).date().isoformat()


@given(instants)
def test_text_and_milliseconds_are_the_same_instant(instant: datetime) -> None:
    cut = clock.milliseconds(instant)
    assert timedelta(0) <= instant - cut < timedelta(milliseconds=1)
    assert clock.milliseconds(cut) == cut
    text = clock.rfc3339(instant)
    assert datetime.fromisoformat(text) == cut
    assert len(text) == len("2025-08-13T01:02:03.004Z")
    assert text.endswith("Z")


def test_now_is_utc_cut_to_milliseconds_and_lies_between_before_and_after() -> None:
    before = datetime.now(UTC)
    now = clock.now()
    assert now.utcoffset() == timedelta(0)
    assert now.microsecond % 1000 == 0
    assert before - timedelta(milliseconds=1) <= now <= datetime.now(UTC)


def test_new_ids_are_uuid7_and_sort_by_time() -> None:
    made = [ids.new() for _ in range(1000)]
    assert sorted(made) == made
    assert len(set(made)) == 1000
    assert {UUID(id_).version for id_ in made} == {7}
    assert all(ids.is_uuid(id_) for id_ in made)


def test_a_derived_id_follows_from_its_parts_alone() -> None:
    assert ids.derived("device", "client") == "e7527484-d812-5a85-9817-f5b578fcb29a"
    assert UUID(ids.derived("device", "client")).version == 5


parts = st.lists(st.text(st.characters(codec="utf-8", exclude_categories=["Cc"])), min_size=1, max_size=3)


@given(parts, parts)
def test_other_parts_have_another_id(one: list[str], other: list[str]) -> None:
    assert (ids.derived(*one) == ids.derived(*other)) == (one == other)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("8ef62e2d-b19c-5b8e-9dd5-a0d0c9b87bd3", True),
        ("8EF62E2D-B19C-5B8E-9DD5-A0D0C9B87BD3", False),
        ("{8ef62e2d-b19c-5b8e-9dd5-a0d0c9b87bd3}", False),
        ("8ef62e2db19c5b8e9dd5a0d0c9b87bd3", False),
        ("8ef62e2d-b19c-5b8e-9dd5-a0d0c9b87bd3\n", False),
        ("urn:uuid:8ef62e2d-b19c-5b8e-9dd5-a0d0c9b87bd3", False),
        ("370902199001011234", False),
        ("", False),
    ],
)
def test_only_the_canonical_form_is_a_uuid(text: str, expected: bool) -> None:
    assert ids.is_uuid(text) is expected
