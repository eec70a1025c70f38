"""Fields of input: strict, trimmed, and every refusal has a code of ours."""

from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from marshmallow import ValidationError, fields, validate

from services.kernel import messages
from services.kernel.errors import FieldError, field_errors
from services.kernel.fields import In, Instant, Out, choice, clock_time, day, number, page_of, text, unique, uuid_text
from services.kernel.http import wrong
from tests.builders import ID_NUMBER, id_number


class Inner(In):
    """A part."""

    n = number(1, 9, required=True)


class Whole(In):
    """One field of each kind."""

    text = text(2, 5)
    instant = Instant()
    choice = choice(["water", "rest"])
    number = number(1, 9)
    day = day()
    time = clock_time()
    uuid = fields.String(validate=uuid_text)
    list = fields.List(fields.String(), validate=unique)
    inner = fields.Nested(Inner)
    inners = fields.List(fields.Nested(Inner))
    flag = fields.Boolean()
    short = fields.List(fields.Integer(strict=True), validate=validate.Length(max=1))


def refused(**given_: Any) -> list[FieldError]:
    """What is wrong with the input."""
    with pytest.raises(ValidationError) as error:
        Whole().load(given_)
    return field_errors(wrong(error.value))


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        ("text", "  泰安 ", "泰安"),
        ("text", "<b>", "<b>"),
        ("text", "a b", "a b"),
        ("instant", "2025-07-16T09:30:00+08:00", datetime(2025, 7, 16, 1, 30, tzinfo=UTC)),
        ("instant", "2025-07-16t01:30:00.123456z", datetime(2025, 7, 16, 1, 30, 0, 123456, tzinfo=UTC)),
        ("instant", "2025-07-16T01:30:00.5-00:30", datetime(2025, 7, 16, 2, 0, 0, 500000, tzinfo=UTC)),
        ("choice", "water", "water"),
        ("number", 9, 9),
        ("day", "2024-02-29", "2024-02-29"),
        ("time", "23:59", "23:59"),
        ("uuid", "0197f0f0-0000-7000-8000-000000000000", "0197f0f0-0000-7000-8000-000000000000"),
        ("list", ["a", "b"], ["a", "b"]),
        ("inner", {"n": 1}, {"n": 1}),
    ],
)
def test_what_is_right_is_taken(field: str, value: object, expected: object) -> None:
    assert Whole().load({field: value}) == {field: expected}


@pytest.mark.parametrize(
    ("field", "value", "code"),
    [
        ("text", "a", "bad_length_of_text"),
        ("text", "  a   ", "bad_length_of_text"),
        ("text", "123456", "bad_length_of_text"),
        ("text", 12, "not_a_string"),
        ("text", None, "null"),
        ("text", {"$ne": ""}, "not_a_string"),
        ("text", "a\nb", "bad_format"),
        ("text", "a\tb", "bad_format"),
        ("text", "a\x00b", "bad_format"),
        ("text", "a\x7fb", "bad_format"),
        ("text", "a\x9bb", "bad_format"),
        ("text", "a\u2028b", "bad_format"),
        ("text", "a\u2029b", "bad_format"),
        ("text", "a\ud800b", "bad_format"),
        ("instant", "2025-07-16T09:30:00", "not_a_datetime"),
        ("instant", "2025-07-16 09:30:00Z", "not_a_datetime"),
        ("instant", "2025-07-16T09:30Z", "not_a_datetime"),
        ("instant", "2025-07-16T09:30:00Z\n", "not_a_datetime"),
        ("instant", "2025-07-16", "not_a_datetime"),
        ("instant", "2025-02-30T00:00:00Z", "not_a_datetime"),
        ("instant", "2025-07-16T24:00:00Z", "not_a_datetime"),
        ("instant", "2025-07-16T09:30:60Z", "not_a_datetime"),
        ("instant", "2025-07-16T09:30:00+99:00", "not_a_datetime"),
        ("instant", "\u0662025-07-16T09:30:00Z", "not_a_datetime"),
        ("instant", 1752629400, "not_a_datetime"),
        ("instant", "1999-12-31T23:59:59Z", "out_of_range"),
        ("instant", "2100-01-01T00:00:00Z", "out_of_range"),
        ("instant", "0001-01-01T00:00:00+23:59", "out_of_range"),
        ("choice", "tea", "not_a_choice"),
        ("choice", ["water"], "not_a_string"),
        ("number", 0, "out_of_range"),
        ("number", 10, "out_of_range"),
        ("number", 1.5, "not_an_integer"),
        ("number", 1.0, "not_an_integer"),
        ("number", "1", "not_an_integer"),
        ("number", True, "not_an_integer"),
        ("number", {"$gt": 0}, "not_an_integer"),
        ("day", "2025-02-29", "not_a_date"),
        ("day", "2025-2-9", "not_a_date"),
        ("day", "20250209", "not_a_date"),
        ("day", "2025-02-09\n", "not_a_date"),
        ("day", 20250209, "not_a_string"),
        ("time", "24:00", "bad_format"),
        ("time", "8:00", "bad_format"),
        ("time", "08:00\n", "bad_format"),
        ("time", "08:60", "bad_format"),
        ("uuid", "0197F0F0-0000-7000-8000-000000000000", "not_a_uuid"),
        ("list", ["a", "a"], "given_twice"),
        ("list", "a", "not_a_list"),
        ("inner", [], "not_an_object"),
        ("flag", "perhaps", "not_a_boolean"),
        ("short", [1, 2], "invalid"),
    ],
)
def test_what_is_wrong_has_a_code_and_is_not_quoted(field: str, value: object, code: str) -> None:
    assert refused(**{field: value}) == [FieldError(field, code)]
    assert messages.is_known(code)


def test_errors_name_their_place_in_order() -> None:
    found = refused(inners=[{"n": 1}, {"n": 0, "m": 1}, {}], inner={"n": "x"}, unknown=1)
    assert found == [
        FieldError("inner.n", "not_an_integer"),
        FieldError("inners.1.m", "unknown_field"),
        FieldError("inners.1.n", "out_of_range"),
        FieldError("inners.2.n", "required"),
        FieldError("unknown", "unknown_field"),
    ]


@pytest.mark.parametrize("name", [ID_NUMBER, "13800138000", "a b", "张三", "a-b", ""])
def test_a_name_that_no_field_can_have_is_not_shown(name: str) -> None:
    assert refused(**{name: 1}) == [FieldError("*", "unknown_field")]
    assert refused(inner={"n": 1, name: 1}) == [FieldError("inner.*", "unknown_field")]


def test_a_name_is_cut() -> None:
    (found,) = refused(**{"x" * 5000: 1})
    assert len(found.field) == 100


def test_an_error_of_the_whole_has_no_field() -> None:
    with pytest.raises(ValidationError) as error:
        Whole().load([])
    assert field_errors(wrong(error.value)) == [FieldError("", "not_an_object")]


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["2025-07-16T09:30:00Z", "08:00"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@given(st.dictionaries(st.sampled_from(list(Whole().fields)) | st.text(max_size=5), anything, max_size=4))
@example({"text": "\x85\u3000", "instant": "9999-12-31T23:59:59-23:59"})
@example({"number": float("nan")})
@example({"short": [float("inf")]})
def test_any_json_is_taken_or_refused_with_known_codes(given_: dict[str, Any]) -> None:
    try:
        loaded = Whole().load(given_)
    except ValidationError as error:
        found = field_errors(wrong(error))
        assert found
        assert all(messages.is_known(one.code) for one in found)
    else:
        assert set(loaded) == set(given_)


def test_a_page_has_items_and_a_way_on() -> None:
    class NoteOut(Out):
        """A note."""

        id = fields.String(attribute="_id")

    page = page_of(NoteOut)
    assert page.__name__ == "NotePage"
    assert page().dump({"items": [{"_id": "a", "secret": 1}], "next": None}) == {"items": [{"id": "a"}], "next": None}


LINE = text(1, 200)
NUMBER = id_number(5)


@pytest.mark.parametrize(
    "said",
    [
        NUMBER,
        f"card {NUMBER} was shown",
        f"证件{NUMBER}已核对",
        f"{NUMBER[:6]} {NUMBER[6:14]} {NUMBER[14:]}",
        f"{NUMBER[:6]}-{NUMBER[6:14]}-{NUMBER[14:]}",
        "".join(chr(ord(char) + 0xFEE0) for char in NUMBER),
        id_number(7, date(2018, 6, 1)).lower(),
        "370902900101001",
        "13805481234",
        "电话138 0548 1234",
        "+86-138-0548-1234",
        "138.0548.1234",
        "138\u20130548\u20131234",
        "138\u20110548\u20111234",
        "138\u200b05481234",
        "138/0548/1234",
        "138,0548,1234",
        f"{NUMBER[:6]}/{NUMBER[6:14]}/{NUMBER[14:]}",
    ],
)
def test_who_somebody_is_has_no_place_in_free_text(said: str) -> None:
    with pytest.raises(ValidationError, match="personal_data") as refused:
        LINE.deserialize(said)
    assert said not in str(refused.value)


@pytest.mark.parametrize(
    "said",
    [
        "第17届",
        "2025-07-16 12:00",
        "6901234567892",
        "0538-8214567",
        "泰山大街 128 号 3-201",
        "12345678901234567890",
        "2026/11/23, 2026/11/24",
        "3栋201, 12楼",
    ],
)
def test_other_figures_may_stand_in_it(said: str) -> None:
    assert LINE.deserialize(f" {said} ") == said
