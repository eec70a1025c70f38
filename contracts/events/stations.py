"""What the stations service says: stations, devices, check-ins, faults."""

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from marshmallow import ValidationError, fields, validate, validates_schema

from contracts.codes import Facility, FaultKind, QuarantineReason, ServiceKind
from contracts.envelope import Event
from contracts.events import Code, Codes, Day, EventData, Flag, Identifier, Number, Part, refuse_twice
from contracts.events.erasure import ErasureConfirmed
from contracts.measures import Count

PROGRAMME = "stations"
PEOPLE_MAX = 500


class _FacilitySince(Part):
    kind = Code(Facility)
    since = Day()


def _FacilitiesSince(*, least: int = 0) -> fields.List[Any]:  # noqa: N802 (reads as a field)
    return fields.List(
        fields.Nested(_FacilitySince),
        required=True,
        validate=[validate.Length(least, len(Facility)), _refuse_kind_twice],
        metadata={"uniqueItems": True},
    )


def _refuse_kind_twice(facilities: Sequence[Mapping[str, str]]) -> None:
    refuse_twice([facility["kind"] for facility in facilities])


def _count(event: Event, measure: str, delta: int, day: str | None = None) -> Count:
    return Count(measure, PROGRAMME, event["county"], day or event["data"]["day"], delta)


def _new_mother_rooms_lost(event: Event) -> tuple[Count, ...]:
    """A mother room counts as new in the year it opened; closing it in a later year does not unmake that year."""
    day = event["data"]["day"]
    return tuple(
        _count(event, "stations.mother_rooms", -1, facility["since"])
        for facility in event["data"]["facilities"]
        if facility["kind"] == Facility.MOTHER_ROOM and facility["since"][:4] == day[:4]
    )


class StationOpenedV1(EventData):
    """A proposed station began to serve; its facilities at that moment."""

    type: ClassVar[str] = "stations.station_opened.v1"
    day = Day()
    facilities = Codes(Facility)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more station; a mother room among its facilities is a new one."""
        opened = (_count(event, "stations.stations", 1),)
        if Facility.MOTHER_ROOM in event["data"]["facilities"]:
            return (*opened, _count(event, "stations.mother_rooms", 1))
        return opened


class FacilityAddedV1(EventData):
    """A station that was already open gained a facility."""

    type: ClassVar[str] = "stations.facility_added.v1"
    day = Day()
    facility = Code(Facility)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """A mother room is counted, other facilities are not."""
        if event["data"]["facility"] != Facility.MOTHER_ROOM:
            return ()
        return (_count(event, "stations.mother_rooms", 1),)


class FacilityRemovedV1(EventData):
    """An open station lost facilities; each with the day since when it had it."""

    type: ClassVar[str] = "stations.facility_removed.v1"
    day = Day()
    facilities = _FacilitiesSince(least=1)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """A mother room of the same year is taken back on the day it was counted."""
        return _new_mother_rooms_lost(event)


class StationSuspendedV1(EventData):
    """A station stopped serving for a while."""

    type: ClassVar[str] = "stations.station_suspended.v1"
    day = Day()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more suspended station; it stays a station."""
        return (_count(event, "stations.suspended", 1),)


class StationResumedV1(EventData):
    """A suspended station serves again."""

    type: ClassVar[str] = "stations.station_resumed.v1"
    day = Day()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One suspended station less."""
        return (_count(event, "stations.suspended", -1),)


class StationClosedV1(EventData):
    """A station closed for good; its facilities, each with the day since when it had it."""

    type: ClassVar[str] = "stations.station_closed.v1"
    day = Day()
    was_suspended = Flag()
    facilities = _FacilitiesSince()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One station less, and what of it counted as new this year."""
        suspended = (_count(event, "stations.suspended", -1),) if event["data"]["was_suspended"] else ()
        return (_count(event, "stations.stations", -1), *suspended, *_new_mother_rooms_lost(event))


class CheckinRecordedV1(EventData):
    """People were served at a station; ``day`` is the day of capture."""

    type: ClassVar[str] = "stations.checkin_recorded.v1"
    day = Day()
    station = Identifier()
    kind = Code(ServiceKind)
    people = Number(1, PEOPLE_MAX)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """People and records, on the day of capture."""
        return (
            _count(event, "stations.checkins", event["data"]["people"]),
            _count(event, "stations.checkin_records", 1),
        )


class CheckinQuarantinedV1(EventData):
    """A check-in waits for an officer; ``day`` is the day it was received."""

    type: ClassVar[str] = "stations.checkin_quarantined.v1"
    day = Day()
    station = Identifier()
    kind = Code(ServiceKind)
    people = Number(1, PEOPLE_MAX)
    reasons = Codes(QuarantineReason, least=1)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more waits."""
        return (_count(event, "stations.quarantined", 1),)


class CheckinApprovedV1(EventData):
    """An officer let a quarantined check-in count, on ``day``; ``corrects`` names the quarantine's event."""

    type: ClassVar[str] = "stations.checkin_approved.v1"
    day = Day()
    quarantined_day = Day()
    station = Identifier()
    kind = Code(ServiceKind)
    people = Number(1, PEOPLE_MAX)
    corrects = Identifier()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """People and records on the day approved for, one less waits."""
        return (
            _count(event, "stations.checkins", event["data"]["people"]),
            _count(event, "stations.checkin_records", 1),
            _count(event, "stations.quarantined", -1, event["data"]["quarantined_day"]),
        )


class CheckinVoidedV1(EventData):
    """An officer took a check-in back.

    ``people`` is negative (or 0 where it never counted); ``day`` is the day it had counted on, or the day it was
    quarantined; ``corrects`` names the event that had counted.
    """

    type: ClassVar[str] = "stations.checkin_voided.v1"
    day = Day()
    station = Identifier()
    kind = Code(ServiceKind)
    people = Number(-PEOPLE_MAX, 0)
    was_quarantined = Flag()
    corrects = Identifier()

    @validates_schema
    def refuse_half_a_void(self, data: Mapping[str, Any], **_kwargs: object) -> None:
        """Raises ValidationError where people and records would not come back together."""
        if data["was_quarantined"] != (data["people"] == 0):
            raise ValidationError("0 people exactly where the check-in never counted.", "people")

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """Takes back what was counted, on the day it was counted."""
        if event["data"]["was_quarantined"]:
            return (_count(event, "stations.quarantined", -1),)
        return (
            _count(event, "stations.checkins", event["data"]["people"]),
            _count(event, "stations.checkin_records", -1),
        )


class DeviceEnrolledV1(EventData):
    """A device may post check-ins for a station."""

    type: ClassVar[str] = "stations.device_enrolled.v1"
    day = Day()
    station = Identifier()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more device."""
        return (_count(event, "stations.devices", 1),)


class DeviceRevokedV1(EventData):
    """A device may no longer post."""

    type: ClassVar[str] = "stations.device_revoked.v1"
    day = Day()
    station = Identifier()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One device less."""
        return (_count(event, "stations.devices", -1),)


class FaultReportedV1(EventData):
    """Something at a station is broken."""

    type: ClassVar[str] = "stations.fault_reported.v1"
    day = Day()
    station = Identifier()
    kind = Code(FaultKind)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more open fault."""
        return (_count(event, "stations.faults", 1),)


class FaultClearedV1(EventData):
    """A fault was mended; ``reported_day`` is the day it had been counted on."""

    type: ClassVar[str] = "stations.fault_cleared.v1"
    day = Day()
    reported_day = Day()
    station = Identifier()
    kind = Code(FaultKind)
    corrects = Identifier()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One open fault less: a level, so it falls on the day of mending."""
        return (_count(event, "stations.faults", -1),)


class HeartbeatMissedV1(EventData):
    """An active device has not been heard of for the stated time (whole seconds)."""

    type: ClassVar[str] = "stations.heartbeat_missed.v1"
    day = Day()
    station = Identifier()
    silent_seconds = Number(1, 10**9)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more silence."""
        return (_count(event, "stations.silences", 1),)


class ErasureConfirmedV1(ErasureConfirmed):
    """Stations holds nothing of an erased account (its subject) any more."""

    type: ClassVar[str] = "stations.erasure_confirmed.v1"
