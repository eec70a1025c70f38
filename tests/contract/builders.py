"""Builders of valid events: one example of every type, which a test changes where it looks.

``python -m tests.contract.builders 0.1.0`` writes the fixture of every type that has none: the example as the
release of that number published it. A fixture is never written again.
"""

import json
import sys
from pathlib import Path
from typing import Any, Final
from uuid import NAMESPACE_URL, uuid5

from contracts.catalogue import CATALOGUE
from contracts.envelope import Event, event

HERE: Final = Path(__file__).parent
FIXTURES: Final = HERE / "fixtures"
DAY: Final = "2025-07-16"


def uid(name: str) -> str:
    """The same UUID for the same name, for ever."""
    return str(uuid5(NAMESPACE_URL, f"https://estation.example/tests/{name}"))


DATA: Final[dict[str, dict[str, Any]]] = {
    "stations.station_opened.v1": {"day": DAY, "facilities": ["water", "microwave", "mother_room"]},
    "stations.facility_added.v1": {"day": DAY, "facility": "mother_room"},
    "stations.facility_removed.v1": {"day": DAY, "facilities": [{"kind": "mother_room", "since": "2025-03-08"}]},
    "stations.station_suspended.v1": {"day": DAY},
    "stations.station_resumed.v1": {"day": DAY},
    "stations.station_closed.v1": {
        "day": DAY,
        "was_suspended": True,
        "facilities": [{"kind": "water", "since": "2024-11-05"}, {"kind": "mother_room", "since": "2025-03-08"}],
    },
    "stations.checkin_recorded.v1": {"day": DAY, "station": uid("station"), "kind": "water", "people": 3},
    "stations.checkin_quarantined.v1": {
        "day": DAY,
        "station": uid("station"),
        "kind": "rest",
        "people": 2,
        "reasons": ["captured_in_future", "device_clock_off"],
    },
    "stations.checkin_approved.v1": {
        "day": DAY,
        "quarantined_day": "2025-07-14",
        "station": uid("station"),
        "kind": "rest",
        "people": 2,
        "corrects": uid("quarantined"),
    },
    "stations.checkin_voided.v1": {
        "day": DAY,
        "station": uid("station"),
        "kind": "water",
        "people": -3,
        "was_quarantined": False,
        "corrects": uid("recorded"),
    },
    "stations.device_enrolled.v1": {"day": DAY, "station": uid("station")},
    "stations.device_revoked.v1": {"day": DAY, "station": uid("station")},
    "stations.fault_reported.v1": {"day": DAY, "station": uid("station"), "kind": "power"},
    "stations.fault_cleared.v1": {
        "day": DAY,
        "reported_day": "2025-07-14",
        "station": uid("station"),
        "kind": "power",
        "corrects": uid("reported"),
    },
    "stations.heartbeat_missed.v1": {"day": DAY, "station": uid("station"), "silent_seconds": 5400},
    "people.person_registered.v1": {"day": DAY, "by": "self"},
    "people.session_revoked.v1": {"day": DAY, "session": uid("session")},
    "people.subject_erased.v1": {"day": DAY, "due": "2025-07-31", "refs": ["3f" * 32]},
    "people.erasure_completed.v1": {"day": DAY},
    "people.notice_dispatched.v1": {"day": DAY, "channel": "sms", "about": uid("offer")},
    "people.notice_failed.v1": {"day": DAY, "channel": "sms", "reason": "no_address", "about": uid("offer")},
    "stations.erasure_confirmed.v1": {
        "day": DAY,
        "documents": 2,
        "held": [{"what": "grants_paid", "until": "2035-07-31"}, {"what": "audit_trail"}],
    },
    "childcare.notice_requested.v1": {
        "day": DAY,
        "ref": "3f" * 32,
        "template": "childcare_priority_changed",
        "params": {
            "day": "2025-07-21",
            "moment": "2025-07-18T12:00:00.000Z",
            "count": 24,
            "position": 3,
            "reason": "household_roster",
        },
        "about": uid("offer"),
    },
}


def build(type_: str, /, *, county: str = "370902", **data: object) -> Event:
    """A valid event of a type; ``data`` replaces or adds single fields of its data."""
    return event(
        id=uid(f"id of {type_}"),
        type=type_,
        subject=uid(f"subject of {type_}"),
        seq=1,
        county=county,
        time="2025-07-16T09:30:00+08:00",
        recordedtime="2025-07-16T09:30:01.250000+08:00",
        traceparent="00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01",
        data={**DATA[type_], **data},
    )


def write_missing_fixtures(release: str) -> None:
    """Writes ``fixtures/<type>/<release>.json`` for every type that has no fixture at all."""
    for entry in CATALOGUE:
        folder = FIXTURES / entry.type
        if not any(folder.glob("*.json")):
            folder.mkdir(parents=True, exist_ok=True)
            text = json.dumps(build(entry.type), ensure_ascii=False, indent=2) + "\n"
            (folder / f"{release}.json").write_text(text, "utf-8")


if __name__ == "__main__":
    write_missing_fixtures(sys.argv[1])
