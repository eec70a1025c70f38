"""``estation dlq``: what was parked, why, and what becomes of it. Every act is audited."""

import getpass
import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import click
import pika

from contracts import catalogue, envelope
from contracts.catalogue import CATALOGUE
from services.kernel import audit, auth, clock, mongo, retry, settings
from services.kernel.topology import retry_exchange

CONSUMERS = CATALOGUE.consumers


@click.group()
def dlq() -> None:
    """Dead-letter queues."""


@dlq.command(name="list")
def list_() -> None:
    """How much is parked where."""
    with closing(_connect()) as connection:
        for queue in (*map(catalogue.dead, CONSUMERS), catalogue.UNROUTED):
            count = connection.channel().queue_declare(queue, passive=True).method.message_count
            click.echo(f"{queue:<24}{count:>8}")


@dlq.command()
@click.argument("consumer", type=click.Choice(CONSUMERS))
@click.option("--limit", default=50, show_default=True)
@click.option("--raw", is_flag=True, help="The bodies too: a malformed message may hold anything")
def show(consumer: str, limit: int, raw: bool) -> None:
    """What is parked for CONSUMER, and why; nothing is taken out."""
    with closing(_connect()) as connection:
        channel = connection.channel()
        for method, properties, body in _messages(channel, catalogue.dead(consumer), limit):
            click.echo(_line(properties, body))
            if raw:
                click.echo(body.decode("utf-8", "backslashreplace"))
            del method
        # closing the channel gives everything back


@dlq.command()
@click.argument("consumer", type=click.Choice(CONSUMERS))
@click.option("--id", "event_id", help="Only this event")
@click.option("--all", "everything", is_flag=True, help="All that is parked")
def replay(consumer: str, event_id: str | None, everything: bool) -> None:
    """Give parked events back to CONSUMER's inbox; an event that took effect before does nothing.

    What a service said in another's name stays parked: given back, it would be believed.
    """
    _selected(event_id, everything)

    def again(channel: Any, properties: Any, body: bytes) -> None:
        channel.basic_publish(
            retry_exchange(consumer),
            "inbox",
            body,
            pika.BasicProperties(content_type=properties.content_type, delivery_mode=2),
            mandatory=True,
        )

    count = _take(consumer, event_id, "dlq.replay", "", again, but=retry.FOREIGN)
    click.echo(f"{count} given back to {catalogue.inbox(consumer)}")


@dlq.command()
@click.argument("consumer", type=click.Choice(CONSUMERS))
@click.option("--id", "event_id", help="Only this event")
@click.option("--all", "everything", is_flag=True, help="All that is parked")
@click.option("--reason", required=True)
def discard(consumer: str, event_id: str | None, everything: bool, reason: str) -> None:
    """Throw parked messages away for good."""
    _selected(event_id, everything)
    count = _take(consumer, event_id, "dlq.discard", reason, lambda *_: None)
    click.echo(f"{count} discarded from {catalogue.dead(consumer)}")


def _selected(event_id: str | None, everything: bool) -> None:
    if bool(event_id) == everything:
        raise click.UsageError("say --id or --all")


def _take(
    consumer: str,
    event_id: str | None,
    action: str,
    reason: str,
    act: Callable[[Any, Any, bytes], None],
    *,
    but: str = "",
) -> int:
    """Acts on each selected message, audits it, then takes it out; leaves what was parked for the reason ``but``."""
    count = left = 0
    with closing(_connect()) as connection:
        channel = connection.channel()
        channel.confirm_delivery()
        queue = catalogue.dead(consumer)
        total = channel.queue_declare(queue, passive=True).method.message_count
        for method, properties, body in _messages(channel, queue, total):
            ids = _event_ids(properties, body)
            if event_id is not None and event_id not in ids:
                continue
            if but and (properties.headers or {}).get(retry.REASON) == but:
                left += 1
                continue
            act(channel, properties, body)
            _audit(action, consumer, reason, ids, body)
            channel.basic_ack(method.delivery_tag)
            count += 1
    if left:
        click.echo(f"{left} stay: {but}; look where they come from, then discard them")
    return count


def _messages(channel: Any, queue: str, limit: int) -> Iterator[tuple[Any, Any, bytes]]:
    for _ in range(limit):
        method, properties, body = channel.basic_get(queue)
        if method is None:
            return
        yield method, properties, body


def _line(properties: Any, body: bytes) -> str:
    headers = properties.headers or {}
    reason = headers.get(retry.REASON) or headers.get("x-first-death-reason") or "unknown"
    attempts = headers.get(retry.ATTEMPT, "?")
    named = ", ".join(_event_ids(properties, body)) or f"sha256 {hashlib.sha256(body).hexdigest()}"
    return f"{named}  {_type(body)}  reason {reason}  tries {attempts}  {len(body)} bytes"


def _event_ids(properties: Any, body: bytes) -> list[str]:
    try:
        events = envelope.load(body, properties.content_type or "")
    except envelope.MalformedError:
        return []
    return [str(event["id"])[:64] for event in events if isinstance(event, dict) and "id" in event]


def _type(body: bytes) -> str:
    try:
        value = json.loads(body)
    except ValueError:
        return "unreadable"
    first = value[0] if isinstance(value, list) and value else value
    return str(first.get("type"))[:80] if isinstance(first, dict) else "unreadable"


def _audit(action: str, consumer: str, reason: str, ids: list[str], body: bytes) -> None:
    database = mongo.connect(settings.read(), audit.OPERATIONS, "cli")
    row = audit.row(
        auth.system(f"cli:{getpass.getuser()}"),
        action,
        at=clock.now(),
        reason=reason,
        after={"consumer": consumer, "events": ids, "sha256": hashlib.sha256(body).hexdigest()},
    )
    audit.keep(database["audit"], row)
    database.client.close()


def _connect() -> "pika.BlockingConnection":
    try:
        return pika.BlockingConnection(pika.URLParameters(settings.read().rabbitmq_url))
    except pika.exceptions.AMQPConnectionError as error:
        raise click.ClickException("the broker does not answer: `estation status` tells why") from error
