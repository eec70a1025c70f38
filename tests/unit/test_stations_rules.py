"""Decisions of the stations service: moves, judging a check-in, the clock's correction, hours, silence."""

from datetime import UTC, datetime, time, timedelta
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from contracts.codes import QuarantineReason
from services.kernel.clock import SHANGHAI
from services.stations import rules
from services.stations.rules import ACTIVE, CLOSED, PROPOSED, SUSPENDED

NOON = datetime(2025, 7, 16, 4, tzinfo=UTC)
MILLISECOND = timedelta(milliseconds=1)
SPANS = st.timedeltas(min_value=timedelta(days=-400), max_value=timedelta(days=400))
TIMES = st.times().map(lambda moment: moment.replace(second=0, microsecond=0))


# Moves

OPEN_MOVES = {
    (PROPOSED, "open"): ACTIVE,
    (ACTIVE, "suspend"): SUSPENDED,
    (SUSPENDED, "resume"): ACTIVE,
    (ACTIVE, "close"): CLOSED,
    (SUSPENDED, "close"): CLOSED,
}


@pytest.mark.parametrize("state", rules.STATION_STATES)
@pytest.mark.parametrize("move", ["open", "suspend", "resume", "close"])
def test_a_station_moves_along_the_table_and_nowhere_else(state: str, move: str) -> None:
    assert rules.decide_station_move(state, move) == OPEN_MOVES.get((state, move))


def test_an_unknown_move_leads_nowhere() -> None:
    assert all(rules.decide_station_move(state, "reopen") is None for state in rules.STATION_STATES)


# Whether a station served


def history(*states: tuple[str, timedelta]) -> list[dict[str, Any]]:
    """A station's states, each since noon plus the given span."""
    return [{"state": state, "since": NOON + since} for state, since in states]


HOUR = timedelta(hours=1)
DAY_OF_A_STATION = history(
    (PROPOSED, 0 * HOUR), (ACTIVE, 1 * HOUR), (SUSPENDED, 2 * HOUR), (ACTIVE, 3 * HOUR), (CLOSED, 4 * HOUR)
)


@pytest.mark.parametrize(
    ("after_noon", "served"),
    [
        (-HOUR, False),
        (0.5 * HOUR, False),
        (HOUR - rules.FUTURE_TOLERANCE - MILLISECOND, False),
        (HOUR - rules.FUTURE_TOLERANCE, True),
        (HOUR, True),
        (2 * HOUR - MILLISECOND, True),
        (2 * HOUR, False),
        (2.5 * HOUR, False),
        (3 * HOUR, True),
        (4 * HOUR - MILLISECOND, True),
        (4 * HOUR, False),
        (400 * HOUR, False),
    ],
)
def test_a_station_served_while_it_was_active(after_noon: timedelta, served: bool) -> None:
    assert rules.served_at(DAY_OF_A_STATION, NOON + after_noon) is served


@given(after_noon=st.timedeltas(min_value=timedelta(0), max_value=5 * HOUR), known=st.integers(1, 5))
def test_what_a_station_does_later_changes_nothing_about_what_was(after_noon: timedelta, known: int) -> None:
    instant = NOON + after_noon
    assume(all(move["since"] > instant + rules.FUTURE_TOLERANCE for move in DAY_OF_A_STATION[known:]))
    assert rules.served_at(DAY_OF_A_STATION[:known], instant) is rules.served_at(DAY_OF_A_STATION, instant)


def test_a_station_without_history_never_served() -> None:
    assert not rules.served_at([], NOON)


# Judging a check-in


def judge(captured: timedelta = -HOUR, **known: Any) -> tuple[QuarantineReason, ...]:
    """The verdict on a check-in that counts, unless told otherwise; times are relative to its receipt."""
    circumstances: dict[str, Any] = {
        "clock_offset": timedelta(0),
        "enrolled_at": NOON - timedelta(days=1000),
        "served": True,
        **known,
    }
    return rules.judge(NOON + captured, NOON, **circumstances)


@pytest.mark.parametrize(
    ("captured", "known", "reasons"),
    [
        (-HOUR, {}, ()),
        (rules.FUTURE_TOLERANCE, {}, ()),
        (rules.FUTURE_TOLERANCE + MILLISECOND, {}, (QuarantineReason.FUTURE,)),
        (-rules.AGE_MAX, {}, ()),
        (-rules.AGE_MAX - MILLISECOND, {}, (QuarantineReason.TOO_OLD,)),
        (-HOUR, {"enrolled_at": NOON - HOUR + rules.FUTURE_TOLERANCE}, ()),
        (
            -HOUR,
            {"enrolled_at": NOON - HOUR + rules.FUTURE_TOLERANCE + MILLISECOND},
            (QuarantineReason.BEFORE_ENROLMENT,),
        ),
        (-HOUR, {"clock_offset": rules.CLOCK_TOLERANCE}, ()),
        (-HOUR, {"clock_offset": -rules.CLOCK_TOLERANCE}, ()),
        (-HOUR, {"clock_offset": rules.CLOCK_TOLERANCE + MILLISECOND}, (QuarantineReason.CLOCK_OFF,)),
        (-HOUR, {"clock_offset": -rules.CLOCK_TOLERANCE - MILLISECOND}, (QuarantineReason.CLOCK_OFF,)),
        (-HOUR, {"served": False}, (QuarantineReason.STATION_NOT_ACTIVE,)),
        (-HOUR, {"imported": True}, (QuarantineReason.IMPORTED,)),
    ],
)
def test_each_cause_has_its_reason_and_its_limit(
    captured: timedelta, known: dict[str, Any], reasons: tuple[QuarantineReason, ...]
) -> None:
    assert judge(captured, **known) == reasons


CIRCUMSTANCES = st.fixed_dictionaries(
    {
        "captured": SPANS,
        "clock_offset": SPANS,
        "enrolled_at": SPANS.map(lambda span: NOON + span),
        "served": st.booleans(),
        "imported": st.booleans(),
    }
)


@given(CIRCUMSTANCES)
def test_causes_add_up_and_none_hides_another(known: dict[str, Any]) -> None:
    alone: set[QuarantineReason] = set()
    for name, value in known.items():
        if name == "captured":
            alone |= set(judge(value))
        elif name == "enrolled_at":
            alone |= set(judge(known["captured"], enrolled_at=value))
        else:
            alone |= set(judge(**{name: value}))
    together = judge(**known)
    assert set(together) == alone
    assert len(together) == len(alone)


@given(CIRCUMSTANCES, st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=400)))
def test_worse_never_looks_better(known: dict[str, Any], more: timedelta) -> None:
    before = set(judge(**known))
    further_off = known["clock_offset"] + (more if known["clock_offset"] >= timedelta(0) else -more)
    assert before <= set(judge(**{**known, "clock_offset": further_off}))
    assert before <= set(judge(**{**known, "enrolled_at": known["enrolled_at"] + more}))
    assert before <= set(judge(**{**known, "served": False, "imported": True}))
    earlier = set(judge(**{**known, "captured": known["captured"] - more}))
    assert before - {QuarantineReason.FUTURE} <= earlier


def test_every_reason_can_be_given() -> None:
    given_ = judge(HOUR, imported=True, clock_offset=HOUR, served=False, enrolled_at=NOON + 2 * HOUR)
    assert {*given_, *judge(-rules.AGE_MAX - HOUR)} == set(QuarantineReason)


# The device's clock


@given(
    lack=SPANS.filter(lambda span: abs(span) > rules.CLOCK_TOLERANCE + timedelta(minutes=1)),
    waited=st.timedeltas(min_value=timedelta(0), max_value=timedelta(days=30)),
    travelled=st.timedeltas(min_value=timedelta(0), max_value=timedelta(seconds=30)),
)
def test_a_wrong_clock_is_mended_to_within_the_time_of_travel(
    lack: timedelta, waited: timedelta, travelled: timedelta
) -> None:
    happened, sent, received = NOON, NOON + waited, NOON + waited + travelled
    offset = received - (sent - lack)
    assert rules.corrected(happened - lack, offset) - happened == travelled


@given(st.timedeltas(min_value=-rules.CLOCK_TOLERANCE, max_value=rules.CLOCK_TOLERANCE))
def test_a_clock_within_the_tolerance_is_believed(offset: timedelta) -> None:
    assert rules.corrected(NOON, offset) == NOON


# Hours and silence


@pytest.mark.parametrize(
    ("local", "opens", "closes", "serves"),
    [
        ("08:00", "08:00", "20:00", True),
        ("07:59", "08:00", "20:00", False),
        ("19:59", "08:00", "20:00", True),
        ("20:00", "08:00", "20:00", False),
        ("23:30", "22:00", "06:00", True),
        ("00:00", "22:00", "06:00", True),
        ("05:59", "22:00", "06:00", True),
        ("06:00", "22:00", "06:00", False),
        ("12:00", "22:00", "06:00", False),
        ("03:00", "00:00", "00:00", True),
        ("03:00", "09:00", "09:00", True),
    ],
)
def test_hours(local: str, opens: str, closes: str, serves: bool) -> None:
    found = rules.serves_at(*(time.fromisoformat(moment) for moment in (local, opens, closes)))
    assert found is serves


@given(TIMES, TIMES, TIMES)
def test_hours_turned_round_are_the_hours_it_is_shut(local: time, opens: time, closes: time) -> None:
    assume(opens != closes)
    assert rules.serves_at(local, opens, closes) is not rules.serves_at(local, closes, opens)


EIGHT, TWENTY, TEN_AT_NIGHT, SIX = time(8), time(20), time(22), time(6)


@pytest.mark.parametrize(
    ("now", "minutes_since", "opens", "closes", "silent"),
    [
        ("12:00", 15, EIGHT, TWENTY, False),
        ("12:00", 16, EIGHT, TWENTY, True),
        ("07:59", 600, EIGHT, TWENTY, False),
        ("08:15", 600, EIGHT, TWENTY, False),  # off over night, and its station opened a quarter of an hour ago
        ("08:16", 600, EIGHT, TWENTY, True),
        ("20:00", 600, EIGHT, TWENTY, False),
        ("22:15", 600, TEN_AT_NIGHT, SIX, False),
        ("00:01", 600, TEN_AT_NIGHT, SIX, True),
        ("05:59", 600, TEN_AT_NIGHT, SIX, True),
        ("06:00", 600, TEN_AT_NIGHT, SIX, False),
        ("03:00", 16, EIGHT, EIGHT, True),
        ("08:01", 16, EIGHT, EIGHT, True),  # never shut: no opening to wait for
    ],
)
def test_silence_is_counted_in_hours_of_service(
    now: str, minutes_since: int, opens: time, closes: time, silent: bool
) -> None:
    local = datetime.combine(datetime(2025, 7, 16, tzinfo=SHANGHAI), time.fromisoformat(now), SHANGHAI)
    last_seen = (local - timedelta(minutes=minutes_since)).astimezone(UTC)
    assert rules.is_silent(last_seen, local, opens, closes) is silent


@given(
    minute=st.integers(0, 2 * 24 * 60), gap=st.integers(0, 24 * 60), opens=TIMES, closes=TIMES, more=st.integers(1, 60)
)
def test_who_is_silent_is_still_silent_later_in_the_same_hours(
    minute: int, gap: int, opens: time, closes: time, more: int
) -> None:
    midnight = datetime(2025, 7, 16, tzinfo=SHANGHAI)
    now, later = midnight + timedelta(minutes=minute), midnight + timedelta(minutes=minute + more)
    minutes = [now + timedelta(minutes=number) for number in range(more + 1)]
    assume(rules.is_silent(now - timedelta(minutes=gap), now, opens, closes))
    assume(all(rules.serves_at(moment.time(), opens, closes) for moment in minutes))
    assume(all(moment.time() != opens for _, moment in pairwise(minutes)) or opens == closes)
    assert rules.is_silent(now - timedelta(minutes=gap), later, opens, closes)
