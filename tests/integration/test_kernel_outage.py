"""Broker and database die or refuse to work, and come back: what was acknowledged is there, all events arrive."""

import contextlib
import os
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pika
import pytest

from contracts import envelope
from services.kernel import ids
from services.kernel.amqp import Message, Publisher, PublishError
from services.kernel.outbox import Emit, insert
from services.kernel.relay import Relay
from tests.builders import write
from tests.kernel import ProbeWorld, call, new_key
from tests.parts import Parts, started, until
from tests.probe import BASE, NAME, SOURCES, LevelSetV1, NoteWrittenV1


@pytest.fixture(scope="module")
def fragile(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    """A broker and a database that only this module kills."""
    with started(tmp_path_factory.mktemp("fragile")) as running:
        yield running


@pytest.fixture
def world(fragile: Parts, tmp_path: Path) -> Iterator[ProbeWorld]:
    """The probe's vhost and database."""
    made = ProbeWorld(fragile, tmp_path)
    yield made
    made.close()


def fill(world: ProbeWorld, count: int) -> set[str]:
    """So many documents with an event each; the events' ids."""
    emit = Emit(LevelSetV1, {"level": 1})
    made = [
        insert(world.database["levels"], {"_id": ids.new(), "county": "370902"}, write(emit))[0] for _ in range(count)
    ]
    return {document["out"][0]["id"] for document in made}


def pending(world: ProbeWorld) -> int:
    """How many documents wait to be published."""
    return sum(world.database[source.collection].count_documents({"open": True}) for source in SOURCES)


def inside(world: ProbeWorld, queue: str = "probe.inbox") -> set[str]:
    """The ids of the events that lie in a queue."""
    with contextlib.closing(pika.BlockingConnection(pika.URLParameters(world.broker.admin_url))) as connection:
        channel = connection.channel()
        found: set[str] = set()
        while True:
            method, properties, body = channel.basic_get(queue)
            if method is None:
                return found
            found |= {event["id"] for event in envelope.load(body, properties.content_type)}


@contextlib.contextmanager
def relaying(world: ProbeWorld) -> Iterator[Relay]:
    """A relay at work in a thread."""
    relay = Relay(NAME, world.database, SOURCES, world.broker.url_for(NAME), holder="test")
    thread = threading.Thread(target=relay.run, daemon=True)
    thread.start()
    try:
        yield relay
    finally:
        relay.stop()
        thread.join(30)
        assert not thread.is_alive()


def control(parts: Parts, *words: str) -> None:
    """``rabbitmqctl``."""
    program = parts.programs["rabbitmq"]
    command = [str(Path(program.command[0]).with_name("rabbitmqctl")), "-n", "estation@localhost", *words]
    subprocess.run(command, env={**os.environ, **program.environment}, check=True, capture_output=True, timeout=60)


@contextlib.contextmanager
def memory_alarm(parts: Parts) -> Iterator[None]:
    """While the block runs the broker takes nothing from anyone who publishes."""
    control(parts, "set_vm_memory_high_watermark", "absolute", "1")
    try:
        yield
    finally:
        control(parts, "set_vm_memory_high_watermark", "0.6")


def test_a_memory_alarm_holds_events_back_and_loses_none(world: ProbeWorld, fragile: Parts) -> None:
    with relaying(world) as relay:
        expected = fill(world, 5)
        until(lambda: pending(world) == 0, "published before")
        with memory_alarm(fragile):
            expected |= fill(world, 30)
            until(lambda: relay._publisher.blocked, "the relay is told", 20)
            assert pending(world) >= 30
        until(lambda: not relay._publisher.blocked, "unblocked", 20)
        until(lambda: pending(world) == 0, "published after", 20)
    assert expected <= inside(world)


def test_a_relay_stops_at_once_under_an_alarm(world: ProbeWorld, fragile: Parts) -> None:
    with relaying(world) as relay:
        fill(world, 1)
        until(lambda: pending(world) == 0, "published before")
        with memory_alarm(fragile):
            until(lambda: fill(world, 1) and relay._publisher.blocked, "the relay is told", 20)
            begun = time.monotonic()
            relay.stop()
            until(lambda: relay._publisher._channel is None, "the relay has closed", 10)
            assert time.monotonic() - begun < 3
    assert pending(world) > 0, "what was in flight stays pending"
    with relaying(world):
        until(lambda: pending(world) == 0, "and is published by the next", 20)


def test_what_is_in_flight_when_the_stop_comes_may_not_count(world: ProbeWorld, fragile: Parts) -> None:
    stop = threading.Event()
    publisher = Publisher(world.broker.url_for(NAME), "stopping", stopping=stop.is_set)
    message = Message("probe.events", NoteWrittenV1.type, b"{}", "application/json")
    publisher.publish([message])
    with memory_alarm(fragile):
        timer = threading.Timer(0.5, stop.set)
        timer.start()
        with pytest.raises(PublishError):
            publisher.publish([message])
        timer.join()


def test_a_broker_that_dies_costs_nothing(world: ProbeWorld, fragile: Parts) -> None:
    """Requests are answered 2xx all the while; every event arrives when the broker is back."""
    service = world.service(ESTATION_REQUESTS_PER_MINUTE="100000").start()
    relay = world.relay().start()
    token = world.token()
    acknowledged: list[str] = []

    def post() -> None:
        reply = call(service.http_port, "POST", f"{BASE}/notes", {"title": "a"}, token=token, Idempotency_Key=new_key())
        assert reply.status == 201
        acknowledged.append(reply.json["id"])

    stop = threading.Event()

    def post_on() -> None:
        while not stop.wait(0.02):
            post()

    writer = threading.Thread(target=post_on, daemon=True)
    writer.start()
    until(lambda: world.broker.depth("neighbour.inbox") >= 3, "events flow")
    fragile.kill("rabbitmq")
    alive = len(acknowledged)
    until(lambda: (relay.metric("estation_relay_faults_total", service=NAME, reason="broker") or 0) >= 2, "noticed")
    until(lambda: len(acknowledged) > alive + 20, "2xx without a broker")
    assert (relay.metric("estation_outbox_pending", service=NAME) or 0) > 0
    assert (relay.metric("estation_outbox_oldest_seconds", service=NAME) or 0) > 0
    fragile.start("rabbitmq")
    fragile.await_ready("rabbitmq")
    stop.set()
    writer.join(10)
    until(lambda: pending(world) == 0, "everything is published", 30)
    notes = {note["_id"] for note in world.database["notes"].find()}
    assert notes == set(acknowledged)
    until(lambda: world.database["effects"].count_documents({}) == len(notes), "and consumed, each once", 30)
    assert len(inside(world, "neighbour.inbox")) == len(notes), "each is another event"
    assert len(world.database["effects"].distinct("event")) == len(notes)
    assert relay.stop() == 0
    assert service.stop() == 0
    log = service.log.read_text() + relay.log.read_text()
    assert world.broker.passwords[NAME] not in log


def test_a_database_that_dies_loses_nothing_it_acknowledged(world: ProbeWorld, fragile: Parts) -> None:
    service = world.service(ESTATION_REQUESTS_PER_MINUTE="100000").start()
    world.relay().start()
    token = world.token()
    acknowledged: set[str] = set()
    seen: set[int] = set()
    stop = threading.Event()

    def post_on() -> None:
        while not stop.is_set():
            reply = call(
                service.http_port, "POST", f"{BASE}/notes", {"title": "a"}, token=token, Idempotency_Key=new_key()
            )
            seen.add(reply.status)
            if reply.status == 201:
                acknowledged.add(reply.json["id"])

    writers = [threading.Thread(target=post_on, daemon=True) for _ in range(4)]
    for writer in writers:
        writer.start()
    until(lambda: len(acknowledged) > 20, "writes flow")
    fragile.kill("mongod")
    before = len(acknowledged)
    until(lambda: unready(service), "not ready", 20)
    fragile.start("mongod")
    fragile.await_ready("mongod")
    until(lambda: len(acknowledged) > before + 20, "writes flow again", 30)
    stop.set()
    for writer in writers:
        writer.join(20)
    assert seen <= {201, 503}
    stored = {note["_id"] for note in world.database["notes"].find({}, {"_id": 1})}
    assert acknowledged <= stored
    until(lambda: pending(world) == 0, "all published", 30)
    until(lambda: len(inside(world, "neighbour.inbox")) == len(stored), "and there", 30)
    until(lambda: not unready(service), "ready again", 10)


def unready(service: Any) -> bool:
    """Whether a process says that it is not ready."""
    try:
        service.ops("/readyz")
    except OSError as error:
        return "503" in str(error)
    return False
