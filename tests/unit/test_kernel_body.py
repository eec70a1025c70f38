"""JSON from outside: what is not strictly JSON is refused with a code, and nothing else can happen."""

import json
import math
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from services.kernel import body
from services.kernel.errors import BadRequest

MANY = 100_000
REFUSED = {"bad_utf8", "bad_json", "duplicate_key", "number_not_finite", "too_deep"}

json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-body.INT_MAX, body.INT_MAX)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=20,
)


def nested(depth: int, value: object = 1) -> Any:
    """A list in a list, so many deep."""
    for _ in range(depth):
        value = [value]
    return value


@given(st.binary(max_size=200) | st.text(alphabet='[]{}":,\\u0dD8e1.-N ', max_size=60).map(str.encode))
@example(b"")
@example(b"\xef\xbb\xbf{}")
@example(b'{"a":1}{"b":2}')
@example(b'"\\u12"')
@example(b"9" * 5000)
@example(b"-0.0e999")
def test_arbitrary_bytes_are_read_or_refused_with_a_code(raw: bytes) -> None:
    try:
        value = body.loads(raw)
    except BadRequest as refused:
        assert refused.code in REFUSED  # noqa: PT017 (either way is right)
    else:
        assert body.loads(body.dumps(value)) == value, "what is read can be kept and said again"


@given(json_values)
def test_what_json_says_is_read_as_it_stands(value: object) -> None:
    assert body.loads(json.dumps(value).encode()) == value
    assert body.loads(body.dumps(value)) == value


@pytest.mark.parametrize(
    ("raw", "code"),
    [
        (b"", "bad_json"),
        (b"{", "bad_json"),
        (b"{'a': 1}", "bad_json"),
        (b'{"a": 1,}', "bad_json"),
        (b"[1] [2]", "bad_json"),
        (b'"line\nbreak"', "bad_json"),
        (b"\xff{}", "bad_utf8"),
        ('{"a": "泰安"}'.encode("gbk"), "bad_utf8"),
        ('{"a": "泰"}'.encode("utf-16"), "bad_utf8"),
        (b'{"a": "\xed\xa0\x80"}', "bad_utf8"),
        (b'{"a": "\\ud800"}', "bad_utf8"),
        (b'{"\\udc00": 1}', "bad_utf8"),
        (b'[{"a": ["\\udfff"]}]', "bad_utf8"),
        (b'{"a": 1, "a": 1}', "duplicate_key"),
        (b'{"a": 1, "\\u0061": 2}', "duplicate_key"),
        (b'{"x": [{"y": {"a": 1, "b": 2, "a": 3}}]}', "duplicate_key"),
        (b"NaN", "number_not_finite"),
        (b'{"a": Infinity}', "number_not_finite"),
        (b'{"a": -Infinity}', "number_not_finite"),
        (b'{"a": 1e999}', "number_not_finite"),
        (b'{"a": -1e999}', "number_not_finite"),
        (b'{"a": 9223372036854775808}', "number_not_finite"),
        (b'{"a": -9223372036854775808}', "number_not_finite"),
        (b"1" * 5000, "bad_json"),
        (json.dumps(nested(body.DEPTH_MAX + 1)).encode(), "too_deep"),
        (b"[" * MANY, "too_deep"),
        (b"[" * MANY + b"]" * MANY, "too_deep"),
        (b'{"a":' * MANY + b"1" + b"}" * MANY, "too_deep"),
    ],
    ids=lambda value: repr(value[:24]),
)
def test_each_fault_has_its_code(raw: bytes, code: str) -> None:
    with pytest.raises(BadRequest) as refused:
        body.loads(raw)
    assert refused.value.code == code
    assert refused.value.params == {}, "the input is not echoed"
    assert refused.value.__cause__ is None, "a decoder's message quotes the input"


@pytest.mark.parametrize(
    "value",
    [
        nested(body.DEPTH_MAX),
        [[] for _ in range(1000)],
        {"text": "[" * 1000 + "{" * 1000},
        {"a": body.INT_MAX, "b": -body.INT_MAX, "c": 1.5, "d": 5e-324},
        {"a": "😀 泰安"},
    ],
)
def test_what_only_looks_bad_is_legal(value: object) -> None:
    assert body.loads(json.dumps(value).encode()) == value


def test_a_pair_of_surrogates_is_one_character() -> None:
    assert body.loads(b'{"a": "\\ud83d\\ude00"}') == {"a": "😀"}


def test_what_is_said_is_compact_utf8_and_finite() -> None:
    assert body.dumps({"县": [1, None]}) == '{"县":[1,null]}'.encode()
    with pytest.raises(ValueError, match="JSON compliant"):
        body.dumps(math.nan)
