"""What is derived from the catalogue: queues, bindings, least privilege; and where a failed event goes next."""

import base64
import hashlib
import json
import re
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from contracts import catalogue, envelope
from contracts.catalogue import CATALOGUE
from services.kernel import retry
from services.kernel.topology import PARKED_DELIVERY_LIMIT, definitions
from tests.builders import event
from tests.probe import EVENTS, NAME, NEIGHBOUR, NoteWrittenV1

PASSWORDS = {NAME: "p1", NEIGHBOUR: "p2"}


def probe_topology() -> dict[str, Any]:
    """The probe's topology."""
    return definitions(EVENTS, "v", PASSWORDS)


def names(topology: dict[str, Any], kind: str) -> set[str]:
    """The names of its exchanges, queues or policies."""
    return {one["name"] for one in topology[kind]}


def test_every_consumer_has_an_inbox_three_pauses_and_a_dead_letter_queue() -> None:
    topology = probe_topology()
    assert names(topology, "queues") == {
        "unrouted",
        *(f"{consumer}.{end}" for consumer in PASSWORDS for end in ("inbox", "dead", "wait.5s", "wait.30s", "wait.5m")),
    }
    assert names(topology, "exchanges") == {"unrouted", "probe.events", "probe.retry", "neighbour.retry"}
    assert all(queue["arguments"]["x-queue-type"] == "quorum" and queue["durable"] for queue in topology["queues"])


def test_bindings_are_those_of_the_catalogue_and_pauses_return_to_their_own_inbox() -> None:
    bound = {(one["source"], one["destination"], one["routing_key"]) for one in probe_topology()["bindings"]}
    assert {one for one in bound if one[0] == "probe.events"} == {
        ("probe.events", "probe.inbox", "probe.note_written.v1"),
        ("probe.events", "probe.inbox", "probe.level_set.v1"),
        ("probe.events", "neighbour.inbox", "probe.note_written.v1"),
    }
    assert {one for one in bound if one[0] == "neighbour.retry"} == {
        ("neighbour.retry", "neighbour.inbox", "inbox"),
        ("neighbour.retry", "neighbour.wait.5s", "5s"),
        ("neighbour.retry", "neighbour.wait.30s", "30s"),
        ("neighbour.retry", "neighbour.wait.5m", "5m"),
        ("neighbour.retry", "neighbour.dead", "dead"),
    }


def test_no_inbox_has_a_maximum_length_and_none_forgets() -> None:
    for policy in definitions(CATALOGUE, "v", {})["policies"]:
        definition, leads_on = policy["definition"], not policy["name"].endswith(("dead", "unrouted"))
        assert not {"max-length", "max-length-bytes", "expires"} & definition.keys()
        assert ("dead-letter-exchange" in definition) is leads_on
        if leads_on:
            assert definition["dead-letter-strategy"] == "at-least-once"
            assert definition["overflow"] == "reject-publish", "or it is at most once after all"
        assert ("message-ttl" in definition) == (".wait." in policy["name"])


def test_looking_at_what_is_parked_does_not_use_it_up() -> None:
    """In 4.x a queue without a limit of its own drops a message after twenty deliveries."""
    limits = {one["name"]: one["definition"].get("delivery-limit") for one in probe_topology()["policies"]}
    for name in ("unrouted", "probe.dead", "neighbour.dead"):
        assert limits[name] == PARKED_DELIVERY_LIMIT


def test_a_policy_meets_its_queue_and_no_other() -> None:
    topology = probe_topology()
    for policy in topology["policies"]:
        met = {name for name in names(topology, "queues") if re.search(policy["pattern"], name)}
        assert met == {policy["name"]}
        assert "." not in policy["name"] or not re.search(policy["pattern"], policy["name"].replace(".", "x"))


def test_metrics_alone_is_consumed_by_one_at_a_time_and_may_crash_often() -> None:
    for events, consumer, single in ((CATALOGUE, "metrics", True), (EVENTS, NAME, False)):
        topology = definitions(events, "v", {})
        (queue,) = (one for one in topology["queues"] if one["name"] == f"{consumer}.inbox")
        (policy,) = (one for one in topology["policies"] if one["name"] == f"{consumer}.inbox")
        assert queue["arguments"].get("x-single-active-consumer", False) is single
        assert policy["definition"]["delivery-limit"] == (1000 if single else 20)


def test_users_may_do_what_their_work_needs() -> None:
    by_user = {one["user"]: one for one in probe_topology()["permissions"]}
    assert by_user.keys() == {NAME, NEIGHBOUR}
    probe = by_user[NAME]
    assert probe["configure"] == "^$"
    for name in ("probe.events", "probe.retry"):
        assert re.search(probe["write"], name)
    for name in (
        "neighbour.events",
        "neighbour.retry",
        "probe.inbox",
        "probexevents",
        "a.probe.events",
        "",
        "unrouted",
    ):
        assert not re.search(probe["write"], name)
    assert re.search(probe["read"], "probe.inbox")
    for name in ("neighbour.inbox", "probe.dead", "probe.wait.5s", "probe.events", "unrouted"):
        assert not re.search(probe["read"], name)


def test_users_without_a_password_get_nothing() -> None:
    topology = definitions(EVENTS, "v", {NAME: "p"})
    assert [one["user"] for one in topology["permissions"]] == [NAME]
    assert [one["name"] for one in topology["users"]] == [NAME]
    assert topology["users"][0]["tags"] == []


def test_passwords_are_hashed_as_the_broker_hashes_them_and_each_time_alike() -> None:
    one, again = probe_topology(), probe_topology()
    assert one == again
    assert "p1" not in json.dumps([user["password_hash"] for user in one["users"]])
    for user in one["users"]:
        raw = base64.b64decode(user["password_hash"])
        assert hashlib.sha256(raw[:4] + PASSWORDS[user["name"]].encode()).digest() == raw[4:]


# What becomes of an event that failed


def test_pauses_grow_and_then_it_is_parked_with_its_reason() -> None:
    headers: dict[str, Any] | None = None
    failed = event(NoteWrittenV1.type, {"failures": 9})
    keys = []
    for attempt in range(1, 5):
        step = retry.step(NAME, failed, headers, "boom")
        keys.append((step.message.routing_key, step.parked))
        assert step.message.exchange == "probe.retry"
        headers = dict(step.message.headers)
        assert headers == {retry.ATTEMPT: attempt, retry.REASON: "boom"}
        assert envelope.load(step.message.body, step.message.content_type) == [failed]
    assert keys == [("5s", False), ("30s", False), ("5m", False), ("dead", True)]
    assert [*catalogue.WAITS.values()] == sorted(catalogue.WAITS.values())


def test_what_no_repetition_can_mend_is_parked_at_once() -> None:
    step = retry.step(NAME, {"type": "nonsense"}, None, "type", final=True)
    assert (step.parked, step.message.routing_key, step.message.headers[retry.REASON]) == (True, "dead", "type")


def test_what_cannot_be_read_is_parked_as_it_came() -> None:
    step = retry.step_raw(NAME, b"\xff\x00", "text/odd", "not_json")
    assert (step.parked, step.message.body, step.message.content_type) == (True, b"\xff\x00", "text/odd")


def test_a_long_reason_is_cut() -> None:
    assert len(retry.step(NAME, {}, None, "x" * 5000).message.headers[retry.REASON]) == 200


@pytest.mark.parametrize("value", [None, "1", -1, 1.5, [1], {}, True])
def test_an_odd_header_counts_as_the_first_failure(value: object) -> None:
    assert retry.attempt_of({retry.ATTEMPT: value}) == (1 if value is True else 0)
    assert retry.attempt_of(None) == 0


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters()),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@example(b'{"a": "\\ud800"}')
@example(b"1e999")
@given(json_values.map(json.dumps).map(str.encode))
def test_whatever_json_brings_in_can_be_parked(raw: bytes) -> None:
    """A lone surrogate is legal JSON, but no UTF-8: it must not take its neighbours along."""
    (poison,) = envelope.load(b"[" + raw + b"]", envelope.BATCH_CONTENT_TYPE)
    step = retry.step(NAME, poison, None, "malformed", final=True)
    assert json.loads(step.message.body) == poison
