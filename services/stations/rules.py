"""Pure decisions about stations, devices and check-ins: no I/O, no framework."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from contracts.codes import QuarantineReason

OFFICERS: Final = frozenset({"county_officer", "city_officer"})
STAFF: Final = frozenset({"station_staff"})
READERS: Final = OFFICERS | STAFF | {"unit_officer", "ops"}
DEVICES: Final = frozenset({"device"})

PROPOSED, ACTIVE, SUSPENDED, CLOSED = "proposed", "active", "suspended", "closed"
STATION_STATES: Final = (PROPOSED, ACTIVE, SUSPENDED, CLOSED)
_STATION_MOVES: Final = {
    ("open", PROPOSED): ACTIVE,
    ("suspend", ACTIVE): SUSPENDED,
    ("resume", SUSPENDED): ACTIVE,
    ("close", ACTIVE): CLOSED,
    ("close", SUSPENDED): CLOSED,
}
STATION_MOVES: Final = ("open", "suspend", "resume", "close")

ENROLLED, REVOKED = "enrolled", "revoked"
"""A device is ``enrolled`` until its first contact makes it ``active``."""
DEVICE_STATES: Final = (ENROLLED, ACTIVE, REVOKED)

ACCEPTED, QUARANTINED, APPROVED, VOIDED, REJECTED = "accepted", "quarantined", "approved", "voided", "rejected"
"""What is rejected is not kept: its sender has the answer."""
CHECKIN_STATES: Final = (ACCEPTED, QUARANTINED, APPROVED, VOIDED)
COUNTED: Final = (ACCEPTED, APPROVED)

OPEN, CLEARED = "open", "cleared"
FAULT_STATES: Final = (OPEN, CLEARED)

FUTURE_TOLERANCE: Final = timedelta(minutes=5)
AGE_MAX: Final = timedelta(days=30)
CLOCK_TOLERANCE: Final = timedelta(minutes=10)
EARLIEST: Final = datetime(2000, 1, 1, tzinfo=UTC)
"""No check-in counts before it: what lies there is a clock that was never set."""
SILENT_AFTER: Final = timedelta(minutes=15)
"""Three missed heartbeats of five minutes."""


def decide_station_move(state: str, move: str) -> str | None:
    """The state a station comes to, or None where the move is not open to it."""
    return _STATION_MOVES.get((move, state))


def served_at(history: Sequence[Mapping[str, Any]], instant: datetime) -> bool:
    """Whether a station served at an instant, by its ``history`` of states (``state``, ``since``), oldest first.

    A clock that is slow within the tolerance does not put the first guests before the opening.
    """
    return _state_at(history, instant) == ACTIVE or _state_at(history, instant + FUTURE_TOLERANCE) == ACTIVE


def _state_at(history: Sequence[Mapping[str, Any]], instant: datetime) -> str | None:
    for entry in reversed(history):
        if entry["since"] <= instant:
            state: str = entry["state"]
            return state
    return None


def judge(
    captured_at: datetime,
    received_at: datetime,
    *,
    clock_offset: timedelta,
    enrolled_at: datetime,
    served: bool,
    imported: bool = False,
) -> tuple[QuarantineReason, ...]:
    """Why a check-in must wait for an officer; nothing: it counts at once.

    ``clock_offset`` is what the device's clock lacks (received minus sent). ``served``: whether the station served
    when the check-in was captured, whatever it has done since.
    """
    reasons = []
    if imported:
        reasons.append(QuarantineReason.IMPORTED)
    if captured_at > received_at + FUTURE_TOLERANCE:
        reasons.append(QuarantineReason.FUTURE)
    if captured_at < received_at - AGE_MAX:
        reasons.append(QuarantineReason.TOO_OLD)
    if captured_at < enrolled_at - FUTURE_TOLERANCE:
        reasons.append(QuarantineReason.BEFORE_ENROLMENT)
    if abs(clock_offset) > CLOCK_TOLERANCE:
        reasons.append(QuarantineReason.CLOCK_OFF)
    if not served:
        reasons.append(QuarantineReason.STATION_NOT_ACTIVE)
    return tuple(reasons)


def corrected(captured_at: datetime, clock_offset: timedelta) -> datetime:
    """When a check-in really happened, if the device's clock was as wrong then as when it sent."""
    if abs(clock_offset) > CLOCK_TOLERANCE:
        return captured_at + clock_offset
    return captured_at


def serves_at(local: time, opens: time, closes: time) -> bool:
    """Whether a station serves at a time of day; it may close after midnight, and ``opens == closes`` is all day."""
    if opens == closes:
        return True
    if opens < closes:
        return opens <= local < closes
    return local >= opens or local < closes


def is_silent(last_seen: datetime, now: datetime, opens: time, closes: time) -> bool:
    """Whether a device has missed three heartbeats of its station's hours; ``now`` is local time.

    Outside the hours it may be switched off: its silence begins with the opening.
    """
    if not serves_at(now.time(), opens, closes):
        return False
    awaited_since = last_seen if opens == closes else max(last_seen, _last(opens, now))
    return now - awaited_since > SILENT_AFTER


def _last(moment: time, now: datetime) -> datetime:
    today = now.replace(hour=moment.hour, minute=moment.minute, second=0, microsecond=0)
    return today if today <= now else today - timedelta(days=1)
