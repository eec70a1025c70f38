"""Pure decisions about stations, devices and check-ins: no I/O, no framework."""

from datetime import datetime, time, timedelta
from typing import Final

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

ACCEPTED, QUARANTINED, APPROVED, VOIDED, REJECTED = "accepted", "quarantined", "approved", "voided", "rejected"
COUNTED: Final = (ACCEPTED, APPROVED)

OPEN, CLEARED = "open", "cleared"

FUTURE_TOLERANCE: Final = timedelta(minutes=5)
AGE_MAX: Final = timedelta(days=30)
CLOCK_TOLERANCE: Final = timedelta(minutes=10)
SILENT_AFTER: Final = timedelta(minutes=15)
"""Three missed heartbeats of five minutes."""


def decide_station_move(state: str, move: str) -> str | None:
    """The state a station comes to, or None where the move is not open to it."""
    return _STATION_MOVES.get((move, state))


def judge(
    captured_at: datetime,
    received_at: datetime,
    *,
    clock_offset: timedelta,
    enrolled_at: datetime,
    station_state: str,
    state_since: datetime,
    imported: bool = False,
) -> tuple[QuarantineReason, ...]:
    """Why a check-in must wait for an officer; nothing: it counts at once.

    ``clock_offset`` is what the device's clock lacks (received minus sent). What happened before its station
    stopped serving still counts.
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
    if station_state != ACTIVE and captured_at >= state_since:
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


def is_silent(last_seen: datetime, now: datetime) -> bool:
    """Whether a device has missed three heartbeats."""
    return now - last_seen > SILENT_AFTER
