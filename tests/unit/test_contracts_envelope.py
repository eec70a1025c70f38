"""The envelope: what is made is read back the same, what is broken is refused without being quoted."""

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from functools import partial
from types import MappingProxyType
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts import envelope
from contracts.envelope import (
    BATCH_CONTENT_TYPE,
    CONTENT_TYPE,
    Event,
    MalformedError,
    check,
    dump,
    dump_batch,
    event,
    is_interoperable,
    load,
)
from tests.contract.builders import build

untimed = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # a busy machine is no fault
CHECKIN = "stations.checkin_recorded.v1"
FAULTS = {
    "not_json",
    "content_type_or_shape",
    "event_not_object",
    "specversion",
    "id",
    "source",
    "type",
    "subject",
    "time",
    "datacontenttype",
    "dataschema",
    "seq",
    "county",
    "recordedtime",
    "traceparent",
    "data",
    "unknown_attribute",
}

instants = st.datetimes(
    min_value=datetime(1000, 1, 2),  # noqa: DTZ001 (hypothesis adds the zone)
    max_value=datetime(2999, 12, 30),  # noqa: DTZ001
    timezones=st.integers(-23 * 60, 23 * 60).map(lambda minutes: timezone(timedelta(minutes=minutes))),
).map(datetime.isoformat)
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
events = st.builds(
    event,
    id=st.uuids().map(str),
    type=st.from_regex(envelope.TYPE, fullmatch=True, alphabet=st.characters(codec="ascii")),
    subject=st.uuids().map(str),
    seq=st.integers(1, envelope.SEQ_MAX),
    county=st.from_regex(envelope.COUNTY, fullmatch=True, alphabet=st.characters(codec="ascii")),
    time=instants,
    recordedtime=instants,
    traceparent=st.from_regex(envelope.TRACEPARENT, fullmatch=True, alphabet=st.characters(codec="ascii")),
    data=st.dictionaries(
        st.text(st.characters(codec="utf-8")), st.none() | st.integers() | st.text(st.characters(codec="utf-8"))
    ),
)


near_misses = st.sampled_from(
    [
        *build(CHECKIN).values(),
        *(f"{value}\n" for value in build(CHECKIN).values()),
        "2025-02-30T00:00:00Z",
        True,
        1.0,
        0,
    ]
)


@untimed
@given(events)
def test_what_is_made_passes_and_comes_back_the_same(made: Event) -> None:
    assert check(made) is made
    [read] = load(dump(made), CONTENT_TYPE)
    assert check(read) == made


def test_data_is_copied_from_any_mapping() -> None:
    data = {"people": 1}
    made = build(CHECKIN)
    again = event(
        **{
            name: made[name]
            for name in ("id", "type", "subject", "seq", "county", "time", "recordedtime", "traceparent")
        },
        data=MappingProxyType(data),
    )
    data["people"] = 2
    assert json.loads(dump(again))["data"] == {"people": 1}


@untimed
@given(st.lists(events, max_size=3))
def test_batch_comes_back_in_order(made: list[Event]) -> None:
    assert [check(read) for read in load(dump_batch(made), BATCH_CONTENT_TYPE)] == made


def fault_of(act: Callable[[], object]) -> str | None:
    """The name by which an act was refused; None where it was not. Any other error passes through."""
    try:
        act()
    except MalformedError as error:
        [fault] = error.args
        return str(fault)
    return None


@untimed
@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()), st.text() | st.none())
def test_any_bytes_of_any_type_are_read_or_refused(body: bytes, content_type: str | None) -> None:
    for kind in (content_type, CONTENT_TYPE, BATCH_CONTENT_TYPE):
        assert fault_of(partial(load, body, kind)) in {None, "not_json", "content_type_or_shape"}


@untimed
@given(json_values)
def test_any_value_is_refused_by_a_name_of_ours(value: object) -> None:
    with pytest.raises(MalformedError) as caught:
        check(value)
    assert caught.value.args[0] in FAULTS


@untimed
@given(st.sampled_from(sorted(build(CHECKIN))), json_values)
def test_attribute_of_any_other_value_is_refused_by_its_own_name(name: str, value: object) -> None:
    changed = build(CHECKIN)
    changed[name] = f"~{value}" if isinstance(value, str) else value
    still_right = (name == "data" and isinstance(value, dict)) or (
        name == "seq" and type(value) is int and 1 <= value < 2**31
    )
    assert fault_of(lambda: check(changed)) == (None if still_right else name)


@untimed
@given(st.sampled_from(sorted(build(CHECKIN))), json_values | near_misses, st.booleans())
def test_first_glance_and_close_look_share_their_verdict(name: str, value: object, leave_out: bool) -> None:
    tried = {**build(CHECKIN), name: value}
    if leave_out:
        del tried[name]
    try:
        envelope._look_closely(tried)
    except MalformedError:
        assert not envelope._is_plainly_right(tried)
    else:
        assert check(tried) is tried


@pytest.mark.parametrize("value", ["1.0\n", "2025-07-16T01:30:00Z\n", "370902\n", "x\n370902"])
@pytest.mark.parametrize("name", ["id", "type", "subject", "time", "recordedtime", "county", "traceparent"])
def test_line_break_in_an_attribute_is_refused_by_its_name(name: str, value: str) -> None:
    for broken in (value, build(CHECKIN)[name] + "\n", "\n" + build(CHECKIN)[name]):
        with pytest.raises(MalformedError) as caught:
            check({**build(CHECKIN), name: broken})
        assert caught.value.args == (name,)


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b'{"id": "secret"', CONTENT_TYPE),
        (b'"secret\xff"', CONTENT_TYPE),
        (b'{"secret": NaN}', CONTENT_TYPE),
        (b'["secret"]', CONTENT_TYPE),
        (b'{"a": "secret"}', "application/secret"),
    ],
)
def test_refusal_never_carries_what_was_sent(body: bytes, content_type: str) -> None:
    with pytest.raises(MalformedError) as caught:
        load(body, content_type)
    assert "secret" not in repr(caught.value)
    assert caught.value.__context__ is None


@pytest.mark.parametrize("content_type", [CONTENT_TYPE.upper(), f" {CONTENT_TYPE} ; charset=utf-8"])
def test_content_type_is_read_as_http_reads_it(content_type: str) -> None:
    assert load(b"{}", content_type) == [{}]


@pytest.mark.parametrize("content_type", ["", None, "application/json", BATCH_CONTENT_TYPE])
def test_single_event_under_another_content_type_is_refused(content_type: str | None) -> None:
    with pytest.raises(MalformedError, match="content_type_or_shape"):
        load(b"{}", content_type)


@pytest.mark.parametrize("body", [b"[" * 200_000, b'{"a":' * 200_000, b"1" * 5_000, b"\xef\xbb\xbf{}", b""])
def test_hostile_json_is_refused(body: bytes) -> None:
    with pytest.raises(MalformedError, match="not_json"):
        load(body, CONTENT_TYPE)


@pytest.mark.parametrize("name", sorted(build(CHECKIN).keys() - {"traceparent"}))
def test_missing_attribute_is_named(name: str) -> None:
    incomplete = build(CHECKIN)
    del incomplete[name]
    with pytest.raises(MalformedError, match=f"^{name}$"):
        check(incomplete)


def test_event_without_trace_is_an_event() -> None:
    untraced = build(CHECKIN)
    del untraced["traceparent"]
    assert check(untraced) is untraced


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("specversion", "0.3"),
        ("id", build(CHECKIN)["id"] + "\n"),
        ("id", build(CHECKIN)["id"].upper()),
        ("id", "1"),
        ("source", "/elsewhere/stations"),
        ("type", CHECKIN + "\n"),
        ("type", "stations.checkin_recorded.v0"),
        ("type", "checkin_recorded.v1"),
        ("subject", ""),
        ("county", "370902\n"),
        ("county", "泰山区"),
        ("time", "2025-07-16T09:30:00"),
        ("time", "2025-07-16"),
        ("time", "20250716T093000+0800"),
        ("time", "2025-W29-3T09:30:00Z"),
        ("time", "2025-02-30T09:30:00Z"),
        ("time", "2025-07-16T09:30:00Z\n"),
        ("time", 1752629400),
        ("recordedtime", "2025-07-16 09:30:00+08:00"),
        ("seq", 0),
        ("seq", 2**31),
        ("seq", True),
        ("seq", 1.0),
        ("seq", "1"),
        ("dataschema", "https://estation.example/schemas/stations.checkin_voided.v1.json"),
        ("datacontenttype", "text/plain"),
        ("traceparent", None),
        ("traceparent", "00-" + "0" * 32),
        ("data", []),
    ],
)
def test_wrong_attribute_is_named(name: str, value: object) -> None:
    wrong: dict[str, Any] = build(CHECKIN)
    wrong[name] = value
    with pytest.raises(MalformedError, match=f"^{name}$"):
        check(wrong)


@pytest.mark.parametrize("time", ["2025-07-16T01:30:00Z", "2025-07-16T01:30:00.123456789+00:00"])
def test_instants_of_rfc_3339_pass(time: str) -> None:
    assert check({**build(CHECKIN), "time": time})


@pytest.mark.parametrize("seq", [1, 2**31 - 1])
def test_seq_goes_as_far_as_cloudevents_integers(seq: int) -> None:
    assert check({**build(CHECKIN), "seq": seq})


def test_unknown_attribute_is_ignored() -> None:
    assert check({**build(CHECKIN), "partitionkey": "a"})


@pytest.mark.parametrize("attribute", [{"$ne": 1}, {"a.b": 1}, {"later": 2**53}, {"later": "\ud800"}, {1: "a"}])
def test_unknown_attribute_that_no_database_takes_is_refused(attribute: dict[Any, object]) -> None:
    with pytest.raises(MalformedError, match=r"^unknown_attribute$"):
        check({**build(CHECKIN), **attribute})


@pytest.mark.parametrize(
    ("value", "verdict"),
    [
        (None, True),
        (True, True),
        ("泰安", True),
        ("\U0001f600", True),
        ("a\udfff", False),
        (2**53 - 1, True),
        (1 - 2**53, True),
        (2**53, False),
        (-(2**53), False),
        (0.5, True),
        (float("nan"), False),
        (float("-inf"), False),
        ([1, ["a", {"b": None}]], True),
        ([1, ["a", {"b": 2**70}]], False),
        ({"A": 1}, False),
        ({"a" * 64: 1}, True),
        ({"a" * 65: 1}, False),
        (b"a", False),
        (datetime(2025, 7, 16, tzinfo=UTC), False),
    ],
)
def test_interoperable_values(value: object, verdict: bool) -> None:
    assert is_interoperable(value) is verdict


@pytest.mark.parametrize(("wrap", "seed"), [(lambda value: [value], []), (lambda value: {"a": value}, {})])
def test_depth_is_bounded(wrap: Any, seed: object) -> None:
    value = seed
    for _ in range(envelope.DEPTH_MAX - 1):
        value = wrap(value)
    assert is_interoperable(value)
    assert not is_interoperable(wrap(value))
