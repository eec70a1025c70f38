"""Shapes of HTTP input and output of the stations service; separate for in and out."""

from collections.abc import Mapping
from typing import Any, Final

from marshmallow import fields, validate

from contracts.codes import REPORTING_UNITS, Facility, FaultKind, ServiceKind
from contracts.events.stations import PEOPLE_MAX
from services.kernel.errors import BadRequest
from services.kernel.fields import In, Instant, Out, choice, clock_time, day, number, text, unique, uuid_text
from services.kernel.http import Page
from services.kernel.messages import Message
from services.stations import rules

BATCH_MAX: Final = 500
BATCH_BYTES: Final = 256 * 1024

MESSAGES: Final = {
    "wrong_state": Message("当前状态为 {state},不能这样办理。", "Not possible in the present state, {state}."),
    "facility_present": Message("该驿站已有此设施。", "The station has this facility already."),
    "outside_your_district": Message("不在您的辖区内。", "Outside your district."),
    "unknown_station": Message("没有这个驿站,或设备不属于它。", "No such station, or not this device's."),
    "content_changed": Message("同一编号的签到内容不一致。", "This id was sent before with other content."),
    "in_the_future": Message("不能晚于现在。", "Lies in the future."),
    "not_a_uuid": Message("应为 UUID。", "A UUID is needed."),
    "given_twice": Message("重复填写。", "Given twice."),
}


class Position(In):
    """WGS 84."""

    lat = fields.Float(required=True, validate=validate.Range(-90, 90, error="out_of_range"))
    lon = fields.Float(required=True, validate=validate.Range(-180, 180, error="out_of_range"))


class StationIn(In):
    """A station to register."""

    county = choice(REPORTING_UNITS, required=True)
    name = text(2, 60, required=True)
    address = text(2, 120, required=True)
    facilities = fields.List(
        choice(Facility), required=True, validate=[validate.Length(max=len(Facility), error="out_of_range"), unique]
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

    kind = fields.String(required=True)
    since = fields.String(required=True)


class PublicStationOut(Out):
    """What anyone may know of a station."""

    id = fields.String(attribute="_id", required=True)
    county = fields.String(required=True)
    name = fields.String(required=True)
    address = fields.String(required=True)
    facilities = fields.List(fields.Nested(FacilityOut), required=True)
    opens = fields.String(required=True)
    closes = fields.String(required=True)
    position = fields.Dict(keys=fields.String(), values=fields.Float(), required=True, allow_none=True)


class StationOut(PublicStationOut):
    """A station as its officers see it."""

    state = fields.String(required=True)
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

    id = fields.String(attribute="_id", required=True)
    station = fields.String(required=True)
    county = fields.String(required=True)
    label = fields.String(required=True)
    state = fields.String(required=True)
    enrolled_at = fields.AwareDateTime(required=True)
    last_seen = fields.AwareDateTime(allow_none=True)
    unsent = fields.Integer(allow_none=True)
    silent = fields.Boolean(required=True)
    rev = fields.Integer(required=True)


class DeviceKeyOut(DeviceOut):
    """A device with its key, which is shown once; null where the same request was answered before."""

    key = fields.String(required=True, allow_none=True)


class CheckinRow(In):
    """One check-in as a device captured it."""

    id = fields.String(required=True, validate=uuid_text, metadata={"format": "uuid"})
    captured_at = Instant(required=True)
    kind = choice(ServiceKind, required=True)
    people = number(1, PEOPLE_MAX, required=True)
    station = fields.String(validate=uuid_text, metadata={"format": "uuid"})


class CheckinBatchIn(In):
    """1 to 500 check-ins; each row is judged alone, so rows are not checked here (see CheckinRow)."""

    sent_at = Instant(metadata={"description": "The device's clock when sending; finds a clock that is off"})
    items = fields.List(
        fields.Raw(metadata={"$ref": "#/components/schemas/CheckinRow"}),
        required=True,
        validate=validate.Length(1, BATCH_MAX, error="out_of_range"),
    )


class CheckinImportIn(In):
    """What a device still held, brought in by an officer."""

    device = fields.String(required=True, validate=uuid_text)
    items = fields.List(
        fields.Raw(metadata={"$ref": "#/components/schemas/CheckinRow"}),
        required=True,
        validate=validate.Length(1, BATCH_MAX, error="out_of_range"),
    )


class CheckinResult(Out):
    """What became of one row; ``final``: sending it again changes nothing."""

    id = fields.String(required=True, allow_none=True)
    status = choice((rules.ACCEPTED, rules.QUARANTINED, rules.REJECTED), required=True)
    code = fields.String(required=True)
    final = fields.Boolean(required=True)
    field = fields.String()


class CheckinBatchOut(Out):
    """One result a row, in the order of the rows."""

    received_at = fields.AwareDateTime(required=True)
    results = fields.List(fields.Nested(CheckinResult), required=True)


class CheckinOut(Out):
    """A check-in as officers see it."""

    id = fields.String(attribute="_id", required=True)
    device = fields.String(required=True)
    station = fields.String(required=True)
    county = fields.String(required=True)
    kind = fields.String(required=True)
    people = fields.Integer(required=True)
    captured_at = fields.AwareDateTime(required=True)
    received_at = fields.AwareDateTime(required=True)
    offset_ms = fields.Integer(required=True)
    day = fields.String(required=True)
    status = fields.String(required=True)
    reasons = fields.List(fields.String(), required=True)
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

    station = fields.String(validate=uuid_text)
    kind = choice(FaultKind, required=True)
    note = text(0, 200)


class FaultOut(Out):
    """A fault."""

    id = fields.String(attribute="_id", required=True)
    station = fields.String(required=True)
    county = fields.String(required=True)
    kind = fields.String(required=True)
    note = fields.String(required=True)
    state = fields.String(required=True)
    reported_at = fields.AwareDateTime(required=True)
    rev = fields.Integer(required=True)


class FaultFilter(Page):
    """Filters of the list of faults."""

    state = choice((rules.OPEN, rules.CLEARED))
    station = fields.String(validate=uuid_text)


class SupplyIn(In):
    """A stock."""

    station = fields.String(required=True, validate=uuid_text)
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

    id = fields.String(attribute="_id", required=True)
    station = fields.String(required=True)
    county = fields.String(required=True)
    item = fields.String(required=True)
    quantity = fields.Integer(required=True)
    unit = fields.String(required=True)
    expires_on = fields.String(required=True, allow_none=True)
    rev = fields.Integer(required=True)


class SupplyFilter(Page):
    """Filters of the list of supplies."""

    station = fields.String(validate=uuid_text)
    expires_before = day()


class DayRange(Page):
    """From one day to another, both included."""

    first_day = day(required=True)
    last_day = day(required=True)


class CountOut(Out):
    """What counts on a day in a county."""

    county = fields.String(required=True)
    day = fields.String(required=True)
    people = fields.Integer(required=True)
    records = fields.Integer(required=True)


class CountsOut(Out):
    """The service's own counts."""

    items = fields.List(fields.Nested(CountOut), required=True)


def day_range(query: Mapping[str, Any]) -> tuple[str, str]:
    """Both days, in order."""
    if query["last_day"] < query["first_day"]:
        raise BadRequest("bad_request")
    return query["first_day"], query["last_day"]


_ROW: Final = CheckinRow()


def load_row(raw: Any) -> Any:
    """One row of a batch.

    Raises:
        ValidationError: with codes as messages.
    """
    return _ROW.load(raw)
