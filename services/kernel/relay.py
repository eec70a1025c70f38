"""Pending events -> exchange: at least once, marked only after the broker's confirm. A plain process, one a service.

The truth is the index of documents with ``open: true``; a change stream only wakes the relay. Whatever goes wrong,
a document stays pending and is read again. Events of one type travel in batches: what is pending, up to a count
and a size, so that batches grow with the load and a lone event leaves at once.
"""

import random
import threading
from collections.abc import Iterator, Sequence
from typing import Final

from pymongo.database import Database
from pymongo.errors import PyMongoError

from contracts import catalogue, envelope
from contracts.envelope import Event
from services.kernel import clock, logging, telemetry
from services.kernel.amqp import Message, Publisher, PublishError
from services.kernel.mongo import Document, Lease
from services.kernel.outbox import INDEX, Source, mark_published

READ_MAX: Final = 1000
BATCH_EVENTS: Final = 100
BATCH_BYTES: Final = 256 * 1024
BACKOFF_MAX_SECONDS: Final = 5.0
POLL_SECONDS: Final = 1.0
BUSY_READS: Final = 20
"""After so many reads in a row that found something, nobody has to be woken: the change stream is not read."""


def pack(events: Sequence[Event]) -> Iterator[tuple[Message, int]]:
    """Messages for the events, in order within each type, and how many events each holds."""
    by_type: dict[str, list[bytes]] = {}
    for event in events:
        by_type.setdefault(event["type"], []).append(envelope.dump(event))
    for type_, bodies in by_type.items():
        exchange = catalogue.exchange(type_.split(".", 1)[0])
        for batch in _chunks(bodies):
            if len(batch) == 1:
                yield Message(exchange, type_, batch[0], envelope.CONTENT_TYPE), 1
            else:
                body = b"[" + b",".join(batch) + b"]"
                yield Message(exchange, type_, body, envelope.BATCH_CONTENT_TYPE), len(batch)


def _chunks(bodies: Sequence[bytes]) -> Iterator[list[bytes]]:
    batch: list[bytes] = []
    size = 0
    for body in bodies:
        if batch and (len(batch) >= BATCH_EVENTS or size + len(body) > BATCH_BYTES):
            yield batch
            batch, size = [], 0
        batch.append(body)
        size += len(body)
    if batch:
        yield batch


class Relay:
    """Moves the pending events of one service's collections, while it holds the service's lease."""

    def __init__(
        self,
        service: str,
        database: Database[Document],
        sources: Sequence[Source],
        rabbitmq_url: str,
        *,
        holder: str,
        now: clock.Clock = clock.now,
    ) -> None:
        self._service, self._database, self._sources, self._now = service, database, sources, now
        self._stop = threading.Event()
        self._wake = threading.Event()
        self._listening = threading.Event()
        self._listening.set()
        self._publisher = Publisher(rabbitmq_url, f"relay of {service}", stopping=self._stop.is_set)
        self._lease = Lease(database["leases"], "relay", holder)
        self._faults = 0
        self.active = False

    def stop(self) -> None:
        """Ends :meth:`run` after the batch in hand."""
        self._stop.set()
        self._wake.set()
        self._listening.set()

    def run(self) -> None:
        """Publishes until stopped; survives the absence of broker and database."""
        threading.Thread(target=self._watch, name="watch", daemon=True).start()
        reads = 0
        while not self._stop.is_set():
            self._wake.clear()
            try:
                self._hold()
                if self.active and self.publish_pending():
                    reads += 1
                    if reads == BUSY_READS:
                        self._listening.clear()
                    continue
                reads = 0
                self._listening.set()
                self._publisher.idle()
                self._wake.wait(POLL_SECONDS if self.active else 0.5)
            except (PyMongoError, PublishError) as error:
                self._back_off(error)
        self._publisher.close()
        try:
            self._lease.release()
        except PyMongoError:
            logging.get().warning("lease_not_released")

    def publish_pending(self) -> int:
        """Publishes and marks one read of every source; returns how many events were confirmed.

        Raises:
            PublishError: something was refused, which stays pending alone; or nothing of a read may count as published.
            PyMongoError: nothing of a read may count as published.
        """
        confirmed = refused = 0
        for source in self._sources:
            collection = self._database[source.collection]
            documents = list(
                collection.find(
                    {"open": True}, {"seq": 1, "sent": 1, "recorded_at": 1, **dict.fromkeys(source.fields, 1)}
                )
                .sort("recorded_at", 1)
                .limit(READ_MAX)
                .hint(INDEX)
            )
            if documents:
                done, left = self._publish(source, documents)
                confirmed, refused = confirmed + done, refused + left
        if refused:
            raise PublishError("refused")
        self._faults = 0
        return confirmed

    def _publish(self, source: Source, documents: Sequence[Document]) -> tuple[int, int]:
        """How many events were confirmed, and how many messages the broker refused."""
        owner_of: dict[str, str] = {}
        events: list[Event] = []
        for document in documents:
            for event in source.events_of(document):
                if event["seq"] > document.get("sent", 0):
                    events.append(event)
                    owner_of[event["id"]] = document["_id"]
        packed = list(pack(events))
        outcome = self._publisher.publish([message for message, _count in packed])
        refused = [message for (message, _count), confirmed in zip(packed, outcome, strict=True) if not confirmed]
        unsure = {owner_of[event["id"]] for message in refused for event in _events(message)}
        mark_published(
            self._database[source.collection],
            {document["_id"]: document["seq"] for document in documents if document["_id"] not in unsure},
        )
        done = sum(count for (_message, count), confirmed in zip(packed, outcome, strict=True) if confirmed)
        telemetry.RELAY_EVENTS.labels(self._service).inc(done)
        for _message, count in packed:
            telemetry.RELAY_BATCH.labels(self._service).observe(count)
        return done, len(refused)

    def _hold(self) -> None:
        held = self._lease.hold()
        if held != self.active:
            self.active = held
            logging.get().info("relay_active" if held else "relay_standby")
        telemetry.RELAY_ACTIVE.labels(self._service).set(held)

    def _back_off(self, error: Exception) -> None:
        self._faults += 1
        reason = "broker" if isinstance(error, PublishError) else "database"
        telemetry.RELAY_FAULTS.labels(self._service, reason).inc()
        pause = random.uniform(0.5, 1.0) * min(BACKOFF_MAX_SECONDS, 0.1 * 2 ** min(self._faults, 8))  # noqa: S311
        logging.get().warning("relay_fault", reason=reason, fault=str(error)[:40], pause=round(pause, 2))
        self._stop.wait(pause)

    def _watch(self) -> None:
        """Wakes the relay when a document with pending events is written; the poll covers what this misses."""
        pipeline: list[Document] = [
            {"$match": {"$or": [{"fullDocument.open": True}, {"updateDescription.updatedFields.open": True}]}},
            {"$project": {"_id": 1}},
        ]
        while not self._stop.is_set():
            self._listening.wait()
            try:
                with self._database.watch(pipeline, max_await_time_ms=1000) as stream:
                    self._wake.set()  # for what was written before the stream began
                    while self._listening.is_set() and not self._stop.is_set() and stream.alive:
                        if stream.try_next() is not None:
                            self._wake.set()
            except PyMongoError:
                self._stop.wait(random.uniform(0.5, 1.5))  # noqa: S311 (jitter)


def _events(message: Message) -> list[Event]:
    return envelope.load(message.body, message.content_type)


def observe_pending(service: str, database: Database[Document], sources: Sequence[Source], now: clock.Clock) -> None:
    """Sets the gauges of what is pending and for how long (an ops scrape asks for it)."""
    pending, oldest = 0, 0.0
    for source in sources:
        collection = database[source.collection]
        pending += collection.count_documents({"open": True}, hint=INDEX)
        first = collection.find_one({"open": True}, {"recorded_at": 1}, sort=[("recorded_at", 1)], hint=INDEX)
        if first:
            oldest = max(oldest, (now() - first["recorded_at"]).total_seconds())
    telemetry.OUTBOX_PENDING.labels(service).set(pending)
    telemetry.OUTBOX_OLDEST.labels(service).set(oldest)
