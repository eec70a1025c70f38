"""The aggregator on a real broker and database: exactly once in effect, whatever comes twice, dies or is away."""

import json
import os
import signal
import threading
import urllib.error
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pika
import pytest
from pymongo.database import Database

from contracts import catalogue, envelope
from contracts.catalogue import CATALOGUE, METRICS
from contracts.envelope import CONTENT_TYPE, Event
from services.kernel import mongo, retry, telemetry
from services.kernel.amqp import Message
from services.kernel.mongo import Document
from services.kernel.topology import definitions
from services.metrics import aggregator, log
from services.metrics.aggregator import Aggregator
from tests.metrics import (
    RECORDED,
    assert_counted_once,
    checkins,
    database_of,
    event,
    publish,
    publish_batch,
    send,
)
from tests.parts import Parts, Process, World, until

CHECKINS = "stations.checkins|stations|370902|2025-07-16"
DEAD = catalogue.dead(METRICS)
INBOX = catalogue.inbox(METRICS)


@pytest.fixture
def database(world: World) -> Iterator[Database[Document]]:
    """The database of metrics in this test's world."""
    made = database_of(world)
    yield made
    made.client.close()


def _await_applied(database: Database[Document], count: int, seconds: float = 60) -> None:
    until(lambda: log.state(database)["n"] >= count, f"{count} events applied", seconds)


def _await_empty(world: World) -> None:
    """The inbox holds nothing, neither waiting nor unacknowledged (the latter the management API knows, late)."""
    path = f"/queues/{world.broker.vhost}/{INBOX}"
    until(lambda: world.broker.management.call("GET", path).get("messages") == 0, "inbox is empty")


def _outcome(process: Process, outcome: str) -> float:
    return process.metric("estation_consumed_events_total", service=METRICS, outcome=outcome) or 0


def _parked(world: World) -> list[tuple[Any, dict[str, Any]]]:
    """(body, headers) of what is in the dead-letter queue; it stays there."""
    connection = pika.BlockingConnection(pika.URLParameters(world.broker.admin_url))
    channel = connection.channel()
    found = []
    while True:
        method, properties, body = channel.basic_get(DEAD)
        if method is None:
            break
        found.append((body, dict(properties.headers)))
    connection.close()
    return found


def test_events_take_effect_and_are_told_of(world: World, database: Database[Document]) -> None:
    process = world.process("aggregator").start()
    events = [*checkins(250, people=2), event("stations.fault_reported.v1"), event("stations.station_opened.v1")]
    events[0] = {name: value for name, value in events[0].items() if name != "traceparent"}
    publish(world, events)
    _await_applied(database, len(events))
    assert_counted_once(database, events)
    row = database["rollups"].find_one({"_id": CHECKINS})
    assert row is not None
    assert row["value"] == 500
    until(lambda: _outcome(process, "applied") == len(events), "the counter tells all of them")
    assert process.metric("estation_recorded_to_visible_seconds_count") == len(events)
    assert process.metric("estation_aggregator_batch_events_sum") == len(events)
    assert process.stop() == 0
    lines = [line for line in process.lines() if line["event"] == "batch_applied"]
    assert sum(line["events"] for line in lines) == len(events)
    assert {line["first_event_id"] for line in lines} <= {one["id"] for one in events}
    traces = {telemetry.trace_id(one["traceparent"]) for one in events if "traceparent" in one}
    assert all(1 <= len(line["trace_ids"]) <= 20 and set(line["trace_ids"]) <= traces for line in lines)
    assert not [line for line in process.lines() if "people" in json.dumps(line)], "no payload in a log line"


def test_second_delivery_changes_nothing(world: World, database: Database[Document]) -> None:
    process = world.process("aggregator").start()
    events = checkins(150)
    publish_batch(world, [*events[:80], *events[:30], events[0]])
    publish_batch(world, events[50:120])
    publish(world, events)
    for one in events[::7]:
        send(world, [Message(catalogue.exchange("stations"), RECORDED, envelope.dump(one), CONTENT_TYPE)])
    total = 111 + 70 + 150 + len(events[::7])
    until(lambda: _outcome(process, "applied") + _outcome(process, "duplicate") == total, "all were seen")
    assert _outcome(process, "applied") == len(events)
    assert_counted_once(database, events)


def test_poison_in_a_batch_is_parked_alone(world: World, database: Database[Document]) -> None:
    world.process("aggregator").start()
    events = checkins(99)
    poison = event(RECORDED, people=-5)
    publish_batch(world, [*events[:42], poison, *events[42:]])
    until(lambda: world.broker.depth(DEAD) == 1, "the poison is parked")
    assert_counted_once(database, events)
    ((body, headers),) = _parked(world)
    assert json.loads(body) == poison
    assert headers[retry.REASON] == "data.people"


def test_every_kind_of_poison_is_parked_and_nothing_waits_for_it(world: World, database: Database[Document]) -> None:
    process = world.process("aggregator").start()
    unknown = {**event(RECORDED), "type": "stations.checkin_recorded.v9"}
    unknown["dataschema"] = f"{envelope.SCHEMA_BASE}{unknown['type']}.json"
    inside = [b"null", b'"\\ud800"', b"1e999", b"[[[[]]]]", unknown, {**event(RECORDED), "id": "1"}]
    events = checkins(10)
    publish_batch(world, [*inside, *events])
    whole = [b"", b"\xff", b"{", b"[1,", b"[]"]
    exchange = catalogue.exchange("stations")
    send(world, [Message(exchange, RECORDED, body, kind) for body in whole for kind in (CONTENT_TYPE, "text/plain")])
    count = len(inside) + 2 * len(whole)
    until(lambda: world.broker.depth(DEAD) == count, "all poison is parked")
    assert_counted_once(database, events)
    until(lambda: _outcome(process, "parked") == count, "the counter tells")
    assert {headers[retry.REASON] for _body, headers in _parked(world)} == {
        "event_not_object", "unknown_type", "id", "not_json", "content_type_or_shape",
    }  # fmt: skip
    assert process.stop() == 0


def test_event_that_cannot_be_applied_waits_while_its_neighbours_count(
    world: World, database: Database[Document]
) -> None:
    process = world.process("aggregator").start()
    spoiled = "stations.faults|stations|370982|2025-07-16"
    database["rollups"].insert_one({"_id": spoiled, "value": "seven"})
    events = checkins(99)
    stuck = event("stations.fault_reported.v1", county="370982")
    publish_batch(world, [*events[:50], stuck, *events[50:]])
    _await_applied(database, 99)
    until(lambda: _outcome(process, "retried") == 1, "the stuck one waits")
    assert database["events"].count_documents({"_id": stuck["id"]}) == 0
    assert world.broker.depth(DEAD) == 0
    database["rollups"].delete_one({"_id": spoiled})
    _await_applied(database, 100)
    assert_counted_once(database, [*events, stuck])


def test_events_that_can_never_be_applied_end_in_the_dead_letter_queue(
    world: World, database: Database[Document]
) -> None:
    database["rollups"].insert_one({"_id": CHECKINS, "value": "seven"})
    world.process("aggregator").start()
    body = envelope.dump(event(RECORDED))
    send_again = Message("metrics.retry", "inbox", body, CONTENT_TYPE, {retry.ATTEMPT: len(retry.PAUSES)})
    _send_as_metrics(world, send_again)
    until(lambda: world.broker.depth(DEAD) == 1, "parked after its last try")
    ((parked, headers),) = _parked(world)
    assert parked == body
    assert headers[retry.ATTEMPT] == len(retry.PAUSES) + 1
    assert log.state(database)["n"] == 0


def _send_as_metrics(world: World, message: Message) -> None:
    connection = pika.BlockingConnection(pika.URLParameters(world.broker.url_for("metrics")))
    channel = connection.channel()
    channel.confirm_delivery()
    properties = pika.BasicProperties(content_type=message.content_type, headers=dict(message.headers))
    channel.basic_publish(message.exchange, message.routing_key, message.body, properties, mandatory=True)
    connection.close()


def test_killed_again_and_again_it_counts_every_event_once(world: World, database: Database[Document]) -> None:
    events = checkins(12_000, people=3)
    publish(world, events)
    process = world.process("aggregator")
    for part in range(1, 5):
        process.start(ready=False)
        _await_applied(database, part * 2000)
        process.kill()
    process.start()
    _await_applied(database, len(events))
    _await_empty(world)
    assert_counted_once(database, events)
    assert world.broker.depth(DEAD) == 0


def test_stop_in_mid_stream_acknowledges_what_it_did(world: World, database: Database[Document]) -> None:
    events = checkins(20_000)
    publish(world, events)
    first = world.process("aggregator").start(ready=False)
    _await_applied(database, 1000)
    assert first.stop() == 0
    done = log.state(database)["n"]
    assert 1000 <= done < len(events), "stopped in mid-stream"
    second = world.process("aggregator").start(ready=False)
    _await_applied(database, len(events))
    until(lambda: _outcome(second, "applied") == len(events) - done, "the rest, and only the rest, came again")
    assert _outcome(second, "duplicate") == 0
    assert_counted_once(database, events)


def test_two_aggregators_by_mistake_count_once(world: World, database: Database[Document]) -> None:
    # without the topology's single active consumer, and each event in two messages
    vhost = world.broker.vhost
    world.broker.management.call("DELETE", f"/queues/{vhost}/{INBOX}")
    world.broker.management.apply(definitions(CATALOGUE, vhost, world.broker.passwords, single_active=()))
    both = [world.process("aggregator").start(), world.process("aggregator").start()]
    events = checkins(6000)
    with ThreadPoolExecutor(2) as pool:
        list(pool.map(lambda part: publish(world, part), (events, events[::-1])))
    until(
        lambda: sum(_outcome(one, "applied") + _outcome(one, "duplicate") for one in both) == 2 * len(events),
        "both have seen their share",
    )
    shares = [_outcome(one, "applied") for one in both]
    assert sum(shares) == len(events)
    assert min(shares) > 0, "both took part"
    assert_counted_once(database, events)


def test_standby_takes_over_when_the_active_one_dies(world: World, database: Database[Document]) -> None:
    active = world.process("aggregator").start()
    standby = world.process("aggregator").start()
    events = checkins(3000)
    publish(world, events[:1000])
    _await_applied(database, 1000)
    assert _outcome(standby, "applied") == 0
    active.kill()
    publish(world, events[1000:])
    _await_applied(database, len(events))
    assert _outcome(standby, "applied") >= 2000
    assert_counted_once(database, events)


def test_database_that_dies_loses_nothing_and_nothing_is_parked(
    world: World, parts: Parts, database: Database[Document]
) -> None:
    process = world.process("aggregator").start()
    before, after = checkins(500), checkins(2500)
    publish(world, before)
    _await_applied(database, len(before))
    parts.kill("mongod")
    publish(world, after)
    until(lambda: (process.metric("estation_aggregator_faults_total", reason="database") or 0) >= 2, "it waits")
    assert "database" in _not_ready(process)
    parts.start("mongod")
    parts.await_ready("mongod")
    _await_applied(database, len(before) + len(after))
    process.await_ready()
    assert_counted_once(database, [*before, *after])
    assert world.broker.depth(DEAD) == 0
    assert _outcome(process, "duplicate") == 0, "nothing had to be delivered twice"
    assert (process.metric("estation_aggregator_faults_total", reason="database") or 0) < 60, "it did not spin"


def _not_ready(process: Process) -> str:
    with pytest.raises(urllib.error.HTTPError) as answer:
        process.ops("/readyz")
    assert answer.value.code == 503
    return answer.value.read().decode()


def test_stop_while_the_database_is_away_gives_everything_back(
    world: World, parts: Parts, database: Database[Document]
) -> None:
    process = world.process("aggregator").start()
    parts.kill("mongod")
    try:
        events = checkins(300)
        publish(world, events)
        until(lambda: process.metric("estation_aggregator_faults_total", reason="database"), "it waits")
        assert process.stop(30) == 0
    finally:
        parts.start("mongod")
        parts.await_ready("mongod")
    assert world.broker.depth(INBOX) == 3
    world.process("aggregator").start()
    _await_applied(database, len(events))
    assert_counted_once(database, events)


class _Connecting(Aggregator):
    """Counts its connections."""

    connections = 0

    def _connect(self, thread: ThreadPoolExecutor) -> Any:
        self.connections += 1
        return super()._connect(thread)


def test_heartbeat_is_kept_while_the_database_hangs(
    world: World, parts: Parts, database: Database[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(aggregator, "HEARTBEAT_SECONDS", 2)  # the broker gives up after 4 s
    hanging = mongo.connect(world.settings("metrics"), METRICS, "hanging")
    worker = _Connecting(world.settings("metrics"), hanging)
    running = threading.Thread(target=worker.run)
    running.start()
    until(lambda: worker.consuming, "it consumes")
    mongod = parts._running["mongod"].pid
    events = checkins(700)
    os.kill(mongod, signal.SIGSTOP)
    try:
        publish(world, events)
        until(lambda: not worker.database_answers, "an attempt timed out", 60)
    finally:
        os.kill(mongod, signal.SIGCONT)
    _await_applied(database, len(events))
    worker.stop()
    running.join(30)
    assert not running.is_alive()
    hanging.client.close()
    assert worker.connections == 1
    assert_counted_once(database, events)


def test_broker_that_dies_is_found_again(world: World, parts: Parts, database: Database[Document]) -> None:
    process = world.process("aggregator").start()
    events = checkins(1000)
    publish(world, events[:500])
    _await_applied(database, 500)
    parts.kill("rabbitmq")
    until(lambda: process.metric("estation_aggregator_faults_total", reason="broker"), "it waits for the broker")
    assert "broker" in _not_ready(process)
    parts.start("rabbitmq")
    parts.await_ready("rabbitmq")
    process.await_ready()
    publish(world, events)
    _await_applied(database, len(events))
    assert_counted_once(database, events)
    assert process.stop() == 0


def test_it_waits_for_a_topology_that_is_not_there_yet_and_survives_its_loss(
    world: World, database: Database[Document]
) -> None:
    vhost = world.broker.vhost
    topology = definitions(CATALOGUE, vhost, world.broker.passwords)
    world.broker.management.call("DELETE", f"/queues/{vhost}/{INBOX}")
    process = world.process("aggregator").start(ready=False)
    until(lambda: process.metric("estation_aggregator_faults_total", reason="broker"), "it waits for its inbox")
    world.broker.management.apply(topology)
    process.await_ready()
    waited = process.metric("estation_aggregator_faults_total", reason="broker") or 0
    world.broker.management.call("DELETE", f"/queues/{vhost}/{INBOX}")  # the broker cancels the consumer
    until(lambda: (process.metric("estation_aggregator_faults_total", reason="broker") or 0) > waited, "it noticed")
    world.broker.management.apply(topology)
    process.await_ready()
    events = checkins(120)
    publish(world, events)
    _await_applied(database, len(events))
    assert_counted_once(database, events)


def test_parking_waits_for_a_dead_letter_queue_that_is_away(world: World, database: Database[Document]) -> None:
    process = world.process("aggregator").start()
    vhost = world.broker.vhost
    world.broker.management.call("DELETE", f"/queues/{vhost}/{DEAD}")
    events = checkins(5)
    publish_batch(world, [*events, b"null"])
    until(lambda: (process.metric("estation_aggregator_faults_total", reason="broker") or 0) >= 2, "it insists")
    world.broker.management.apply(definitions(CATALOGUE, vhost, world.broker.passwords))
    until(lambda: world.broker.depth(DEAD) == 1, "parked, once")
    _await_empty(world)
    assert_counted_once(database, events)


def test_it_dates_what_the_figures_know(world: World, database: Database[Document]) -> None:
    process = world.process("aggregator").start()
    first = until(lambda: log.state(database).get("current_at"), "the empty inbox is noted")
    until(lambda: log.state(database)["current_at"] > first, "and noted again")
    assert process.metric("estation_inbox_depth", service=METRICS) == 0
    one: Event = event(RECORDED)
    publish(world, [one])
    _await_applied(database, 1)
    state = log.state(database)
    assert state["heard"]["stations"].isoformat(timespec="milliseconds") == one["recordedtime"].replace("Z", "+00:00")
    assert state["last_applied_at"] >= state["heard"]["stations"]
    until(lambda: log.state(database)["current_at"] > state["last_applied_at"], "current after the last event")
