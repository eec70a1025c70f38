"""Shapes of HTTP input and output of the stations service; separate for in and out."""

from collections.abc import Mapping
from datetime import date
from typing import Any, Final

from marshmallow import ValidationError, fields, validate, validates_schema

from contracts.codes import REPORTING_UNITS, Facility, FaultKind, QuarantineReason, ServiceKind
from contracts.events.stations import PEOPLE_MAX
from services.kernel import ids
from services.kernel.fields import In, Instant, Out, choice, clock_time, day, instant, number, text, unique, uuid_text
from services.kernel.http import Page, ReadQuery
from services.kernel.messages import Message
from services.stations import rules

BATCH_MAX: Final = 500
BATCH_BYTES: Final = 256 * 1024
COUNTED_DAYS_MAX: Final = 366

MESSAGES: Final = {
    "wrong_state": Message("当前状态为 {state},不能这样办理。", "Not possible in the present state, {state}."),
    "facility_present": Message("该驿站已有此设施。", "The station has this facility already."),
    "outside_your_district": Message("不在您的辖区内。", "Outside your district."),
    "unknown_station": Message("没有这个驿站,或设备不属于它。", "No such station, or not this device's."),
    "content_changed": Message("同一编号的签到内容不一致。", "This id was sent before with other content."),
    "in_the_future": Message("不能晚于现在。", "Lies in the future."),
    "not_a_number": Message("应为数值。", "A number is needed."),
    "not_a_uuid": Message("应为 UUID。", "A UUID is needed."),
    "given_twice": Message("重复填写。", "Given twice."),
}


def _id(metadata: Mapping[str, Any] | None = None, **kwargs: Any) -> fields.String:
    return fields.String(validate=uuid_text, metadata={"format": "uuid", **(metadata or {})}, **kwargs)


class _Degrees(fields.Float):
    """A JSON number; marshmallow alone takes "12.5" for one."""

    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> float:
        if isinstance(value, str):
            raise ValidationError("not_a_number")
        return super()._deserialize(value, attr, data, **kwargs)


class Position(In):
    """WGS 84."""

    lat = _Degrees(required=True, validate=validate.Range(-90, 90, error="out_of_range"))
    lon = _Degrees(required=True, validate=validate.Range(-180, 180, error="out_of_range"))


class StationIn(In):
    """A station to register."""

    county = choice(REPORTING_UNITS, required=True)
    name = text(2, 60, required=True)
    address = text(2, 120, required=True)
    facilities = fields.List(
        choice(Facility),
        required=True,
        validate=[validate.Length(max=len(Facility), error="out_of_range"), unique],
        metadata={"uniqueItems": True},
    )
    opens = clock_time(load_default="08:00")
    closes = clock_time(load_default="20:00")
    position = fields.Nested(Position, load_default=None, allow_none=True)


class StationEdit(In):
    """What of a station may be edited."""

    name = text(2, 60)
    address = text(2, 120)
    opens = clock_time()
    closes = clock_time()
    position = fields.Nested(Position, allow_none=True)


class ReasonIn(In):
    """Why."""

    reason = text(2, 200, required=True)


class FacilityIn(In):
    """A facility to add."""

    facility = choice(Facility, required=True)


class FacilityOut(Out):
    """A facility and since when."""

    kind = choice(Facility, required=True)
    since = day(required=True)


class PlaceOut(Out):
    """What there is to know of a station for those who look for one."""

    id = _id(attribute="_id", required=True)
    county = choice(REPORTING_UNITS, required=True)
    name = fields.String(required=True)
    address = fields.String(required=True)
    facilities = fields.List(fields.Nested(FacilityOut), required=True)
    opens = clock_time(required=True)
    closes = clock_time(required=True)
    position = fields.Nested(Position, required=True, allow_none=True)


class PublicStationOut(PlaceOut):
    """A station in service as anyone may see it; ``open_now`` by its hours, Asia/Shanghai."""

    open_now = fields.Boolean(required=True)


class StationOut(PlaceOut):
    """A station as its officers see it."""

    state = choice(rules.STATION_STATES, required=True)
    state_since = fields.AwareDateTime(required=True)
    rev = fields.Integer(required=True)


class StationFilter(Page):
    """Filters of the list of stations."""

    county = choice(REPORTING_UNITS)
    state = choice(rules.STATION_STATES)


class OpenStationFilter(Page):
    """Filters of the public list."""

    county = choice(REPORTING_UNITS)
    facility = choice(Facility)


class DeviceIn(In):
    """A device to enroll."""

    label = text(1, 60, required=True)


class DeviceOut(Out):
    """A device; never its keys."""

    id = _id(attribute="_id", required=True)
    station = _id(required=True)
    county = choice(REPORTING_UNITS, required=True)
    label = fields.String(required=True)
    state = choice(rules.DEVICE_STATES, required=True)
    enrolled_at = fields.AwareDateTime(required=True)
    last_seen = fields.AwareDateTime(metadata={"description": "Absent before the first contact"})
    unsent = fields.Integer(metadata={"description": "Rows that it still held at its last heartbeat"})
    silent = fields.Boolean(required=True)
    rev = fields.Integer(required=True)


class DeviceKeyOut(DeviceOut):
    """A device with its key, which is shown once; null where the same request was answered before."""

    key = fields.String(required=True, allow_none=True, metadata={"examples": ["esd_<device>.<secret>", None]})


class CheckinRow(In):
    """One check-in as a device captured it."""

    id = _id(required=True, metadata={"description": "The device's own, the same when sent again"})
    captured_at = Instant(required=True, metadata={"examples": ["2025-07-16T09:30:00+08:00"]})
    kind = choice(ServiceKind, required=True)
    people = number(1, PEOPLE_MAX, required=True)
    station = _id()


class _Unread(fields.Nested):
    """Documented as what it nests, let through as it is: :func:`load_row` judges each row alone."""

    def deserialize(self, value: Any, attr: str | None = None, data: Any = None, **kwargs: Any) -> Any:
        del attr, data, kwargs
        return value


def _rows() -> fields.List[Any]:
    return fields.List(_Unread(CheckinRow), required=True, validate=validate.Length(1, BATCH_MAX, error="out_of_range"))


class CheckinBatchIn(In):
    """1 to 500 check-ins; each row is judged alone, so rows are not checked here (see CheckinRow)."""

    sent_at = Instant(metadata={"description": "The device's clock when sending; finds a clock that is off"})
    items = _rows()


class CheckinImportIn(In):
    """What a device still held, brought in by an officer."""

    device = _id(required=True)
    reason = text(2, 200, required=True)
    items = _rows()


class CheckinResult(Out):
    """What became of one row; ``final``: sending it again changes nothing."""

    id = _id(required=True, allow_none=True)
    status = choice((rules.ACCEPTED, rules.QUARANTINED, rules.REJECTED), required=True)
    code = fields.String(
        required=True,
        metadata={"description": "recorded, the first reason to wait, or what is wrong", "examples": ["recorded"]},
    )
    final = fields.Boolean(required=True)
    field = fields.String(metadata={"description": "The field that a rejection is about"})


class CheckinBatchOut(Out):
    """One result a row, in the order of the rows."""

    received_at = fields.AwareDateTime(required=True)
    results = fields.List(fields.Nested(CheckinResult), required=True)


class CheckinOut(Out):
    """A check-in as officers see it."""

    id = _id(attribute="_id", required=True)
    device = _id(required=True)
    station = _id(required=True)
    county = choice(REPORTING_UNITS, required=True)
    kind = choice(ServiceKind, required=True)
    people = fields.Integer(required=True)
    captured_at = fields.AwareDateTime(required=True)
    received_at = fields.AwareDateTime(required=True)
    offset_ms = fields.Integer(
        required=True, metadata={"description": "What the device's clock lacked when it sent, in milliseconds"}
    )
    day = fields.String(required=True, metadata={"format": "date", "description": "The day it counts on"})
    status = choice(rules.CHECKIN_STATES, required=True)
    reasons = fields.List(choice(QuarantineReason), required=True)
    rev = fields.Integer(required=True)


class ApprovalIn(ReasonIn):
    """An officer's approval; ``captured_at`` where the officer knows better."""

    captured_at = Instant()


class HeartbeatIn(In):
    """A device's sign of life."""

    sent_at = Instant()
    unsent = number(0, 10**7, load_default=0)


class FaultIn(In):
    """A fault; a device reports for its own station, people name it."""

    station = _id()
    kind = choice(FaultKind, required=True)
    note = text(0, 200, load_default="")


class FaultOut(Out):
    """A fault."""

    id = _id(attribute="_id", required=True)
    station = _id(required=True)
    county = choice(REPORTING_UNITS, required=True)
    kind = choice(FaultKind, required=True)
    note = fields.String(required=True)
    state = choice(rules.FAULT_STATES, required=True)
    reported_at = fields.AwareDateTime(required=True)
    rev = fields.Integer(required=True)


class FaultFilter(Page):
    """Filters of the list of faults."""

    state = choice(rules.FAULT_STATES)
    station = _id()


class SupplyIn(In):
    """A stock."""

    station = _id(required=True)
    item = text(1, 60, required=True)
    quantity = number(0, 10**6, required=True)
    unit = text(1, 10, required=True)
    expires_on = day(load_default=None, allow_none=True)


class SupplyEdit(In):
    """What of a stock may be edited."""

    quantity = number(0, 10**6)
    expires_on = day(allow_none=True)


class SupplyOut(Out):
    """A stock."""

    id = _id(attribute="_id", required=True)
    station = _id(required=True)
    county = choice(REPORTING_UNITS, required=True)
    item = fields.String(required=True)
    quantity = fields.Integer(required=True)
    unit = fields.String(required=True)
    expires_on = day(required=True, allow_none=True)
    rev = fields.Integer(required=True)


class SupplyFilter(Page):
    """Filters of the list of supplies."""

    station = _id()
    expires_before = day()


class DayRange(ReadQuery):
    """From one day to another, both included; at most a year of them."""

    first_day = day(required=True)
    last_day = day(required=True)

    @validates_schema(skip_on_field_errors=True)
    def refuse_no_range(self, data: Mapping[str, str], **_kwargs: object) -> None:
        """Raises ValidationError where the days do not follow one another, or are too many."""
        days = (date.fromisoformat(data["last_day"]) - date.fromisoformat(data["first_day"])).days
        if not 0 <= days < COUNTED_DAYS_MAX:
            raise ValidationError("out_of_range", "last_day")


class CountOut(Out):
    """What counts on a day in a county."""

    county = choice(REPORTING_UNITS, required=True)
    day = fields.String(required=True, metadata={"format": "date"})
    people = fields.Integer(required=True)
    records = fields.Integer(required=True)


class CountsOut(Out):
    """The service's own counts."""

    items = fields.List(fields.Nested(CountOut), required=True)


_ROW: Final = CheckinRow()
_KINDS: Final = frozenset(map(str, ServiceKind))
_PLAIN: Final = frozenset(("id", "captured_at", "kind", "people"))


def load_row(raw: Any) -> Any:
    """One row of a batch.

    Raises:
        ValidationError: with codes as messages.
    """
    plain = _glance(raw)
    return _ROW.load(raw) if plain is None else plain


def _glance(raw: Any) -> dict[str, Any] | None:
    """The row where nothing about it is unusual, a tenth of the work; None: the schema shall judge."""
    if not isinstance(raw, dict) or raw.keys() != _PLAIN:
        return None
    id_, kind, people = raw["id"], raw["kind"], raw["people"]
    usual = (
        type(people) is int
        and 1 <= people <= PEOPLE_MAX
        and isinstance(kind, str)
        and kind in _KINDS
        and isinstance(id_, str)
        and ids.is_uuid(id_)
    )
    try:
        return {**raw, "captured_at": instant(raw["captured_at"])} if usual else None
    except ValidationError:
        return None
