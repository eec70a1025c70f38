"""What the stations service takes from outside: each refusal by its field and code, and what is let through."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from marshmallow import Schema, ValidationError

from services.kernel import messages
from services.kernel.errors import FieldError, field_errors
from services.kernel.http import wrong
from services.stations import app, rules, schemas

assert app.StationsApp.name == "stations"  # its import adds the service's messages

UUID = "6f0f2a50-3a6c-4a53-9d0a-0c2b6d0f3a11"
MISSING = object()

STATION = {"county": "370902", "name": "驿站", "address": "东岳大街", "facilities": ["water"]}
ROW = {"id": UUID, "captured_at": "2025-07-16T09:30:00+08:00", "kind": "water", "people": 3}
SUPPLY = {"station": UUID, "item": "藿香正气水", "quantity": 5, "unit": "盒"}
POSITION = {"lat": 36.2, "lon": 117.1}
DAYS = {"first_day": "2025-07-01", "last_day": "2025-07-31"}

VALID: list[tuple[type[Schema], dict[str, Any]]] = [
    (schemas.StationIn, STATION),
    (schemas.StationIn, {**STATION, "position": POSITION, "opens": "00:00", "closes": "23:59", "facilities": []}),
    (schemas.StationIn, {**STATION, "position": None}),
    (schemas.StationEdit, {}),
    (schemas.StationEdit, {"name": "二号", "position": {"lat": -90, "lon": 180}}),
    (schemas.ReasonIn, {"reason": "as planned"}),
    (schemas.FacilityIn, {"facility": "mother_room"}),
    (schemas.StationFilter, {"county": "370911-gx", "state": "active", "limit": "1", "cursor": "x"}),
    (schemas.OpenStationFilter, {"facility": "water"}),
    (schemas.DeviceIn, {"label": "门口平板"}),
    (schemas.CheckinRow, ROW),
    (schemas.CheckinRow, {**ROW, "station": UUID, "people": 500}),
    (schemas.CheckinBatchIn, {"items": [ROW] * 500, "sent_at": "2025-07-16T01:30:00.123456Z"}),
    (schemas.CheckinBatchIn, {"items": [None, 1, "x", {"$ne": 1}]}),  # each row is judged alone
    (schemas.CheckinImportIn, {"device": UUID, "reason": "tablet broken", "items": [ROW]}),
    (schemas.ApprovalIn, {"reason": "seen in the log", "captured_at": "2025-07-16T09:30:00Z"}),
    (schemas.HeartbeatIn, {}),
    (schemas.HeartbeatIn, {"sent_at": "2025-07-16T09:30:00Z", "unsent": 0}),
    (schemas.FaultIn, {"kind": "power"}),
    (schemas.FaultIn, {"station": UUID, "kind": "power", "note": ""}),
    (schemas.FaultFilter, {"state": "open", "station": UUID}),
    (schemas.SupplyIn, {**SUPPLY, "quantity": 0, "expires_on": "2028-02-29"}),
    (schemas.SupplyEdit, {"quantity": 10**6, "expires_on": None}),
    (schemas.SupplyFilter, {"station": UUID, "expires_before": "2025-12-31"}),
    (schemas.DayRange, DAYS),
    (schemas.DayRange, {"first_day": "2024-01-01", "last_day": "2024-12-31"}),
]


@pytest.mark.parametrize(("schema", "given_"), VALID)
def test_is_let_through(schema: type[Schema], given_: dict[str, Any]) -> None:
    schema().load(given_)


def case(schema: type[Schema], field: str, value: Any, code: str) -> tuple[type[Schema], str, Any, str]:
    """``value`` in ``field`` (dots lead inwards) is refused with ``code``."""
    return schema, field, value, code


REFUSED = [
    case(schemas.StationIn, "county", "370900", "not_a_choice"),  # the city is no reporting unit
    case(schemas.StationIn, "county", "110101", "not_a_choice"),
    case(schemas.StationIn, "county", {"$ne": 1}, "not_a_string"),
    case(schemas.StationIn, "county", MISSING, "required"),
    case(schemas.StationIn, "name", "一", "bad_length_of_text"),
    case(schemas.StationIn, "name", "   一   ", "bad_length_of_text"),
    case(schemas.StationIn, "name", "x" * 61, "bad_length_of_text"),
    case(schemas.StationIn, "name", "two\nlines", "bad_format"),
    case(schemas.StationIn, "name", "\x00zero", "bad_format"),
    case(schemas.StationIn, "name", {"$gt": ""}, "not_a_string"),
    case(schemas.StationIn, "name", None, "null"),
    case(schemas.StationIn, "address", "x" * 121, "bad_length_of_text"),
    case(schemas.StationIn, "facilities", MISSING, "required"),
    case(schemas.StationIn, "facilities", "water", "not_a_list"),
    case(schemas.StationIn, "facilities", ["water", "water"], "given_twice"),
    case(schemas.StationIn, "facilities", ["sauna"], "not_a_choice"),
    case(schemas.StationIn, "facilities", [{"$in": ["water"]}], "not_a_string"),
    case(schemas.StationIn, "opens", "24:00", "bad_format"),
    case(schemas.StationIn, "opens", "8:00", "bad_format"),
    case(schemas.StationIn, "opens", "08:00\n", "bad_format"),
    case(schemas.StationIn, "closes", "20:60", "bad_format"),
    case(schemas.StationIn, "position", {"lat": 36.2}, "required"),
    case(schemas.StationIn, "position", {**POSITION, "lat": 90.1}, "out_of_range"),
    case(schemas.StationIn, "position", {**POSITION, "lon": -180.1}, "out_of_range"),
    case(schemas.StationIn, "position", {**POSITION, "lat": "36.2"}, "not_a_number"),
    case(schemas.StationIn, "position", {**POSITION, "lat": True}, "invalid"),
    case(schemas.StationIn, "position", {**POSITION, "alt": 3}, "unknown_field"),
    case(schemas.StationIn, "position", [36.2, 117.1], "not_an_object"),
    case(schemas.StationIn, "state", "active", "unknown_field"),
    case(schemas.StationIn, "$where", "1", "unknown_field"),
    case(schemas.StationEdit, "county", "370982", "unknown_field"),
    case(schemas.StationEdit, "name", None, "null"),
    case(schemas.ReasonIn, "reason", MISSING, "required"),
    case(schemas.ReasonIn, "reason", " ", "bad_length_of_text"),
    case(schemas.ReasonIn, "reason", "x" * 201, "bad_length_of_text"),
    case(schemas.ReasonIn, "reason", "half a \ud800 character", "bad_format"),
    case(schemas.FacilityIn, "facility", "sauna", "not_a_choice"),
    case(schemas.StationFilter, "state", "gone", "not_a_choice"),
    case(schemas.StationFilter, "limit", "0", "out_of_range"),
    case(schemas.StationFilter, "limit", "201", "out_of_range"),
    case(schemas.StationFilter, "limit", "many", "not_an_integer"),
    case(schemas.StationFilter, "county[$ne]", "1", "unknown_field"),
    case(schemas.OpenStationFilter, "state", "closed", "unknown_field"),
    case(schemas.DeviceIn, "label", "", "bad_length_of_text"),
    case(schemas.DeviceIn, "key", "mine", "unknown_field"),
    case(schemas.CheckinBatchIn, "items", MISSING, "required"),
    case(schemas.CheckinBatchIn, "items", [], "out_of_range"),
    case(schemas.CheckinBatchIn, "items", [ROW] * 501, "out_of_range"),
    case(schemas.CheckinBatchIn, "items", {"0": ROW}, "not_a_list"),
    case(schemas.CheckinBatchIn, "sent_at", "2025-07-16T09:30:00", "not_a_datetime"),
    case(schemas.CheckinBatchIn, "device", UUID, "unknown_field"),
    case(schemas.CheckinImportIn, "device", "a-device", "not_a_uuid"),
    case(schemas.CheckinImportIn, "device", {"$ne": 1}, "not_a_string"),
    case(schemas.CheckinImportIn, "reason", MISSING, "required"),
    case(schemas.CheckinImportIn, "items", [ROW] * 501, "out_of_range"),
    case(schemas.ApprovalIn, "captured_at", "16.7.2025", "not_a_datetime"),
    case(schemas.ApprovalIn, "reason", MISSING, "required"),
    case(schemas.HeartbeatIn, "unsent", -1, "out_of_range"),
    case(schemas.HeartbeatIn, "unsent", 1.5, "not_an_integer"),
    case(schemas.HeartbeatIn, "unsent", True, "not_an_integer"),
    case(schemas.FaultIn, "kind", MISSING, "required"),
    case(schemas.FaultIn, "kind", "ghost", "not_a_choice"),
    case(schemas.FaultIn, "note", "x" * 201, "bad_length_of_text"),
    case(schemas.FaultFilter, "state", "closed", "not_a_choice"),
    case(schemas.FaultFilter, "station", "all", "not_a_uuid"),
    case(schemas.SupplyIn, "quantity", -1, "out_of_range"),
    case(schemas.SupplyIn, "quantity", 0.5, "not_an_integer"),
    case(schemas.SupplyIn, "quantity", "5", "not_an_integer"),
    case(schemas.SupplyIn, "quantity", 10**6 + 1, "out_of_range"),
    case(schemas.SupplyIn, "expires_on", "2025-02-30", "not_a_date"),
    case(schemas.SupplyIn, "expires_on", "30.12.2025", "not_a_date"),
    case(schemas.SupplyIn, "unit", "", "bad_length_of_text"),
    case(schemas.SupplyEdit, "station", UUID, "unknown_field"),
    case(schemas.SupplyFilter, "expires_before", {"$gt": ""}, "not_a_string"),
    case(schemas.DayRange, "first_day", MISSING, "required"),
    case(schemas.DayRange, "last_day", "2025-06-30", "out_of_range"),
    case(schemas.DayRange, "last_day", "2026-07-02", "out_of_range"),
    case(schemas.DayRange, "limit", "5", "unknown_field"),
]


def base(schema: type[Schema]) -> dict[str, Any]:
    """A valid input of the schema."""
    return next(dict(given_) for known, given_ in VALID if known is schema)


def refusal(schema: type[Schema], given_: Any) -> list[FieldError]:
    """What the schema holds against an input."""
    with pytest.raises(ValidationError) as refused:
        schema().load(given_)
    return field_errors(wrong(refused.value))


@pytest.mark.parametrize(("schema", "field", "value", "code"), REFUSED)
def test_is_refused(schema: type[Schema], field: str, value: Any, code: str) -> None:
    given_ = base(schema)
    if value is MISSING:
        del given_[field]
    else:
        given_[field] = value
    errors = refusal(schema, given_)
    assert {error.code for error in errors} == {code}
    shown = field if field.isidentifier() else "*"  # what cannot be a field's name may be somebody's
    assert {error.field.split(".")[0] for error in errors} == {shown}
    assert messages.is_known(code) or code == "invalid"


ROWS = [
    ("", None, "not_an_object"),
    ("", [ROW], "not_an_object"),
    ("", "check-in", "not_an_object"),
    *[(name, {key: value for key, value in ROW.items() if key != name}, "required") for name in ROW],
    *[(name, {**ROW, name: None}, "null") for name in ROW],
    *[(name, {**ROW, name: {"$ne": 1}}, code) for name, code in {"id": "not_a_string", "kind": "not_a_string"}.items()],
    ("captured_at", {**ROW, "captured_at": {"$gt": ""}}, "not_a_datetime"),
    ("people", {**ROW, "people": {"$gt": 0}}, "not_an_integer"),
    ("id", {**ROW, "id": UUID.upper()}, "not_a_uuid"),
    ("id", {**ROW, "id": UUID + "\n"}, "not_a_uuid"),
    ("id", {**ROW, "id": 7}, "not_a_string"),
    ("people", {**ROW, "people": 0}, "out_of_range"),
    ("people", {**ROW, "people": -3}, "out_of_range"),
    ("people", {**ROW, "people": 501}, "out_of_range"),
    ("people", {**ROW, "people": 1.5}, "not_an_integer"),
    ("people", {**ROW, "people": 3.0}, "not_an_integer"),
    ("people", {**ROW, "people": "3"}, "not_an_integer"),
    ("people", {**ROW, "people": True}, "not_an_integer"),
    ("kind", {**ROW, "kind": "sauna"}, "not_a_choice"),
    ("captured_at", {**ROW, "captured_at": "2025-07-16"}, "not_a_datetime"),
    ("captured_at", {**ROW, "captured_at": "2025-07-16T09:30:00"}, "not_a_datetime"),
    ("captured_at", {**ROW, "captured_at": "2025-02-30T09:30:00Z"}, "not_a_datetime"),
    ("captured_at", {**ROW, "captured_at": "2025-07-16T24:30:00Z"}, "not_a_datetime"),
    ("captured_at", {**ROW, "captured_at": 1752629400}, "not_a_datetime"),
    ("captured_at", {**ROW, "captured_at": "1999-12-31T23:59:59Z"}, "out_of_range"),
    ("captured_at", {**ROW, "captured_at": "2100-01-01T00:00:00Z"}, "out_of_range"),
    ("station", {**ROW, "station": "here"}, "not_a_uuid"),
    ("name", {**ROW, "name": "张三"}, "unknown_field"),
]


@pytest.mark.parametrize(("field", "row", "code"), ROWS)
def test_row_is_refused_with_one_code(field: str, row: Any, code: str) -> None:
    assert refusal(schemas.CheckinRow, row) == [FieldError(field, code)]
    with pytest.raises(ValidationError):
        schemas.load_row(row)


JSON_VALUES = st.none() | st.booleans() | st.floats() | st.integers() | st.text() | st.lists(st.none(), max_size=2)


@given(
    JSON_VALUES
    | st.dictionaries(
        st.sampled_from([*ROW, "station", "$ne"]), JSON_VALUES | st.dictionaries(st.text(), JSON_VALUES, max_size=2)
    )
)
def test_a_row_of_any_shape_is_refused_by_its_fields(row: Any) -> None:
    refused: list[FieldError] = []
    try:
        schemas.load_row(row)
    except ValidationError as error:
        refused = field_errors(wrong(error))
    assert refused  # nothing of this can make a whole row: its id would have to be a UUID


def test_text_is_trimmed() -> None:
    assert schemas.StationIn().load({**STATION, "name": "  驿站  "})["name"] == "驿站"


def test_hours_have_a_default() -> None:
    loaded = schemas.StationIn().load(STATION)
    assert (loaded["opens"], loaded["closes"], loaded["position"]) == ("08:00", "20:00", None)


def test_a_device_is_shown_without_its_keys() -> None:
    document = {"_id": UUID, "keys": ["digest"], "label": "tablet", "state": rules.ENROLLED, "silent": False}
    assert "keys" not in schemas.DeviceOut().dump(document)


def test_every_message_of_the_service_is_said_in_both_languages() -> None:
    for code, message in schemas.MESSAGES.items():
        assert messages.is_known(code)
        assert message.zh != message.en


_ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, 1, 0, 500, 501, 1.0, 3, "3", "water", "Water", "", [], {}, {"$ne": 1}),
        *(UUID, UUID.upper(), UUID + "\n"),
        *("2025-07-16T09:30:00+08:00", "2025-07-16t09:30:00z", "2025-07-16 09:30:00Z", "2025-07-16T09:30:00"),
        *("1999-12-31T00:00:00Z", "2100-01-01T00:00:00Z", "2025-02-30T00:00:00Z", "2025-07-16T09:30:00+24:00"),
        *("2025-07-16T09:30:00.123456789Z", "2025-07-16T09:30:00Z\n"),
    ]
)
_ROWS = st.dictionaries(st.sampled_from([*ROW, "station", "later"]), _ODD, max_size=3)


@given(_ROWS, st.sets(st.sampled_from(sorted(ROW)), max_size=1))
def test_a_row_is_judged_alike_at_a_glance_and_by_its_schema(changes: dict[str, Any], left_out: set[str]) -> None:
    row = {name: value for name, value in {**ROW, **changes}.items() if name not in left_out}
    plain = schemas._glance(row)
    assert plain is None or plain == schemas.CheckinRow().load(row)


@pytest.mark.parametrize("raw", [None, 1, "x", [], [ROW]])
def test_what_is_no_row_is_left_to_the_schema(raw: object) -> None:
    assert schemas._glance(raw) is None


def test_a_usual_row_needs_a_glance_only() -> None:
    assert schemas._glance(ROW) == schemas.CheckinRow().load(ROW)
