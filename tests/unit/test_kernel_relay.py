"""Packing: every event once, in order within its type, in messages of bounded count and size."""

import json

from hypothesis import given
from hypothesis import strategies as st

from contracts import envelope
from contracts.envelope import Event
from services.kernel import relay
from services.kernel.relay import BATCH_BYTES, BATCH_EVENTS, pack
from tests.builders import event
from tests.probe import LevelSetV1, NoteWrittenV1

NOTE, LEVEL = NoteWrittenV1.type, LevelSetV1.type


def note(number: int, padding: int = 0) -> Event:
    """A note with a number to tell it by."""
    return event(NOTE, {"failures": number, "padding": "x" * padding})


def numbers(body: bytes) -> list[int]:
    """The numbers in a batch."""
    return [one["data"]["failures"] for one in json.loads(body)]


def test_nothing_is_no_message() -> None:
    assert list(pack([])) == []


def test_a_lone_event_travels_as_one() -> None:
    lone = note(1)
    ((message, count),) = pack([lone])
    assert (message.exchange, message.routing_key, count) == ("probe.events", NOTE, 1)
    assert message.content_type == "application/cloudevents+json"
    assert envelope.load(message.body, message.content_type) == [lone]


def test_a_full_batch_is_one_message_and_one_more_event_makes_two() -> None:
    (message, count), *rest = pack([note(n) for n in range(BATCH_EVENTS)])
    assert (count, rest, message.content_type) == (BATCH_EVENTS, [], "application/cloudevents-batch+json")
    full, one = pack([note(n) for n in range(BATCH_EVENTS + 1)])
    assert (full[1], one[1]) == (BATCH_EVENTS, 1)
    assert numbers(full[0].body) == list(range(BATCH_EVENTS))


def test_a_batch_stays_under_the_size() -> None:
    large = [note(n, BATCH_BYTES // 3) for n in range(4)]
    packed = list(pack(large))
    assert [count for _message, count in packed] == [2, 2]
    assert all(len(message.body) <= BATCH_BYTES + BATCH_EVENTS + 1 for message, _count in packed)


def test_an_event_larger_than_a_batch_travels_alone() -> None:
    counts = [count for _message, count in pack([note(0), note(1, BATCH_BYTES + 1), note(2), note(3)])]
    assert counts == [1, 1, 2]


@given(st.lists(st.tuples(st.sampled_from([NOTE, LEVEL]), st.integers(0, relay.BATCH_BYTES // 2)), max_size=30))
def test_every_event_is_in_one_message_in_order_of_its_type(planned: list[tuple[str, int]]) -> None:
    events = [event(type_, {"failures": number, "padding": "x" * size}) for number, (type_, size) in enumerate(planned)]
    out: dict[str, list[str]] = {NOTE: [], LEVEL: []}
    for message, count in pack(events):
        inside = envelope.load(message.body, message.content_type)
        assert len(inside) == count
        assert {one["type"] for one in inside} == {message.routing_key}
        assert count == 1 or len(message.body) <= BATCH_BYTES + count + 1
        out[message.routing_key] += [one["id"] for one in inside]
    assert out == {type_: [one["id"] for one in events if one["type"] == type_] for type_ in out}
