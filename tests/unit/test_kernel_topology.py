"""What is derived from the catalogue: queues, bindings, policies, least privilege."""

import base64
import hashlib
import json
import re
from typing import Any

from contracts.catalogue import CATALOGUE
from services.kernel.topology import PARKED_DELIVERY_LIMIT, definitions
from tests.probe import EVENTS, NAME, NEIGHBOUR

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
