"""What becomes of an event that could not be applied: growing pauses, then the dead-letter queue with the reason.

Pure: both consumers (nameko handlers, the batch aggregator) publish what :func:`step` says to the consumer's retry
exchange with a confirm, and only then acknowledge the original.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from contracts import catalogue, envelope
from contracts.envelope import Event
from services.kernel.amqp import Message
from services.kernel.topology import retry_exchange

ATTEMPT: Final = "x-estation-attempt"
AWAY: Final = "x-estation-away"
REASON: Final = "x-estation-reason"
FOREIGN: Final = "foreign_exchange"
"""The reason of what came by an exchange that is not its source's (:func:`topology.sender`)."""
PAUSES: Final = tuple(catalogue.WAITS)
DEAD: Final = "dead"
AWAY_MAX: Final = 288
"""So many times, a day at the longest pause, an event may meet a database that is away: that is not its own fault."""


@dataclass(frozen=True, slots=True)
class Step:
    """Where a failed event goes: a pause or ``dead``."""

    message: Message
    parked: bool


def attempt_of(headers: Mapping[str, Any] | None) -> int:
    """How many times an event has failed before; a header of another form counts as none."""
    return _number(headers, ATTEMPT)


def _number(headers: Mapping[str, Any] | None, name: str) -> int:
    value = (headers or {}).get(name)
    return value if isinstance(value, int) and value > 0 else 0


def step(
    consumer: str,
    event: Event,
    headers: Mapping[str, Any] | None,
    reason: str,
    *,
    final: bool = False,
    away: bool = False,
) -> Step:
    """The next step of one event.

    ``final``: no repetition can mend it (malformed, unknown version). ``away``: the consumer's database did not
    answer, which costs the event a pause and none of its tries, for about a day.
    """
    body = _body(event)
    if away and _number(headers, AWAY) < AWAY_MAX:
        return _await_database(consumer, body, headers, reason)
    return _step(consumer, body, envelope.CONTENT_TYPE, headers, reason, final=final)


def _await_database(consumer: str, body: bytes, headers: Mapping[str, Any] | None, reason: str) -> Step:
    met = _number(headers, AWAY)
    kept = {ATTEMPT: attempt_of(headers), AWAY: met + 1, REASON: reason[:200]}
    pause = PAUSES[min(met, len(PAUSES) - 1)]
    return Step(Message(retry_exchange(consumer), pause, body, envelope.CONTENT_TYPE, kept), parked=False)


def _body(event: Event) -> bytes:
    try:
        return envelope.dump(event)
    except ValueError:  # a lone surrogate or 1e999: the reason why it is parked, and no reason not to
        return json.dumps(event).encode()


def step_raw(consumer: str, body: bytes, content_type: str, reason: str) -> Step:
    """Parks a message that could not be read as events at all, as it came."""
    return _step(consumer, body, content_type, None, reason, final=True)


def _step(
    consumer: str, body: bytes, content_type: str, headers: Mapping[str, Any] | None, reason: str, *, final: bool
) -> Step:
    failed = attempt_of(headers)
    parked = final or failed >= len(PAUSES)
    key = DEAD if parked else PAUSES[failed]
    met = _number(headers, AWAY)
    kept = {ATTEMPT: failed + 1, **({AWAY: met} if met else {}), REASON: reason[:200]}
    return Step(Message(retry_exchange(consumer), key, body, content_type, kept), parked)
