"""Builders of what tests write: a document with its events, the write that carries them, an actor."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from typing import Any, Final

from stdnum.iso7064 import mod_11_2

from contracts import codes, envelope
from contracts.envelope import Event
from services.kernel import audit, clock, ids, telemetry
from services.kernel.auth import Actor
from services.kernel.outbox import Emit, Write

NOON: Final = datetime(2025, 7, 16, 4, 0, tzinfo=UTC)
"""12:00 in Tai'an."""
ID_NUMBER: Final = "370902199001011234"
"""A canary: wherever it is found outside the database, a personal datum has leaked."""


def id_number(number: int, born: date = date(1990, 1, 1)) -> str:
    """A valid ID number of nobody, another for each ``number`` below a thousand (GB 11643: ISO 7064 MOD 11-2)."""
    body = f"370902{born:%Y%m%d}{number:03}"
    return body + mod_11_2.calc_check_digit(body)


def officer(
    subject: str = "officer-1", *, scope: str = codes.CITY, roles: tuple[str, ...] = ("city_officer",)
) -> Actor:
    """A person with roles over a district."""
    return Actor(id=subject, kind="person", roles=frozenset(roles), scope=scope)


def write(*emit: Emit, at: datetime = NOON, by: Actor | None = None) -> Write:
    """What a write carries besides its content."""
    return Write(
        at=at, trace=telemetry.continued(None), audit=audit.row(by or officer(), "note.write", at=at), emit=emit
    )


def event(type_: str, data: Mapping[str, Any], /, **attributes: Any) -> Event:
    """An event of any type; ``attributes`` replace those of the envelope."""
    known: dict[str, Any] = {
        "id": ids.new(),
        "subject": ids.new(),
        "seq": 1,
        "county": "370902",
        "time": clock.rfc3339(NOON),
        "recordedtime": clock.rfc3339(NOON),
        "traceparent": telemetry.continued(None),
    }
    return envelope.event(type=type_, data=data, **{**known, **attributes})
