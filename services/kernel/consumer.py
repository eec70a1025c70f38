"""Events -> a service's ``on_<event>`` methods: one quorum inbox a service, bounded tries, drain on stop.

A message is acknowledged after each of its events was applied, or put with a confirm where it waits or is parked.
A handler must be idempotent (``inbox.once`` or ``stored seq < seq``): a crash repeats it.
"""

import hashlib
import random
from collections.abc import Callable
from functools import wraps
from typing import Any, Final, TypeVar

import eventlet
import kombu
import kombu.pools
import structlog
from eventlet.event import Event as Settled
from kombu.mixins import ConsumerMixin
from nameko.extensions import Entrypoint, ProviderCollector, SharedExtension

from contracts import catalogue, envelope
from contracts.catalogue import Catalogue
from contracts.envelope import Event, MalformedError
from contracts.events import EventData
from services.kernel import logging, mongo, retry, telemetry, topology
from services.kernel.errors import EStationError

PREFETCH: Final = 10
POLL_SECONDS: Final = 0.25
"""How long a read of the connection may take before a stop is seen."""
DRAIN_SECONDS: Final = 25.0
F = TypeVar("F", bound=Callable[..., Any])


class Inbox(ProviderCollector, SharedExtension, ConsumerMixin):  # type: ignore[misc]  # kombu has no types
    """Consumes ``<service>.inbox`` and hands each event to the entry point of its type."""

    connect_max_retries = 0  # kombu's own pauses grow to 30 s and do not hear of a stop

    def __init__(self) -> None:
        super().__init__()
        self.should_stop = self._draining = self._connected = False
        self._under_way = 0
        self._thread: Any = None

    def start(self) -> None:
        app = self.container.config["app"]
        self._consumer = self.container.service_name
        self._events: Catalogue = getattr(app, "catalogue", catalogue.CATALOGUE)
        self._entrypoints = {provider.event.type: provider for provider in self._providers}
        missing = sorted({entry.type for entry in self._events.consumed_by(self._consumer)} - set(self._entrypoints))
        if missing:
            logging.get().critical("events_without_method", events=missing)
            raise RuntimeError(f"{self._consumer} is bound to events it has no method for: {missing}")
        options = {"confirm_publish": True, "client_properties": {"connection_name": f"inbox of {self._consumer}"}}
        self.connection = kombu.Connection(app.settings.rabbitmq_url, heartbeat=20, transport_options=options)
        # between two failures nobody would send its heartbeat, and the broker would close it
        self._producers = kombu.pools.producers[self.connection.clone(heartbeat=0)]
        if not getattr(app, "ready_without_broker", False):
            app.readiness.add("broker", lambda: self._connected)
        self._thread = self.container.spawn_managed_thread(self._run)

    def _run(self) -> None:
        while not self._draining:
            try:
                for _ in self.consume(limit=None, safety_interval=POLL_SECONDS):
                    pass
            except Exception:  # noqa: BLE001 (whatever broke: connect anew)
                logging.get().warning("inbox_waits_for_broker", exc_info=True)
            self._connected = False
            if not self._draining:
                eventlet.sleep(random.uniform(0.5, 1.5))  # noqa: S311 (jitter)

    def get_consumers(self, _consumer: Any, channel: Any) -> list[Any]:
        self._kombu_consumer = kombu.Consumer(
            channel,
            [kombu.Queue(catalogue.inbox(self._consumer), no_declare=True)],
            on_message=self._on_message,
            on_decode_error=lambda message, _error: self._on_message(message),  # said to be compressed, and is not
            prefetch_count=PREFETCH,
            auto_declare=False,
            tag_prefix=self._consumer,
        )
        return [self._kombu_consumer]

    def on_consume_ready(self, *_args: Any, **_kwargs: Any) -> None:
        self._connected = True

    def on_iteration(self) -> None:
        if self._draining:
            self._kombu_consumer.cancel()  # only here: two greenlets may not read one connection
            self.should_stop = not self._under_way

    def _on_message(self, message: Any) -> None:
        self._under_way += 1
        eventlet.spawn_n(self._handle, message)

    def _handle(self, message: Any) -> None:
        try:
            body = message.body.encode() if isinstance(message.body, str) else bytes(message.body)
            for raw in self._events_of(message, body):
                self._take(raw, message, body)
            message.ack()
        except Exception:  # noqa: BLE001 (not acknowledged: the broker gives it again, up to its delivery limit)
            logging.get().warning("message_not_settled", exc_info=True)
            self._reject(message)
        finally:
            self._under_way -= 1

    def _events_of(self, message: Any, body: bytes) -> list[Any]:
        try:
            return envelope.load(body, message.content_type or "")
        except MalformedError as error:
            logging.get().error(
                "message_malformed", code=str(error), sha256=hashlib.sha256(body).hexdigest(), size=len(body)
            )
            self._put(retry.step_raw(self._consumer, body, message.content_type or "", str(error)), str(error))
            return []

    def _take(self, raw: Any, message: Any, body: bytes) -> None:
        try:
            event = envelope.check(raw)
            self._events.check(event)
            sender = topology.sender(message.delivery_info["exchange"], self._consumer)
            if sender is not None and event["source"] != sender:
                raise MalformedError(retry.FOREIGN)  # noqa: TRY301
            if event["type"] not in self._entrypoints:
                raise MalformedError("not_consumed_here")  # noqa: TRY301
        except MalformedError as error:
            self._park(raw, message, body, str(error))
        else:
            self._apply(event, message.headers)

    def _park(self, raw: Any, message: Any, body: bytes, reason: str) -> None:
        """Parks what no repetition can mend."""
        logging.get().error("event_malformed", code=reason)
        try:
            step = retry.step(self._consumer, raw, message.headers, reason, final=True)
        except RecursionError:  # nested so deep that it could just be read: the message as it came
            step = retry.step_raw(self._consumer, body, message.content_type, reason)
        self._put(step, reason)

    def _apply(self, event: Event, headers: Any) -> None:
        error = self._entrypoints[event["type"]].deliver(event)
        if error is None:
            telemetry.CONSUMED.labels(self._consumer, "applied").inc()
            return
        # a driver's error has a code too, but a number
        reason = error.code if isinstance(error, EStationError) else type(error).__name__
        step = retry.step(self._consumer, event, headers, reason, away=mongo.is_away(error))
        logging.get().warning(
            "event_not_applied",
            event_id=event["id"],
            type=event["type"],
            trace_id=_trace_id(event),
            attempt=retry.attempt_of(headers) + 1,
            parked=step.parked,
            exc_info=error,
        )
        self._put(step, reason)

    def _put(self, step: retry.Step, reason: str) -> None:
        """Publishes to the retry exchange and waits for the confirm."""
        message = step.message
        with self._producers.acquire(block=True, timeout=10) as producer:
            producer.publish(
                message.body,
                exchange=message.exchange,
                routing_key=message.routing_key,
                content_type=message.content_type,
                content_encoding="utf-8",
                headers=dict(message.headers),
                delivery_mode=2,
                mandatory=True,
                retry=False,
                timeout=10,
            )
        telemetry.CONSUMED.labels(self._consumer, "parked" if step.parked else "retried").inc()
        if step.parked:
            telemetry.PARKED.labels(self._consumer, reason[:60]).inc()

    def _reject(self, message: Any) -> None:
        try:
            message.reject(requeue=True)
        except Exception:  # noqa: BLE001 (the connection is gone, and the message is the broker's again)
            logging.get().debug("reject_failed", exc_info=True)

    def drain(self) -> None:
        """Takes no new messages, settles those under way, then closes. Every entry point asks."""
        self._draining = True
        if self._thread is not None:
            with eventlet.Timeout(DRAIN_SECONDS, False):
                self._thread.wait()

    def stop(self) -> None:
        self.drain()


class EventEntrypoint(Entrypoint):
    """The nameko entry point behind :func:`on`."""

    inbox = Inbox()

    def __init__(self, event: type[EventData], **kwargs: Any) -> None:
        self.event = event
        super().__init__(**kwargs)

    def setup(self) -> None:
        self.inbox.register_provider(self)

    def stop(self) -> None:
        self.inbox.drain()
        self.inbox.unregister_provider(self)

    def deliver(self, event: Event) -> Exception | None:
        """Runs the method in a worker; the error it raised, if any."""
        settled = Settled()

        def done(_worker: object, result: Any, exc_info: Any) -> tuple[Any, Any]:
            settled.send(result if exc_info is None else exc_info[1])
            return result, exc_info

        self.container.spawn_worker(self, (event,), {}, handle_result=done)
        outcome: Exception | None = settled.wait()
        return outcome


def _trace_id(event: Event) -> str:
    """Empty where the event carries no trace, as it may."""
    return telemetry.trace_id(event.get("traceparent", ""))


def on(event: type[EventData]) -> Callable[[F], F]:
    """Declares the method that takes events of one type and version; name it ``on_<event>``."""

    def register(function: F) -> F:
        @wraps(function)
        def deliver(service: object, delivered: Event) -> Exception | None:
            structlog.contextvars.bind_contextvars(event_id=delivered["id"], trace_id=_trace_id(delivered))
            try:
                function(service, delivered)
            except Exception as error:  # noqa: BLE001 (every failure is retried, then parked; nameko would log payload)
                return error
            logging.get().info("event_applied", type=delivered["type"])
            return None

        return EventEntrypoint.decorator(event)(deliver)  # type: ignore[return-value]  # nameko gives back what it got

    return register
