"""The topology on a real broker: declared twice it stays as it is, and each user may do what its work needs."""

import contextlib
import time
import urllib.error
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote, urlsplit

import pika
import pytest
from pika.exceptions import AMQPError, ChannelClosedByBroker

from contracts.catalogue import CATALOGUE, Catalogue, Entry
from services.kernel.topology import Management, definitions
from tests.parts import Broker, Parts, until
from tests.probe import EVENTS, NAME, NEIGHBOUR, LevelSetV1, NoteWrittenV1


@pytest.fixture(scope="module")
def broker(parts: Parts) -> Iterator[Broker]:
    """A vhost with the probe's topology."""
    made = parts.broker(EVENTS)
    yield made
    parts.forget(made)


@pytest.fixture
def fresh(parts: Parts) -> Iterator[Broker]:
    """The same, for one test alone."""
    made = parts.broker(EVENTS)
    yield made
    parts.forget(made)


@contextlib.contextmanager
def channel(url: str) -> Iterator[Any]:
    """A channel with confirms; the broker's refusal ends the block."""
    connection = pika.BlockingConnection(pika.URLParameters(url))
    try:
        made = connection.channel()
        made.confirm_delivery()
        yield made
    finally:
        with contextlib.suppress(AMQPError):
            connection.close()


def declared(broker: Broker) -> dict[str, Any]:
    """Everything the broker says it has in this vhost."""
    found = broker.management.call("GET", f"/definitions/{broker.vhost}")
    kinds = ("exchanges", "queues", "bindings", "policies")
    return {kind: sorted(found[kind], key=str) for kind in kinds}


def test_declaring_again_changes_nothing(parts: Parts, broker: Broker) -> None:
    before = declared(broker)
    permissions = broker.management.call("GET", f"/vhosts/{broker.vhost}/permissions")
    assert broker.management.apply(definitions(EVENTS, broker.vhost, dict(broker.passwords))) == []
    assert declared(broker) == before
    assert broker.management.call("GET", f"/vhosts/{broker.vhost}/permissions") == permissions
    with channel(broker.url_for(NAME)):
        pass


def test_the_broker_has_what_was_derived(broker: Broker) -> None:
    wanted, found = definitions(EVENTS, broker.vhost, {}), declared(broker)
    for kind in ("exchanges", "queues", "policies"):
        assert {one["name"] for one in found[kind]} == {one["name"] for one in wanted[kind]}
    keys = ("source", "destination", "routing_key")
    bound = {tuple(one[key] for key in keys) for one in found["bindings"]}
    assert bound == {tuple(one[key] for key in keys) for one in wanted["bindings"]}


def test_policies_are_in_force_and_depths_count_what_is_taken_but_not_settled(fresh: Broker) -> None:
    """One wait for both: the broker tells its queues' figures every five seconds."""
    wanted = {one["name"]: one["definition"] for one in definitions(EVENTS, fresh.vhost, {})["policies"]}

    def effective() -> dict[str, Any]:
        queues = fresh.management.call("GET", f"/queues/{fresh.vhost}")
        return {queue["name"]: queue.get("effective_policy_definition") for queue in queues}

    with channel(fresh.url_for(NAME)) as own:
        for _ in range(3):
            own.basic_publish("probe.events", LevelSetV1.type, b"{}", mandatory=True)
        own.basic_get("probe.inbox")
        until(lambda: fresh.management.depths(fresh.vhost).get("probe.inbox") == 3, "the API counts them", 20)
        until(lambda: effective() == wanted, "every queue follows its policy", 20)


def test_a_binding_the_catalogue_no_longer_has_is_taken_away(fresh: Broker) -> None:
    with channel(fresh.admin_url) as admin:
        admin.queue_declare("of-somebody-else", durable=True)
        admin.exchange_declare("elsewhere", "topic", durable=True)
        admin.queue_bind("of-somebody-else", "elsewhere", "#")
        admin.queue_bind("neighbour.inbox", "probe.events", "probe.level_set.v1")
    smaller = Catalogue((Entry(NoteWrittenV1, (NAME, NEIGHBOUR)), Entry(LevelSetV1, (NAME,))))
    removed = fresh.management.apply(definitions(smaller, fresh.vhost, dict(fresh.passwords)))
    assert removed == ["probe.events -> neighbour.inbox (probe.level_set.v1)"]
    left = {(one["source"], one["destination"]) for one in declared(fresh)["bindings"]}
    assert ("elsewhere", "of-somebody-else") in left, "what is not ours stays"
    assert ("probe.events", "neighbour.inbox") in left, "and what the catalogue has"


# Least privilege


def refused(code: int) -> Any:
    """The broker closes the channel with this code."""
    return pytest.raises(ChannelClosedByBroker, match=rf"\({code}, ")


def test_a_service_publishes_to_its_own_exchanges_and_reads_its_own_inbox(broker: Broker) -> None:
    with channel(broker.url_for(NAME)) as own:
        own.basic_publish("probe.events", "probe.nobody.v1", b"{}", mandatory=True)
        own.basic_publish("probe.retry", "dead", b"{}", mandatory=True)
        own.basic_get("probe.inbox")


@pytest.mark.parametrize(
    ("user", "exchange"),
    [
        (NAME, "neighbour.retry"),
        (NEIGHBOUR, "probe.events"),
        (NEIGHBOUR, "probe.retry"),
        (NAME, "unrouted"),
        (NAME, "amq.topic"),
        (NAME, ""),
    ],
)
def test_it_publishes_nowhere_else(broker: Broker, user: str, exchange: str) -> None:
    with channel(broker.url_for(user)) as own, refused(403):
        own.basic_publish(exchange, "dead", b"{}", mandatory=True)


@pytest.mark.parametrize("queue", ["neighbour.inbox", "neighbour.dead", "probe.dead", "probe.wait.5s", "unrouted"])
def test_it_reads_nothing_else(broker: Broker, queue: str) -> None:
    with channel(broker.url_for(NAME)) as own, refused(403):
        own.basic_get(queue)
    with channel(broker.url_for(NAME)) as own, refused(403):
        own.queue_purge(queue)


def test_it_declares_deletes_and_binds_nothing(broker: Broker) -> None:
    attempts = [
        lambda own: own.queue_declare("probe.inbox2"),
        lambda own: own.queue_declare(""),
        lambda own: own.queue_delete("probe.inbox"),
        lambda own: own.exchange_declare("probe.events2", "topic"),
        lambda own: own.exchange_delete("probe.events"),
        lambda own: own.queue_bind("probe.inbox", "probe.events", "#"),
        lambda own: own.queue_bind("probe.inbox", "neighbour.retry", "#"),
    ]
    for attempt in attempts:
        with channel(broker.url_for(NAME)) as own, refused(403):
            attempt(own)  # type: ignore[no-untyped-call]  # a lambda over an untyped channel


def test_stations_cannot_read_or_speak_for_metrics(parts: Parts) -> None:
    made = parts.broker(CATALOGUE)
    try:
        with channel(made.url_for("stations")) as own, refused(403):
            own.basic_get("metrics.inbox")
        for exchange in ("metrics.retry",):
            with channel(made.url_for("stations")) as own, refused(403):
                own.basic_publish(exchange, "inbox", b"{}")
        with channel(made.url_for("metrics")) as own, refused(403):
            own.basic_publish("stations.events", "stations.checkin_recorded.v1", b"{}")
    finally:
        parts.forget(made)


def test_a_services_password_opens_no_management(broker: Broker) -> None:
    parts = urlsplit(broker.api)
    stranger = Management(f"http://{NAME}:{broker.passwords[NAME]}@{parts.hostname}:{parts.port}")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stranger.call("GET", "/queues")


def test_an_administrators_password_may_hold_any_character(parts: Parts, broker: Broker) -> None:
    password = "p@ss:w/rd%41 ?#"
    broker.management.call("PUT", "/users/odd", {"password": password, "tags": "administrator"})
    place = urlsplit(broker.api)
    try:
        odd = Management(f"http://odd:{quote(password, safe='')}@{place.hostname}:{place.port}")
        assert odd.call("GET", "/whoami")["name"] == "odd"
    finally:
        broker.management.call("DELETE", "/users/odd")


# Where messages go


def test_what_waits_returns_to_its_own_inbox_and_to_no_other(fresh: Broker) -> None:
    fresh.management.call(
        "PUT",
        f"/policies/{fresh.vhost}/{quote('probe.wait.5s')}",
        {
            "pattern": r"^probe\.wait\.5s$",
            "apply-to": "queues",
            "priority": 10,
            "definition": {
                **next(
                    one["definition"]
                    for one in definitions(EVENTS, fresh.vhost, {})["policies"]
                    if one["name"] == "probe.wait.5s"
                ),
                "message-ttl": 300,
            },
        },
    )
    with channel(fresh.url_for(NAME)) as own:
        own.basic_publish("probe.retry", "5s", b"waits", mandatory=True)
    started = time.monotonic()
    assert fresh.depth("probe.inbox") == 0, "not at once"
    until(lambda: fresh.depth("probe.inbox") == 1, "it returns", 10)
    assert time.monotonic() - started > 0.2
    assert fresh.depth("neighbour.inbox") == fresh.depth("probe.dead") == fresh.depth("unrouted") == 0


def test_what_is_delivered_too_often_is_parked_by_the_broker_itself(fresh: Broker) -> None:
    with channel(fresh.url_for(NAME)) as own:
        own.basic_publish("probe.events", LevelSetV1.type, b"poison", mandatory=True)
        for _delivery in range(21):
            method = until(lambda: own.basic_get("probe.inbox")[0], "it is given again", 10)
            own.basic_reject(method.delivery_tag, requeue=True)
    until(lambda: fresh.depth("probe.dead") == 1, "parked after the limit", 10)
    assert fresh.depth("probe.inbox") == 0


def test_an_event_nobody_is_bound_for_is_kept(fresh: Broker) -> None:
    with channel(fresh.url_for(NAME)) as own:
        own.basic_publish("probe.events", "probe.level_set.v2", b"{}", mandatory=True)
    assert fresh.depth("unrouted") == 1


def test_a_vhost_is_taken_away_once_and_again(parts: Parts) -> None:
    made = parts.broker(EVENTS)
    made.management.delete_vhost(made.vhost)
    made.management.delete_vhost(made.vhost)
    with pytest.raises(urllib.error.HTTPError, match="404"):
        made.management.call("GET", f"/vhosts/{made.vhost}")
