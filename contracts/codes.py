"""Shared vocabulary: counties, reporting units, programmes and kinds, as codes with their names.

County codes are GB/T 2260. Two functional zones of Tai'an report beside the six divisions and have no code of
their own; they are written ``<parent division>-<initials>`` so that a code always begins with a GB/T 2260 code.
"""

from dataclasses import dataclass
from enum import StrEnum

CITY = "370900"


@dataclass(frozen=True, slots=True)
class Unit:
    """A reporting unit: one of the six divisions, or a functional zone with its parent division."""

    code: str
    zh: str
    en: str
    parent: str


UNITS: dict[str, Unit] = {
    unit.code: unit
    for unit in (
        Unit("370902", "泰山区", "Taishan District", CITY),
        Unit("370911", "岱岳区", "Daiyue District", CITY),
        Unit("370921", "宁阳县", "Ningyang County", CITY),
        Unit("370923", "东平县", "Dongping County", CITY),
        Unit("370982", "新泰市", "Xintai City", CITY),
        Unit("370983", "肥城市", "Feicheng City", CITY),
        Unit("370911-gx", "高新区", "High-tech Zone", "370911"),
        Unit("370902-js", "泰山景区", "Mount Tai Scenic Area", "370902"),
    )
}
COUNTIES = tuple(code for code, unit in UNITS.items() if unit.parent == CITY)
REPORTING_UNITS = tuple(UNITS)
PLACES = (CITY, *REPORTING_UNITS)
"""Where an event can belong: a reporting unit, or the city as a whole."""
DISTRICTS = {CITY: Unit(CITY, "泰安市", "Tai'an", ""), **UNITS}
"""Every place by its code."""


def within(scope: str) -> tuple[str, ...]:
    """Reporting units that an officer of ``scope`` sees: all for the city, else the unit and its zones.

    An unknown scope sees nothing.
    """
    if scope == CITY:
        return REPORTING_UNITS
    return tuple(code for code, unit in UNITS.items() if scope in (code, unit.parent))


class Facility(StrEnum):
    """What a union station offers."""

    WATER = "water"
    MICROWAVE = "microwave"
    FIRST_AID = "first_aid"
    CHARGING = "charging"
    MOTHER_ROOM = "mother_room"
    REST = "rest"
    TOILET = "toilet"


class ServiceKind(StrEnum):
    """What a person came to a station for."""

    REST = "rest"
    WATER = "water"
    MEAL = "meal"
    CHARGING = "charging"
    FIRST_AID = "first_aid"
    MOTHER_ROOM = "mother_room"
    OTHER = "other"


class QuarantineReason(StrEnum):
    """Why a check-in waits for an officer."""

    FUTURE = "captured_in_future"
    TOO_OLD = "captured_too_long_ago"
    BEFORE_ENROLMENT = "captured_before_enrolment"
    CLOCK_OFF = "device_clock_off"
    STATION_NOT_ACTIVE = "station_not_active"
    IMPORTED = "imported_by_officer"


class FaultKind(StrEnum):
    """What is broken at a station."""

    POWER = "power"
    WATER = "water"
    NETWORK = "network"
    DEVICE = "device"
    APPLIANCE = "appliance"
    DOOR = "door"
    OTHER = "other"


class Enrolment(StrEnum):
    """How an account came to be."""

    SELF = "self"
    COUNTER = "counter"
    IMPORT = "import"


class Channel(StrEnum):
    """By what a notice reaches a person."""

    INBOX = "inbox"
    SMS = "sms"
    CHAT = "chat"


class NoticeFailure(StrEnum):
    """Why a channel could not deliver a notice, for good."""

    REFUSED = "refused_by_gateway"
    UNREACHABLE = "gateway_unreachable"
    NO_ADDRESS = "no_address"
    UNKNOWN_PERSON = "unknown_person"


class NoticeTemplate(StrEnum):
    """What other services have people told; its words stand in the people service. Each begins with its service."""

    CHILDCARE_CONFIRMED = "childcare_confirmed"
    CHILDCARE_INELIGIBLE = "childcare_ineligible"
    CHILDCARE_WAITLISTED = "childcare_waitlisted"
    CHILDCARE_OFFERED = "childcare_offered"
    CHILDCARE_OFFER_EXPIRED = "childcare_offer_expired"
    CHILDCARE_PRIORITY_CHANGED = "childcare_priority_changed"
    CHILDCARE_DRAW_COMMITTED = "childcare_draw_committed"
    CHILDCARE_DRAWN = "childcare_drawn"
    CHILDCARE_REMOVED = "childcare_removed"
    CHILDCARE_CLASS_CANCELLED = "childcare_class_cancelled"


class NoticeReason(StrEnum):
    """Why what somebody is told of was decided so."""

    AGE = "age_out_of_range"
    COUNTY = "other_county"
    OVERLAP = "days_overlap"
    ENTERED_TWICE = "entered_twice"
    WRONG_CHILD = "wrong_child"
    WRONG_CLASS = "wrong_class"
    NOT_ENTITLED = "not_entitled"
    ROSTER = "household_roster"
    OFFICER = "officer_decision"
    ERROR = "entered_wrongly"


class Held(StrEnum):
    """What the law makes a service keep of somebody who was erased."""

    AUDIT_TRAIL = "audit_trail"
    GRANTS_PAID = "grants_paid"
