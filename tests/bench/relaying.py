"""The relay drains a prefilled outbox: against publishing the same messages alone, and the same three steps bare."""

import time
from collections.abc import Callable, Sequence
from contextlib import ExitStack, closing
from functools import partial
from statistics import median
from typing import Final

from pymongo.collection import Collection

from contracts import catalogue
from contracts.catalogue import METRICS
from services.kernel.amqp import Message, Publisher
from services.kernel.mongo import Document
from services.kernel.relay import READ_MAX, pack
from services.stations.store import checkin_events
from tests.bench.rows import Goal, Row
from tests.bench.scene import Bench, Facts, Sample, cpu_seconds, drained, purge, renew, stations_database
from tests.parts import World

RELAY: Final = "relay process"
PUBLISH: Final = "raw pipelined publish"
BARE: Final = "bare read, publish, mark"
READ: Final = "bare read alone"
MARK: Final = "bare mark alone"


def relay(bench: Bench) -> list[Row]:
    """Events a second from the database to the broker's confirm and back to the marks."""
    with bench.world() as world, ExitStack() as stack:
        database = stations_database(world)
        stack.callback(database.client.close)
        collection = database["checkins"]
        documents = Facts(bench.seed()).documents(bench.options.fill, rows=20)
        publisher = stack.enter_context(closing(Publisher(world.broker.url_for("stations"), "bench")))
        clear = partial(_clear, world, collection)
        messages = [message for part in _parts(documents) for message in _packed(part)]

        def fill() -> None:
            clear()
            for start in range(0, len(documents), 5000):
                collection.insert_many(documents[start : start + 5000])

        seen = bench.rounds(
            {
                PUBLISH: partial(_timed, lambda: _publish(publisher, messages), len(documents)),
                RELAY: partial(_after, fill, lambda: _relay(world, collection, documents)),
                BARE: partial(_after, fill, lambda: _timed(lambda: _bare(collection, publisher), len(documents))),
                READ: partial(_after, fill, lambda: _timed(lambda: _read(collection, documents), len(documents))),
                MARK: partial(_after, fill, lambda: _timed(lambda: _mark(collection, documents), len(documents))),
            }
        )
        clear()
    rates = {name: [sample["per_second"] for sample in samples] for name, samples in seen.items()}
    cpu = f"{median(sample['cpu_us'] for sample in seen[RELAY]):.0f} us CPU each"
    return [
        Row("relay", "events/s", rates[RELAY], PUBLISH, rates[PUBLISH], Goal(">=", 0.7), cpu, seen),
        Row("relay", "events/s", rates[RELAY], BARE, rates[BARE]),
        Row("relay's reading alone", "events/s", rates[READ], PUBLISH, rates[PUBLISH]),
        Row("relay's marking alone", "events/s", rates[MARK], PUBLISH, rates[PUBLISH]),
    ]


def _after(prepare: Callable[[], None], measure: Callable[[], Sample]) -> Sample:
    prepare()
    return measure()


def _clear(world: World, collection: Collection[Document]) -> None:
    renew(collection)
    purge(world, catalogue.inbox(METRICS))


def _timed(work: Callable[[], None], events: int) -> Sample:
    begun = time.perf_counter()
    work()
    return {"per_second": events / (time.perf_counter() - begun)}


def _relay(world: World, collection: Collection[Document], documents: Sequence[Document]) -> Sample:
    """From its first marks to its last: ``recorded_at`` of the oldest pending document tells how far it is."""
    places = {document["recorded_at"]: place for place, document in enumerate(documents)}

    def done() -> int:
        oldest = collection.find_one({"open": True}, {"recorded_at": 1}, sort=[("recorded_at", 1)], hint="outbox")
        return len(documents) if oldest is None else places[oldest["recorded_at"]]

    process = world.process("relay", "stations").start()
    cpu = cpu_seconds([process])
    events, seconds = drained(done, len(documents))
    cpu = cpu_seconds([process]) - cpu
    process.stop()
    return {"per_second": events / seconds, "cpu_us": cpu / len(documents) * 1e6}


def _publish(publisher: Publisher, messages: Sequence[Message]) -> None:
    """All in flight at once, then all confirms."""
    if not all(publisher.publish(messages)):
        raise RuntimeError("the broker refused a message")


def _bare(collection: Collection[Document], publisher: Publisher) -> None:
    """What the relay does, without being able to fail."""
    while found := list(collection.find({"open": True}).sort("recorded_at", 1).limit(READ_MAX).hint("outbox")):
        _publish(publisher, _packed(found))
        close(collection, found)


def _read(collection: Collection[Document], documents: Sequence[Document]) -> None:
    for part in _parts(documents):
        since = {"open": True, "recorded_at": {"$gte": part[0]["recorded_at"]}}
        list(collection.find(since).sort("recorded_at", 1).limit(READ_MAX).hint("outbox"))


def _mark(collection: Collection[Document], documents: Sequence[Document]) -> None:
    for part in _parts(documents):
        close(collection, part)


def close(collection: Collection[Document], documents: Sequence[Document]) -> None:
    """Marks check-ins as published."""
    ids = [document["_id"] for document in documents]
    collection.update_many({"_id": {"$in": ids}, "seq": 1}, {"$set": {"open": False, "sent": 1, "out": []}})


def _packed(documents: Sequence[Document]) -> list[Message]:
    events = [event for document in documents for event in checkin_events(document)]
    return [message for message, _count in pack(events)]


def _parts(documents: Sequence[Document]) -> list[Sequence[Document]]:
    return [documents[start : start + READ_MAX] for start in range(0, len(documents), READ_MAX)]
