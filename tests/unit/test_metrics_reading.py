"""A bad event is refused alone, with its reason, and never kept out of the dead-letter queue by its own badness."""

import json
from typing import Any, ClassVar, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from contracts import envelope
from contracts.catalogue import CATALOGUE, METRICS, WAITS, Catalogue, Entry
from contracts.envelope import BATCH_CONTENT_TYPE, CONTENT_TYPE, Event
from contracts.events import Day, EventData
from contracts.events.stations import CheckinRecordedV1
from contracts.measures import Count
from services.kernel import retry
from services.metrics import reading
from services.metrics.reading import Batch, Delivery, Reader
from tests.contract.builders import build
from tests.metrics import RECORDED, event

FROM: Final = "stations.events"


class _Unwritable(EventData):
    type: ClassVar[str] = "stations.thing_broken.v1"
    day = Day()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        raise ZeroDivisionError(event["id"])


def _read(body: bytes, content_type: str = BATCH_CONTENT_TYPE, *, events: Catalogue = CATALOGUE, **more: Any) -> Batch:
    batch = Batch()
    delivery = Delivery(
        **{"tag": 7, "headers": {}, "redelivered": False, "exchange": FROM, **more},
        body=body,
        content_type=content_type,
    )
    Reader(events).read(delivery, batch)
    return batch


def _batch_of(*raw: Event | bytes) -> bytes:
    return b"[" + b",".join(one if isinstance(one, bytes) else envelope.dump(one) for one in raw) + b"]"


def test_single_event_and_batch_are_read_alike() -> None:
    one, other = event(RECORDED), event("stations.fault_reported.v1")
    single = _read(envelope.dump(one), CONTENT_TYPE)
    assert [fact.event for fact in single.facts.values()] == [one]
    both = _read(_batch_of(one, other))
    assert [fact.event for fact in both.facts.values()] == [one, other]
    assert (both.events, both.deliveries, both.last_tag, both.refusals) == (2, 1, 7, [])
    assert both.facts[one["id"]].counts == CATALOGUE.counts(one)


def test_deliveries_add_up_in_one_batch() -> None:
    batch, one = Batch(), event(RECORDED)
    reader = Reader(CATALOGUE)
    reader.read(Delivery(1, envelope.dump(one), CONTENT_TYPE, {}, redelivered=False, exchange=FROM), batch)
    reader.read(
        Delivery(2, _batch_of(one, event(RECORDED)), BATCH_CONTENT_TYPE, {}, redelivered=True, exchange=FROM), batch
    )
    assert (batch.last_tag, batch.deliveries, batch.events, len(batch.facts)) == (2, 2, 3, 2)
    assert batch.redelivered


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ({**event(RECORDED), "specversion": "0.3"}, "specversion"),
        ({**event(RECORDED), "id": "1"}, "id"),
        ({**event(RECORDED), "county": "110000"}, "county"),
        ({**event(RECORDED), "source": "/services/care"}, "source"),
        (event(RECORDED, people=0), "data.people"),
        (event(RECORDED, day="2025-02-30"), "data.day"),
        (json.dumps(event(RECORDED)).replace("checkin_recorded.v1", "checkin_recorded.v9").encode(), "unknown_type"),
        (b'"x"', "event_not_object"),
        (b"null", "event_not_object"),
        (b"[[]]", "event_not_object"),
        (b'"\\ud800"', "event_not_object"),
        (b"1e999", "event_not_object"),
        (json.dumps({**event(RECORDED), "note": "\ud800"}).encode(), "unknown_attribute"),
        (json.dumps({**event(RECORDED), "note": 2**70}).encode(), "unknown_attribute"),
        (json.dumps({**event(RECORDED), "a": {"$where": 1}}).encode(), "unknown_attribute"),
        (b"[" * 800 + b"]" * 800, "event_not_object"),
    ],
)
def test_malformed_event_is_parked_alone_with_its_reason(raw: Event | bytes, reason: str) -> None:
    before, after = event(RECORDED), event(RECORDED)
    batch = _read(_batch_of(before, raw, after))
    assert list(batch.facts) == [before["id"], after["id"]]
    (refusal,) = batch.refusals
    assert refusal.reason == reason
    assert refusal.step.parked
    assert refusal.step.message.routing_key == retry.DEAD
    assert refusal.step.message.headers[retry.REASON] == reason


@pytest.mark.parametrize("depth", range(880, 1010))
def test_no_nesting_is_too_deep_to_be_refused(depth: int) -> None:
    batch = _read(b"[" * depth + b"]" * depth)
    assert batch.facts == {}
    assert [refusal.step.parked for refusal in batch.refusals] == [True]


@pytest.mark.parametrize(
    ("body", "content_type", "reason"),
    [
        (b"\xff\xfe", CONTENT_TYPE, "not_json"),
        (b"{", CONTENT_TYPE, "not_json"),
        (b"[NaN]", BATCH_CONTENT_TYPE, "not_json"),
        (b"{}", "application/json", "content_type_or_shape"),
        (b"{}", "", "content_type_or_shape"),
        (b"[]", CONTENT_TYPE, "content_type_or_shape"),
    ],
)
def test_unreadable_message_is_parked_as_it_came(body: bytes, content_type: str, reason: str) -> None:
    batch = _read(body, content_type)
    (refusal,) = batch.refusals
    assert (refusal.step.message.body, refusal.step.message.content_type) == (body, content_type)
    assert (refusal.step.parked, refusal.reason, batch.deliveries) == (True, reason, 1)


def test_empty_batch_is_settled_with_nothing() -> None:
    batch = _read(b"[]")
    assert (batch.deliveries, batch.events, batch.refusals) == (1, 0, [])


def test_event_not_meant_for_metrics_is_not_kept() -> None:
    events = Catalogue([Entry(CheckinRecordedV1, ("care",)), Entry(_Unwritable, (METRICS,))])
    batch = _read(_batch_of(event(RECORDED)), events=events)
    assert batch.facts == {}
    assert [refusal.reason for refusal in batch.refusals] == ["not_consumed_here"]


def test_event_whose_counting_fails_pauses_longer_each_time_and_is_parked_at_last() -> None:
    events = Catalogue([Entry(_Unwritable, (METRICS,)), Entry(CheckinRecordedV1, (METRICS,))])
    broken = event(RECORDED, day="2025-07-16")
    type_ = _Unwritable.type
    broken |= {"type": type_, "dataschema": f"{envelope.SCHEMA_BASE}{type_}.json", "data": {"day": "2025-07-16"}}
    good = event(RECORDED)
    ways = []
    headers: Any = {}
    for _ in range(len(WAITS) + 1):
        batch = _read(_batch_of(broken, good), events=events, headers=headers)
        assert list(batch.facts) == [good["id"]]
        (refusal,) = batch.refusals
        assert refusal.reason == "ZeroDivisionError"
        message = refusal.step.message
        assert json.loads(message.body)["id"] == broken["id"]
        headers = message.headers
        ways.append(message.routing_key)
    assert ways == [*WAITS, retry.DEAD]


def test_event_that_comes_back_from_a_pause_keeps_its_count_of_tries() -> None:
    one = event(RECORDED)
    batch = _read(envelope.dump(one), CONTENT_TYPE, headers={retry.ATTEMPT: 2})
    assert batch.headers == {one["id"]: {retry.ATTEMPT: 2}}


VOIDED = "stations.checkin_voided.v1"
_VALUES = st.sampled_from(
    [1, True, 1.0, 0, False, 3, 3.0, "3", None, 500, 501, "water", "rest", "Water", [], ["water"]]
)


@given(st.lists(st.tuples(st.sampled_from(["people", "kind", "day", "note", "county"]), _VALUES), max_size=30))
def test_what_passed_once_lets_nothing_else_pass(changes: list[tuple[str, Any]]) -> None:
    sent = []
    for name, value in changes:
        one = event(RECORDED)
        one["county" if name == "county" else "data"] = value if name == "county" else {**one["data"], name: value}
        sent += [one, event(RECORDED)]
    _assert_read_as_if_unknown(sent)


_PARTS = st.fixed_dictionaries(
    {},
    optional={
        "day": st.sampled_from(["2025-07-16", "2025-07-17", "2025-02-30"]),
        "people": st.sampled_from([-3, -2, 0, 3, False]),
        "was_quarantined": st.sampled_from([True, False, 1]),
        "kind": st.sampled_from(["water", "rest", "-"]),
        "later": st.sampled_from([1, "$x", [1], {"$ne": 1}]),
    },
)


@given(
    st.lists(
        st.tuples(st.sampled_from([RECORDED, VOIDED]), _PARTS, st.sets(st.sampled_from(["day", "kind"]))), max_size=20
    )
)
def test_fields_that_passed_apart_pass_together_only_where_nothing_joins_them(
    tried: list[tuple[str, dict[str, Any], set[str]]],
) -> None:
    sent = []
    for type_, changes, left_out in tried:
        one = event(type_)
        data = {**one["data"], **changes}
        one["data"] = {name: value for name, value in data.items() if name not in left_out}
        sent.append(one)
    _assert_read_as_if_unknown(sent)


def test_a_void_whose_fields_were_seen_in_others_is_still_judged_as_a_whole() -> None:
    waiting, counted = event(VOIDED, people=0, was_quarantined=True), event(VOIDED, people=-3, was_quarantined=False)
    contradiction = event(VOIDED, people=-3, was_quarantined=True)
    assert _verdict(contradiction)
    _assert_read_as_if_unknown([waiting, counted, contradiction])


def _assert_read_as_if_unknown(sent: list[Event]) -> None:
    expected = [reason for reason in map(_verdict, sent) if reason]
    reader, batch = Reader(CATALOGUE), Batch()
    reader.read(Delivery(1, _batch_of(*sent), BATCH_CONTENT_TYPE, {}, redelivered=False, exchange=FROM), batch)
    assert [refusal.reason for refusal in batch.refusals] == expected
    assert len(batch.facts) == len(sent) - len(expected)


def _verdict(one: Event) -> str | None:
    try:
        CATALOGUE.check(envelope.check(one))
    except envelope.MalformedError as error:
        return str(error)
    return None


def test_memory_of_what_passed_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "PASSED_MAX", 10)
    reader, batch = Reader(CATALOGUE), Batch()
    events = [event(RECORDED, people=people) for people in range(1, 20)]
    reader.read(Delivery(1, _batch_of(*events), BATCH_CONTENT_TYPE, {}, redelivered=False, exchange=FROM), batch)
    assert len(batch.facts) == len(events)
    assert 0 < len(reader._passed) <= 10


def test_a_service_speaks_for_itself_alone() -> None:
    own, foreign = event(RECORDED), build("people.person_registered.v1")
    read = _read(_batch_of(own, foreign))
    assert list(read.facts) == [own["id"]]
    assert [refusal.reason for refusal in read.refusals] == ["foreign_exchange"]
    assert len(_read(_batch_of(own, foreign), exchange="metrics.retry").facts) == 2, "what came back was looked at"
