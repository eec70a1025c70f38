"""The relay on real parts: what is pending is published and marked only when confirmed; one relay works at a time."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import pymongo
import pytest
from pymongo.database import Database

from contracts.envelope import Event
from services.kernel import ids, outbox, relay, telemetry
from services.kernel.amqp import Message, Publisher, PublishError
from services.kernel.mongo import Document
from services.kernel.outbox import Emit, Source, embedded, insert, update
from services.kernel.relay import Relay
from tests.builders import NOON, event, write
from tests.kernel import ProbeWorld, connected, failing
from tests.parts import Parts, until
from tests.probe import EVENTS, NAME, SOURCES, LevelSetV1, NoteWrittenV1

APPNAME = "estation-probe-test"


@pytest.fixture
def world(parts: Parts, tmp_path: Path) -> Iterator[ProbeWorld]:
    """The probe's vhost and database."""
    made = ProbeWorld(parts, tmp_path)
    yield made
    made.close()


def level(value: int) -> Emit:
    """An event that says a level."""
    return Emit(LevelSetV1, {"level": value})


def fill(world: ProbeWorld, count: int, collection: str = "notes", **write_: Any) -> list[str]:
    """So many documents with an event each; the events' ids."""
    made = [
        insert(world.database[collection], {"_id": ids.new(), "county": "370902"}, write(level(number), **write_))[0]
        for number in range(count)
    ]
    return [document["out"][0]["id"] for document in made]


def pending(world: ProbeWorld) -> int:
    """How many documents wait to be published."""
    return sum(world.database[source.collection].count_documents({"open": True}) for source in SOURCES)


@pytest.fixture
def make(world: ProbeWorld) -> Iterator[Callable[..., Relay]]:
    """Makes relays in this process; their connections are closed at the end."""
    made: list[Relay] = []

    def make(holder: str = "test", database: Database[Document] = world.database) -> Relay:
        made.append(Relay(NAME, database, SOURCES, world.broker.url_for(NAME), holder=holder))
        return made[-1]

    yield make
    for one in made:
        one._publisher.close()


Make = Callable[..., Relay]


@contextmanager
def running(one: Relay) -> Iterator[threading.Thread]:
    """A relay at work in a thread."""
    thread = threading.Thread(target=one.run, daemon=True)
    thread.start()
    try:
        yield thread
    finally:
        one.stop()
        thread.join(20)
        assert not thread.is_alive()


def seen(events: Sequence[Event]) -> set[str]:
    """The ids of events."""
    return {event["id"] for event in events}


def test_everything_pending_is_published_as_it_was_written(world: ProbeWorld, make: Make) -> None:
    tap = world.tap(NAME)
    made, _ = insert(
        world.database["notes"], {"_id": "11111111-1111-4111-8111-111111111111", "county": "370902"}, write(level(1))
    )
    changed = update(world.database["notes"], made, write(level(2), Emit(NoteWrittenV1, {"failures": 0})), changes={})
    expected = outbox.embedded(changed)
    one = make()
    with running(one):
        events = tap.events(3)
        until(lambda: pending(world) == 0, "marked")
    assert sorted(events, key=lambda event: event["seq"]) == expected
    for found in events:
        EVENTS.check(found)
    assert {key for key, _kind, _body in tap.messages} == {LevelSetV1.type, NoteWrittenV1.type}
    (kept,) = world.database["notes"].find()
    assert (kept["open"], kept["sent"], kept["out"]) == (False, 3, [])


def test_a_new_document_is_published_at_once(world: ProbeWorld, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """Woken by the change stream: the poll would come much later."""
    monkeypatch.setattr(relay, "POLL_SECONDS", 60.0)
    tap = world.tap(NAME)
    one = make()
    with running(one):
        until(lambda: one.active, "the relay is active")
        for number in range(1, 4):
            fill(world, 1)
            assert len(tap.events(number, 10)) == number


def test_without_a_change_stream_the_poll_still_finds_it(world: ProbeWorld, make: Make, parts: Parts) -> None:
    tap = world.tap(NAME)
    with (
        failing(
            parts.mongodb_url, APPNAME, "aggregate", errorCode=40573, namespace=f"{world.database.name}.$cmd.aggregate"
        ),
        running(make()),
    ):
        assert seen(tap.events(0)) == set()
        expected = set(fill(world, 3))
        assert seen(tap.events(3, 5)) == expected


def test_many_travel_in_batches_and_each_once(world: ProbeWorld, make: Make) -> None:
    expected = fill(world, 250) + fill(world, 30, "levels")
    tap = world.tap(NAME)
    one = make()
    assert one.publish_pending() == 280
    events = tap.events(280)
    assert sorted(event["id"] for event in events) == sorted(expected)
    assert len(tap.messages) == 4, "100 + 100 + 50, and 30 of the other collection"
    assert pending(world) == 0
    assert one.publish_pending() == 0


def test_a_read_is_bounded_and_the_oldest_go_first(
    world: ProbeWorld, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(relay, "READ_MAX", 10)
    young = fill(world, 10, at=NOON + timedelta(hours=1))
    old = fill(world, 10)
    tap = world.tap(NAME)
    one = make()
    assert one.publish_pending() == 10
    assert seen(tap.events(10)) == set(old)
    assert one.publish_pending() == 10
    assert seen(tap.events(20)) == set(old + young)


def test_an_event_that_was_published_is_not_published_with_the_next(world: ProbeWorld, make: Make) -> None:
    tap = world.tap(NAME)
    one = make()
    made, _ = insert(world.database["notes"], {"_id": ids.new(), "county": "370902"}, write(level(1)))
    assert one.publish_pending() == 1
    current = world.database["notes"].find_one({"_id": made["_id"]})
    assert current is not None
    update(world.database["notes"], current, write(level(2)), changes={})
    assert one.publish_pending() == 1
    assert [event["data"]["level"] for event in tap.events(2)] == [1, 2]


def test_a_document_that_is_its_own_first_event_says_it_once(world: ProbeWorld) -> None:
    """As a check-in: nothing of the first event is kept apart that could be taken away once it is published."""
    notes = world.database["notes"]
    first = event(LevelSetV1.type, {"level": 1}, id=ids.new(), seq=1)

    def with_first(document: Document) -> list[Event]:
        return [{**first, "subject": document["_id"]}, *embedded(document)]

    tap = world.tap(NAME)
    one = Relay(NAME, world.database, [Source("notes", with_first)], world.broker.url_for(NAME), holder="test")
    notes.insert_one(
        {"_id": ids.new(), "county": "370902", "rev": 1, "seq": 1, "out": [], "open": True, "recorded_at": NOON}
    )
    assert one.publish_pending() == 1
    current = notes.find_one({})
    assert current is not None
    update(notes, current, write(level(2)), changes={})
    assert one.publish_pending() == 1
    one._publisher.close()
    assert [found["data"]["level"] for found in tap.events(2)] == [1, 2]


def test_of_a_document_that_is_its_own_events_only_new_ones_are_published(world: ProbeWorld) -> None:
    """A source that makes all events of a document each time: what was ``sent`` is left out."""

    def events_of(document: Document) -> list[Event]:
        return [
            event(LevelSetV1.type, {"level": seq}, id=f"{document['_id'][:-1]}{seq}", subject=document["_id"], seq=seq)
            for seq in range(1, document["seq"] + 1)
        ]

    notes, sources = world.database["notes"], [outbox.Source("notes", events_of, ("extra",))]
    one = Relay(NAME, world.database, sources, world.broker.url_for(NAME), holder="test")
    tap = world.tap(NAME)
    made, _ = insert(notes, {"_id": ids.new(), "county": "370902"}, write(level(1)))
    assert one.publish_pending() == 1
    update(notes, made, write(level(2), level(3)), changes={})
    assert one.publish_pending() == 2
    one._publisher.close()
    assert [told["seq"] for told in tap.events(3)] == [1, 2, 3]
    assert notes.count_documents({"open": True}) == 0


def test_marking_that_fails_publishes_again_and_loses_nothing(world: ProbeWorld, make: Make, parts: Parts) -> None:
    expected = fill(world, 3)
    tap = world.tap(NAME)
    one = make()
    with (
        failing(parts.mongodb_url, APPNAME, "update", errorCode=8),
        pytest.raises(pymongo.errors.PyMongoError),
    ):
        one.publish_pending()
    assert pending(world) == 3
    assert one.publish_pending() == 3
    published = [event["id"] for event in tap.events(6)]
    assert sorted(published) == sorted(expected * 2), "twice: at least once"


def test_with_no_queue_for_its_type_an_event_is_kept_in_unrouted(world: ProbeWorld, make: Make) -> None:
    world.broker.management.call("DELETE", f"/queues/{world.broker.vhost}/probe.inbox")
    fill(world, 1)
    assert make().publish_pending() == 1
    assert pending(world) == 0
    assert world.broker.depth("unrouted") == 1


def refuse(world: ProbeWorld, type_: str) -> None:
    """From now on the broker has no place at all for events of one type."""
    management, vhost = world.broker.management, world.broker.vhost
    management.call("DELETE", f"/exchanges/{vhost}/unrouted")
    for queue in ("probe.inbox", "neighbour.inbox"):
        for binding in management.call("GET", f"/bindings/{vhost}/e/probe.events/q/{queue}"):
            if binding["routing_key"] == type_:
                management.call("DELETE", f"/bindings/{vhost}/e/probe.events/q/{queue}/{binding['properties_key']}")


def test_what_the_broker_refuses_stays_pending_and_holds_nothing_up(world: ProbeWorld, make: Make) -> None:
    """A returned message is its document's alone: others of the same read and of other collections go."""
    refuse(world, LevelSetV1.type)
    stuck, _ = insert(world.database["notes"], {"_id": ids.new(), "county": "370902"}, write(level(1)))
    written = Emit(NoteWrittenV1, {"failures": 0})
    mixed, _ = insert(world.database["notes"], {"_id": ids.new(), "county": "370902"}, write(level(2), written))
    for collection in ("notes", "levels"):
        insert(world.database[collection], {"_id": ids.new(), "county": "370902"}, write(written))
    one = make()
    with pytest.raises(PublishError, match="refused"):
        one.publish_pending()
    left = {document["_id"] for document in world.database["notes"].find({"open": True})}
    assert left == {stuck["_id"], mixed["_id"]}
    assert world.database["levels"].count_documents({"open": True}) == 0
    tap = world.tap(NAME)
    assert one.publish_pending() == 3
    assert pending(world) == 0
    assert [event["data"].get("level") for event in tap.events(3)] == [1, 2, None]


def test_a_nack_keeps_it_pending(world: ProbeWorld, make: Make) -> None:
    """A full queue that rejects: the broker answers with a nack."""
    world.broker.management.call(
        "PUT",
        f"/policies/{world.broker.vhost}/full",
        {
            "pattern": r"^neighbour\.inbox$",
            "apply-to": "queues",
            "priority": 99,
            "definition": {"max-length": 0, "overflow": "reject-publish"},
        },
    )
    written = Emit(NoteWrittenV1, {"failures": 0})
    one = make()

    def refused() -> bool:
        insert(world.database["notes"], {"_id": ids.new(), "county": "370902"}, write(written))
        try:
            one.publish_pending()
        except PublishError as error:
            return str(error) == "refused"
        return False

    until(refused, "the queue is full")
    assert pending(world) >= 1
    world.broker.management.call("DELETE", f"/policies/{world.broker.vhost}/full")
    again = make()  # to a channel that was told that it is full, it stays so
    until(lambda: _drained(again), "the queue takes them again")
    assert pending(world) == 0


def _drained(one: Relay) -> bool:
    try:
        one.publish_pending()
    except PublishError:
        return False
    return True


def test_a_relay_that_may_not_publish_backs_off_and_counts_its_faults(world: ProbeWorld, make: Make) -> None:
    world.broker.management.call("DELETE", f"/exchanges/{world.broker.vhost}/probe.events")
    fill(world, 1)
    before = telemetry.RELAY_FAULTS.labels(NAME, "broker")._value.get()
    with running(make()):
        until(lambda: telemetry.RELAY_FAULTS.labels(NAME, "broker")._value.get() >= before + 2, "it tries again")
    assert pending(world) == 1


def test_a_database_that_is_away_for_a_while_costs_nothing(world: ProbeWorld, make: Make, parts: Parts) -> None:
    tap = world.tap(NAME)
    faults = telemetry.RELAY_FAULTS.labels(NAME, "database")._value
    with connected(world.settings(NAME), NAME, "relay") as database:
        one = make(database=database)
        with running(one):
            expected = set(fill(world, 2))
            tap.events(2)
            before = faults.get()
            with failing(parts.mongodb_url, "estation-probe-relay", "find", "update", errorCode=8):
                expected |= set(fill(world, 3))
                until(lambda: faults.get() > before, "it notices")
            assert seen(tap.events(5)) == expected
            until(lambda: pending(world) == 0, "marked")


def test_a_relay_that_cannot_release_its_lease_stops_all_the_same(world: ProbeWorld, make: Make, parts: Parts) -> None:
    with connected(world.settings(NAME), NAME, "relay") as database:
        one = make(database=database)
        with running(one):
            until(lambda: one.active, "active")
            with failing(parts.mongodb_url, "estation-probe-relay", "update", errorCode=8):
                one.stop()
                until(lambda: threading.active_count() and not one._publisher._channel, "closed")


def test_the_gauges_tell_how_many_wait_and_for_how_long(world: ProbeWorld, make: Make) -> None:
    def gauges() -> tuple[float, float]:
        relay.observe_pending(NAME, world.database, SOURCES, lambda: NOON + timedelta(hours=2))
        return (
            telemetry.OUTBOX_PENDING.labels(NAME)._value.get(),
            telemetry.OUTBOX_OLDEST.labels(NAME)._value.get(),
        )

    assert gauges() == (0, 0)
    fill(world, 2, at=NOON + timedelta(hours=1))
    fill(world, 1, "levels", at=NOON)
    assert gauges() == (3, 7200)
    make().publish_pending()
    assert gauges() == (0, 0)


# Two relays


def test_of_two_relays_one_works_and_hands_over_at_once(world: ProbeWorld, make: Make) -> None:
    one, two = make("one"), make("two")
    tap = world.tap(NAME)
    with running(two) as other:
        with running(one):
            until(lambda: one.active or two.active, "one is active")
            expected = set(fill(world, 20))
            assert seen(tap.events(20)) == expected
            assert one.active != two.active
            first, second = (one, two) if one.active else (two, one)
            first.stop()
            until(lambda: second.active, "the other took over", 3)
            expected |= set(fill(world, 5))
            assert seen(tap.events(25)) == expected
        assert other
    assert len(tap.drain()) == 25, "and nothing was published twice"


def test_when_the_active_relay_is_killed_the_other_takes_over_and_nothing_is_lost(world: ProbeWorld) -> None:
    tap = world.tap(NAME)
    processes = [world.relay().start(), world.relay().start()]

    def active() -> list[Any]:
        return [one for one in processes if one.metric("estation_relay_active", service=NAME) == 1]

    (first,) = until(active, "one is active")
    expected: set[str] = set()
    stop, writing = threading.Event(), threading.Event()

    def write_on() -> None:
        while not stop.wait(0.02):
            expected.update(fill(world, 2))
            writing.set()

    writer = threading.Thread(target=write_on)
    writer.start()
    assert writing.wait(10)
    until(tap.drain, "the first publishes")
    first.kill()
    processes.remove(first)
    until(active, "the other took over", 20)
    stop.set()
    writer.join()
    until(lambda: seen(tap.drain()) == expected, "everything is published", 20)
    until(lambda: pending(world) == 0, "and marked")
    (second,) = processes
    assert second.metric("estation_relay_events_total", service=NAME)
    assert second.metric("estation_outbox_pending", service=NAME) == 0
    assert second.metric("estation_outbox_oldest_seconds", service=NAME) == 0
    assert second.stop() == 0
    messages = [line["event"] for line in second.lines()]
    assert messages[-1] == "stopped"
    assert "relay_active" in messages


# The publisher alone


def message(exchange: str = "probe.events", body: bytes = b"{}") -> Message:
    """A message for an exchange."""
    return Message(exchange, NoteWrittenV1.type, body, "application/json", {"a": 1})


def test_each_of_many_messages_has_its_own_outcome(world: ProbeWorld) -> None:
    refuse(world, LevelSetV1.type)
    publisher = Publisher(world.broker.url_for(NAME), "test")
    unroutable = Message("probe.events", LevelSetV1.type, b"{}", "application/json")
    plan = [message(), unroutable, message(), unroutable, message()] * 40
    assert publisher.publish(plan) == [one is not unroutable for one in plan]
    assert publisher.publish([]) == []
    assert publisher.publish([message()]) == [True]
    publisher.close()
    assert world.broker.depth("neighbour.inbox") == 121


def test_a_message_carries_what_it_was_given(world: ProbeWorld) -> None:
    publisher = Publisher(world.broker.url_for(NAME), "test")
    publisher.publish([message(body="泰安".encode())])
    publisher.close()
    tap = world.tap(NAME)
    method, properties, body = tap.channel.basic_get("neighbour.inbox", auto_ack=True)
    assert method.routing_key == NoteWrittenV1.type
    assert body.decode() == "泰安"
    assert (properties.content_type, properties.delivery_mode) == ("application/json", 2)
    assert properties.headers["a"] == 1


@pytest.mark.parametrize(
    "url",
    [
        lambda world: world.broker.url_for(NAME).replace(f":{world.broker.port}/", ":9/"),
        lambda world: world.broker.url_for(NAME).replace(world.broker.passwords[NAME], "wrong"),
        lambda world: world.broker.url_for(NAME) + "x",
    ],
)
def test_who_cannot_connect_is_told(world: ProbeWorld, url: Callable[[ProbeWorld], str]) -> None:
    publisher = Publisher(url(world), "test")
    with pytest.raises(PublishError):
        publisher.publish([message()])
    publisher.idle()
    publisher.close()


def test_after_a_channel_was_closed_the_next_publish_makes_a_new_one(world: ProbeWorld) -> None:
    publisher = Publisher(world.broker.url_for(NAME), "test")
    assert publisher.publish([message()]) == [True]
    with pytest.raises(PublishError):
        publisher.publish([message(), message("neighbour.retry")])
    assert publisher.publish([message()]) == [True]
    publisher.close()


def connections(world: ProbeWorld, name: str) -> list[dict[str, Any]]:
    """The broker's connections of a name, as its management sees them."""
    found = world.broker.management.call("GET", f"/vhosts/{world.broker.vhost}/connections")
    return [one for one in found if one.get("client_properties", {}).get("connection_name") == name]


def test_a_connection_that_was_cut_is_noticed_when_idle_and_made_anew(world: ProbeWorld) -> None:
    publisher = Publisher(world.broker.url_for(NAME), "cut me")
    publisher.publish([message()])
    (connection,) = until(lambda: connections(world, "cut me"), "the broker lists it")
    world.broker.management.call("DELETE", f"/connections/{connection['name'].replace(' ', '%20').replace('>', '%3E')}")

    def noticed() -> bool:
        publisher.idle()
        return publisher._connection is None

    until(noticed, "idle() notices")
    publisher.idle()
    assert publisher.publish([message()]) == [True]
    publisher.close()
