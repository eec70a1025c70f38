"""The documents of the stations service and their indexes.

Read through these classes; written through ``store`` alone (conditional updates whose events ride along), never by
``save()``: two stale ``save()`` calls would rewrite the list of pending events and one of them would be gone.
"""

from typing import Any, Final

from mongoengine import (
    BooleanField,
    DateTimeField,
    DictField,
    Document,
    EmbeddedDocument,
    EmbeddedDocumentListField,
    IntField,
    ListField,
    StringField,
)

from contracts.codes import REPORTING_UNITS, Facility, FaultKind, QuarantineReason, ServiceKind
from services.stations import rules

ALIAS: Final = "stations"
_META: Final[dict[str, Any]] = {"db_alias": ALIAS, "auto_create_index": False, "strict": False}


class FacilitySince(EmbeddedDocument):
    """A facility and the day since when a station has it."""

    kind = StringField(required=True, choices=list(map(str, Facility)))
    since = StringField(required=True)


class StateSince(EmbeddedDocument):
    """A state of a station and when it came to it."""

    state = StringField(required=True, choices=list(rules.STATION_STATES))
    since = DateTimeField(required=True)


class Station(Document):
    """A place where anyone may rest and drink."""

    meta = {**_META, "collection": "stations", "indexes": [("county", "_id"), ("state", "_id")]}
    id = StringField(primary_key=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    name = StringField(required=True, max_length=60)
    address = StringField(required=True, max_length=120)
    state = StringField(required=True, choices=list(rules.STATION_STATES))
    state_since = DateTimeField(required=True)
    history = EmbeddedDocumentListField(StateSince, required=True)
    facilities = EmbeddedDocumentListField(FacilitySince)
    opens = StringField(required=True)
    closes = StringField(required=True)
    position = DictField(null=True)


class Device(Document):
    """A tablet or gateway that may post for one station; ``keys`` are digests of at most two live secrets."""

    meta = {**_META, "collection": "devices", "indexes": [("station", "_id"), ("silent", "last_seen")]}
    id = StringField(primary_key=True)
    station = StringField(required=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    label = StringField(required=True, max_length=60)
    state = StringField(required=True, choices=list(rules.DEVICE_STATES))
    enrolled_at = DateTimeField(required=True)
    keys = ListField(StringField())
    last_seen = DateTimeField()
    unsent = IntField()
    offset_ms = IntField()
    silent = BooleanField(default=False)


class Checkin(Document):
    """People served at a station: its own event. Inserted as a plain document (the hot path), read here."""

    meta = {
        **_META,
        "collection": "checkins",
        "indexes": [
            {"fields": ["county", "day", "station"], "name": "counts"},
            {
                "fields": ["county", "received_at"],
                "name": "quarantine",
                "partialFilterExpression": {"status": rules.QUARANTINED},
            },
        ],
    }
    id = StringField(primary_key=True)
    client_id = StringField(required=True)
    device = StringField(required=True)
    station = StringField(required=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    kind = StringField(required=True, choices=list(map(str, ServiceKind)))
    people = IntField(required=True)
    captured_at = DateTimeField(required=True)
    received_at = DateTimeField(required=True)
    offset_ms = IntField(required=True)
    day = StringField(required=True)
    status = StringField(required=True, choices=list(rules.CHECKIN_STATES))
    reasons = ListField(StringField(choices=list(map(str, QuarantineReason))))


class Fault(Document):
    """Something that is broken at a station."""

    meta = {**_META, "collection": "faults", "indexes": [("county", "state", "_id"), ("station", "_id")]}
    id = StringField(primary_key=True)
    station = StringField(required=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    kind = StringField(required=True, choices=list(map(str, FaultKind)))
    note = StringField(max_length=200)
    state = StringField(required=True, choices=list(rules.FAULT_STATES))
    reported_at = DateTimeField(required=True)


class Supply(Document):
    """A stock of something at a station that may expire."""

    meta = {**_META, "collection": "supplies", "indexes": [("county", "expires_on"), ("station", "_id")]}
    id = StringField(primary_key=True)
    station = StringField(required=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    item = StringField(required=True, max_length=60)
    quantity = IntField(required=True, min_value=0)
    unit = StringField(required=True, max_length=10)
    expires_on = StringField(null=True)


DOCUMENTS: Final = (Station, Device, Checkin, Fault, Supply)
