"""A consumer's queues from outside: what a test sends it, what it has parked, how long it pauses."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import pika

from contracts import catalogue, envelope
from contracts.envelope import Event
from tests.parts import Broker, until


class Letter(NamedTuple):
    """A message in a queue."""

    headers: Mapping[str, Any]
    content_type: str
    body: bytes

    @property
    def reason(self) -> object:
        """Why it is not where it was sent."""
        return self.headers.get("x-estation-reason")

    @property
    def attempt(self) -> object:
        """How many times it has failed."""
        return self.headers.get("x-estation-attempt")


class Mailbox:
    """One consumer's queues, on a connection made for each use: a test may stop the broker meanwhile."""

    def __init__(self, broker: Broker, owner: str, consumer: str) -> None:
        self._broker, self._owner, self.consumer = broker, owner, consumer
        self.parked: list[Letter] = []

    def send(self, *events: Event, **headers: Any) -> None:
        """Publishes each event in a message of its own; returns when the broker has them."""
        self.post(*(envelope.dump(event) for event in events), **headers)

    def send_batch(self, *events: Event) -> None:
        """Publishes all events in one message."""
        self.post(envelope.dump_batch(events), content_type=envelope.BATCH_CONTENT_TYPE)

    def post(self, *bodies: bytes, content_type: str = envelope.CONTENT_TYPE, **headers: Any) -> None:
        """Publishes bodies to the inbox as they are."""
        with self._channel() as channel:
            channel.confirm_delivery()
            for body in bodies:
                channel.basic_publish(
                    f"{self.consumer}.retry",
                    "inbox",
                    body,
                    pika.BasicProperties(content_type=content_type, headers=headers, delivery_mode=2),
                    mandatory=True,
                )

    def take(self, queue: str) -> list[Letter]:
        """Takes everything out of a queue."""
        letters = []
        with self._channel() as channel:
            while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
                letters.append(Letter(got[1].headers or {}, got[1].content_type or "", got[2]))
        return letters

    def await_parked(self, *parts: str, count: int = 1, seconds: float = 30) -> list[Letter]:
        """The parked messages (so many) whose bodies hold all the given parts."""

        def found() -> list[Letter]:
            self.parked += self.take(catalogue.dead(self.consumer))
            letters = [one for one in self.parked if all(part.encode() in one.body for part in parts)]
            return letters if len(letters) >= count else []

        letters: list[Letter] = until(found, f"{count} parked with {parts}", seconds)
        return letters

    @contextlib.contextmanager
    def pausing(self, milliseconds: int, *pauses: str) -> Iterator[None]:
        """While the block runs, the given pauses (all unless told) are that long."""
        names = [catalogue.wait(self.consumer, pause) for pause in pauses or catalogue.WAITS]
        policies = [f"/policies/{self._broker.vhost}/test.{name}" for name in names]
        management = self._broker.management
        definition = {
            "message-ttl": milliseconds,
            "dead-letter-exchange": f"{self.consumer}.retry",
            "dead-letter-routing-key": "inbox",
            "dead-letter-strategy": "at-least-once",
            "overflow": "reject-publish",
        }
        for name, path in zip(names, policies, strict=True):
            pattern = "^" + name.replace(".", r"\.") + "$"
            management.call(
                "PUT", path, {"pattern": pattern, "apply-to": "queues", "priority": 20, "definition": definition}
            )
        in_force = [f"test.{name}" for name in names]
        until(lambda: [self._policy(name) for name in names] == in_force, f"pauses of {milliseconds} ms")
        try:
            yield
        finally:
            for path in policies:
                management.call("DELETE", path)

    def _policy(self, queue: str) -> object:
        return self._broker.management.call("GET", f"/queues/{self._broker.vhost}/{queue}").get("policy")

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self._broker.admin_url))) as connection:
            yield connection.channel()
