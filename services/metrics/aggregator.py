"""The process that counts: ``metrics.inbox`` -> event log and figures, exactly once in effect.

Two threads. The main thread speaks AMQP: it collects deliveries, reads them into the next batch while the last one
is being applied, acknowledges what is settled and keeps the heartbeat. The other applies one batch at a time and waits
out an absence. Nothing is acknowledged before it is settled. Batches grow with the load: a lone event waits for none.
"""

import contextlib
import sys
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import datetime
from logging import CRITICAL, getLogger
from typing import Any, Final

import pika
from pika.exceptions import AMQPError, ChannelClosed
from prometheus_client import Gauge, Histogram
from pymongo.database import Database

from contracts import catalogue
from contracts.catalogue import CATALOGUE, METRICS, Catalogue
from services.kernel import clock, logging, mongo, telemetry
from services.kernel.amqp import Publisher
from services.kernel.mongo import Document
from services.kernel.process import run_worker
from services.kernel.settings import Settings
from services.metrics.applier import Applier, Settled, StoppedError, back_off
from services.metrics.reading import Batch, Delivery, Reader

ROLE: Final = "aggregator"
BATCH_EVENTS: Final = 1000
PREFETCH: Final = 1500
HEARTBEAT_SECONDS: Final = 30
TICK_SECONDS: Final = 0.5
SAMPLE_SECONDS: Final = 5.0
TRACES_LOGGED: Final = 20
SWITCH_SECONDS: Final = 0.0005
"""Python's lock changes hands every 5 ms unless told, and a transaction has five answers to wait for."""

BATCH_SIZE: Final = Histogram(
    "estation_aggregator_batch_events", "Events in a batch", buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)
)
SETTLE_SECONDS: Final = Histogram(
    "estation_aggregator_settle_seconds",
    "Time to settle a batch",
    buckets=(0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1, 10),
)
_VISIBLE_SECONDS: Final = (0.005, 0.01, 0.02, 0.035, 0.05, 0.1, 0.25, 0.5, 1, 5, 30, 300, 3600, 86400, 604800)
RECORDED_TO_VISIBLE: Final = Histogram(
    "estation_recorded_to_visible_seconds",
    "From the service's write to the committed figure",
    buckets=_VISIBLE_SECONDS,
)
CAPTURED_TO_VISIBLE: Final = Histogram(
    "estation_captured_to_visible_seconds",
    "From the fact, maybe offline, to the committed figure",
    buckets=_VISIBLE_SECONDS,
)
INBOX_DEPTH: Final = Gauge("estation_inbox_depth", "Messages that wait in the inbox; -1: unknown", ["service"])


class Aggregator:
    """Consumes the inbox of metrics; survives the absence of broker and database."""

    def __init__(
        self,
        settings: Settings,
        database: Database[Document],
        *,
        events: Catalogue = CATALOGUE,
        now: clock.Clock = clock.now,
    ) -> None:
        self._stop = threading.Event()
        self._now = now
        self._reader = Reader(events)
        publisher = Publisher(settings.rabbitmq_url, f"{ROLE} parks", stopping=self._stop.is_set)
        self._applier = Applier(database, publisher, self._stop, now)
        self._parameters = pika.URLParameters(settings.rabbitmq_url)
        self._parameters.heartbeat = HEARTBEAT_SECONDS
        self._parameters.connection_attempts = 1
        self._parameters.client_properties = {"connection_name": ROLE}
        self._faults = 0
        self.consuming = False

    @property
    def database_answers(self) -> bool:
        """Whether the last thing asked of the database was done."""
        return self._applier.database_answers

    def stop(self) -> None:
        """Ends :meth:`run` after the batches in hand."""
        self._stop.set()

    def run(self) -> None:
        """Works until stopped."""
        with ThreadPoolExecutor(1, thread_name_prefix="apply") as thread, contextlib.suppress(StoppedError):
            self._applier.begin()
            while not self._stop.is_set():
                try:
                    self._consume(thread)
                except (AMQPError, OSError) as error:
                    self._faults += 1
                    back_off(self._faults, "broker", error, self._stop)

    def _consume(self, thread: ThreadPoolExecutor) -> None:
        intake = self._connect(thread)
        self.consuming, self._faults = True, 0
        try:
            intake.run()
        finally:
            self.consuming = False
            INBOX_DEPTH.labels(METRICS).set(-1)

    def _connect(self, thread: ThreadPoolExecutor) -> "_Intake":
        connection = pika.BlockingConnection(self._parameters)
        try:
            return _Intake(connection, thread, self._applier, self._reader, self._stop, self._now)
        except BaseException:
            _close(connection)
            raise


class _Intake:
    """One connection's life: what came in through it is acknowledged through it, or becomes the broker's again."""

    def __init__(
        self,
        connection: Any,
        thread: ThreadPoolExecutor,
        applier: Applier,
        reader: Reader,
        stop: threading.Event,
        now: clock.Clock,
    ) -> None:
        self._connection, self._thread, self._applier, self._reader = connection, thread, applier, reader
        self._stop, self._now = stop, now
        self._waiting: deque[Delivery] = deque()
        self._next = Batch()
        self._under_way: tuple[Batch, Future[Settled | None]] | None = None
        self._settled: deque[tuple[Batch, Settled]] = deque()
        self._sample_due = 0.0
        self._empty_at: datetime | None = None
        self._channel = connection.channel()
        self._probe = connection.channel()
        self._channel.basic_qos(prefetch_count=PREFETCH)
        self._channel.add_on_cancel_callback(_refuse_to_wait_for_nothing)
        self._tag = self._channel.basic_consume(catalogue.inbox(METRICS), self._on_message)

    def run(self) -> None:
        """Works until told to stop.

        Raises:
            AMQPError, OSError: the connection broke.
            StoppedError: told to stop while the database was away.
        """
        try:
            while not self._stop.is_set():
                self._connection.process_data_events(time_limit=TICK_SECONDS)
                self._turn()
            self._channel.basic_cancel(self._tag)
            self._waiting.clear()
            while self._under_way or self._next.deliveries:
                self._turn()
                self._connection.process_data_events(time_limit=TICK_SECONDS)
        finally:
            if self._under_way is not None:
                # after a break, too: what is being applied must be known before it comes again
                with contextlib.suppress(StoppedError):
                    self._take_back(*self._under_way)
            self._report()
            _close(self._connection)

    def _turn(self) -> None:
        self._hand_over()
        while self._waiting and self._next.events < BATCH_EVENTS:
            self._reader.read(self._waiting.popleft(), self._next)
            self._hand_over()  # between messages: the other thread should not stand idle
        self._report()
        self._sample()

    def _on_message(self, _channel: object, method: Any, properties: Any, body: bytes) -> None:
        self._waiting.append(
            Delivery(
                method.delivery_tag,
                body,
                properties.content_type or "",
                properties.headers or {},
                method.redelivered,
                method.exchange,
            )
        )

    def _hand_over(self) -> None:
        """Takes back a batch that is settled and gives the other thread the next one."""
        if self._under_way is not None:
            if not self._under_way[1].done():
                return
            batch, future = self._under_way
            if self._take_back(batch, future):
                self._channel.basic_ack(batch.last_tag, multiple=True)
        if self._next.deliveries:
            batch, self._next = self._next, Batch()
            if not self._waiting:
                batch.current_at, self._empty_at = self._empty_at, None
            self._start(batch, lambda: self._applier.settle(batch))
        elif self._empty_at is not None:
            at, self._empty_at = self._empty_at, None
            self._start(Batch(), lambda: self._applier.mark_current(at))

    def _start(self, batch: Batch, work: Callable[[], Settled | None]) -> None:
        future: Future[Settled | None] = self._thread.submit(work)
        self._under_way = (batch, future)
        future.add_done_callback(self._wake)

    def _wake(self, _future: object) -> None:
        with contextlib.suppress(AMQPError):  # the connection may be gone
            self._connection.add_callback_threadsafe(lambda: None)

    def _take_back(self, batch: Batch, future: Future[Settled | None]) -> bool:
        """Whether there is something to acknowledge."""
        self._under_way = None
        settled = future.result()
        if settled is not None:
            self._settled.append((batch, settled))
        return settled is not None

    def _report(self) -> None:
        while self._settled:
            _tell(*self._settled.popleft())

    def _sample(self) -> None:
        """Looks now and then how many messages wait; that none does dates what the figures know."""
        if time.monotonic() < self._sample_due or not self._probe.is_open:
            return
        self._sample_due = time.monotonic() + SAMPLE_SECONDS
        try:
            at = self._now()
            depth = self._probe.queue_declare(catalogue.inbox(METRICS), passive=True).method.message_count
        except ChannelClosed as error:
            logging.get().warning("inbox_depth_unknown", exc_info=error)
            depth = -1
        INBOX_DEPTH.labels(METRICS).set(depth)
        if depth == 0:
            # what had been sent by then is read before the next batch is put together
            self._empty_at = at


def _refuse_to_wait_for_nothing(_frame: object) -> None:
    raise ConnectionError("the broker cancelled the consumer")


def _close(connection: Any) -> None:
    with contextlib.suppress(AMQPError, OSError):
        connection.close()


def _tell(batch: Batch, settled: Settled) -> None:
    fresh, refusals = settled.fresh, settled.refusals
    duplicates = batch.events - len(fresh) - len(refusals)
    consumed = telemetry.CONSUMED
    consumed.labels(METRICS, "applied").inc(len(fresh))
    consumed.labels(METRICS, "duplicate").inc(max(0, duplicates))
    for refusal in refusals:
        consumed.labels(METRICS, "parked" if refusal.step.parked else "retried").inc()
        if refusal.step.parked:
            telemetry.PARKED.labels(METRICS, refusal.reason[:60]).inc()
    for fact in fresh:
        captured = datetime.fromisoformat(fact.event["time"])
        RECORDED_TO_VISIBLE.observe(max(0.0, (settled.visible_at - fact.recorded).total_seconds()))
        CAPTURED_TO_VISIBLE.observe(max(0.0, (settled.visible_at - captured).total_seconds()))
    BATCH_SIZE.observe(batch.events)
    SETTLE_SECONDS.observe(settled.seconds)
    traces = dict.fromkeys(
        telemetry.trace_id(fact.event["traceparent"]) for fact in fresh if "traceparent" in fact.event
    )
    logging.get().info(
        "batch_applied",
        events=len(fresh),
        duplicates=duplicates,
        refused=len(refusals),
        first_event_id=fresh[0].event["id"] if fresh else None,
        trace_ids=list(traces)[:TRACES_LOGGED],
        seconds=round(settled.seconds, 4),
    )


def run(settings: Settings) -> None:
    """The process ``aggregator``."""
    sys.setswitchinterval(SWITCH_SECONDS)
    getLogger("pika").setLevel(CRITICAL)  # seven lines for each attempt to connect, of which back_off tells one
    database = mongo.connect(settings, METRICS, ROLE)
    worker = Aggregator(settings, database)
    readiness = telemetry.Readiness()
    readiness.add("broker", lambda: worker.consuming)
    readiness.add("database", lambda: worker.database_answers)
    run_worker(worker, settings, readiness)
