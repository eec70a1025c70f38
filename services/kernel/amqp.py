"""Publishing with many confirms in flight, from a plain process (no eventlet).

py-amqp, because pika's blocking connection and kombu confirm one message at a time (measured: 1,400 a second
against 10,000 and more).
"""

import contextlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote, urlsplit

import amqp
from amqp.exceptions import AMQPError

CONFIRM_SECONDS: Final = 10.0
HEARTBEAT_SECONDS: Final = 20
PERSISTENT: Final = 2


@dataclass(frozen=True, slots=True)
class Message:
    """One message to publish."""

    exchange: str
    routing_key: str
    body: bytes
    content_type: str
    headers: Mapping[str, Any] = field(default_factory=dict)


class PublishError(Exception):
    """The connection broke or stayed silent: what was in flight may or may not have arrived."""


class Publisher:
    """A connection that only publishes: persistent, mandatory, confirmed."""

    def __init__(self, url: str, name: str, *, stopping: Callable[[], bool] = lambda: False) -> None:
        self._url, self._name, self._stopping = url, name, stopping
        self._connection: amqp.Connection | None = None
        self._channel: amqp.Channel | None = None
        self._open: set[int] = set()
        self._refused: set[int] = set()
        self._tags: dict[str, int] = {}
        self._last_tag = 0
        self.blocked = False

    def publish(self, messages: Sequence[Message]) -> list[bool]:
        """Publishes all, then reads the confirms: True for each that a quorum has on disk in every queue.

        False: the broker refused it (nack) or knew no queue for it (return).

        Raises:
            PublishError: none of them may be counted as published.
        """
        try:
            channel = self._ready()
            self._open.clear()
            self._refused.clear()
            self._tags.clear()
            tags = [self._send(channel, str(number), message) for number, message in enumerate(messages)]
            self._await_confirms()
        except (AMQPError, OSError) as error:
            self.close()
            raise PublishError(type(error).__name__) from error
        return [tag not in self._refused for tag in tags]

    def idle(self) -> None:
        """Keeps the heartbeat going between publishes; a broken connection is found here, or at the next publish."""
        if self._connection is None:
            return
        try:
            with contextlib.suppress(TimeoutError):
                self._connection.drain_events(timeout=0.001)
            self._connection.heartbeat_tick()
        except (AMQPError, OSError):
            self.close()

    def close(self) -> None:
        """Ends the connection; the next publish makes a new one."""
        connection, self._connection, self._channel = self._connection, None, None
        deaf = self.blocked or bool(self._open)  # a broker that does not read would not hear a goodbye either
        self.blocked = False
        if connection is not None:
            with contextlib.suppress(AMQPError, OSError, AttributeError):
                connection.collect() if deaf else connection.close()

    def _ready(self) -> "amqp.Channel":
        if self._channel is not None:
            return self._channel
        parts = urlsplit(self._url)
        connection = amqp.Connection(
            host=f"{parts.hostname}:{parts.port or 5672}",
            userid=unquote(parts.username or "guest"),
            password=unquote(parts.password or "guest"),
            virtual_host=unquote(parts.path[1:]) or "/",
            ssl=parts.scheme == "amqps",
            heartbeat=HEARTBEAT_SECONDS,
            connect_timeout=5,
            read_timeout=30,
            write_timeout=30,
            client_properties={"connection_name": self._name},
            on_blocked=self._on_blocked,
            on_unblocked=self._on_unblocked,
        )
        self._connection = connection
        connection.connect()
        channel = connection.channel()
        channel.confirm_select()
        self._last_tag = 0
        channel.events["basic_ack"].add(self._on_ack)
        channel.events["basic_nack"].add(self._on_nack)
        channel.events["basic_return"].add(self._on_return)
        self._channel = channel
        return channel

    def _send(self, channel: "amqp.Channel", token: str, message: Message) -> int:
        self._last_tag += 1
        tag = self._last_tag
        self._tags[token] = tag
        self._open.add(tag)  # before publishing: the confirm may be read while the next message is sent
        channel.basic_publish(
            amqp.Message(
                message.body,
                content_type=message.content_type,
                delivery_mode=PERSISTENT,
                message_id=token,
                application_headers=dict(message.headers),
            ),
            exchange=message.exchange,
            routing_key=message.routing_key,
            mandatory=True,
        )
        return tag

    def _await_confirms(self) -> None:
        deadline = time.monotonic() + CONFIRM_SECONDS
        while self._open and self._connection is not None:
            try:
                self._connection.drain_events(timeout=1.0)
            except TimeoutError:
                self._connection.heartbeat_tick()
                if self._stopping():
                    raise AMQPError("stopping") from None
                if self.blocked:  # an alarm: the broker has stopped reading; it will confirm when it is over
                    deadline = time.monotonic() + CONFIRM_SECONDS
                elif time.monotonic() > deadline:
                    raise TimeoutError("no confirm") from None

    def _settle(self, tag: int, multiple: bool) -> set[int]:
        settled = {open_ for open_ in self._open if open_ <= tag} if multiple else {tag} & self._open
        self._open -= settled
        return settled

    def _on_ack(self, tag: int, multiple: bool) -> None:
        self._settle(tag, multiple)

    def _on_nack(self, tag: int, multiple: bool = False) -> None:
        self._refused |= self._settle(tag, multiple)

    def _on_return(self, _error: Exception, _exchange: str, _routing_key: str, message: amqp.Message) -> None:
        self._refused.add(self._tags[message.properties["message_id"]])

    def _on_blocked(self, _reason: str) -> None:
        self.blocked = True

    def _on_unblocked(self) -> None:
        self.blocked = False
