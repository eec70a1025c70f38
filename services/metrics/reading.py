"""From deliveries to a batch: which events may take effect, which are refused and where those go. No I/O."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final, NamedTuple

from contracts import envelope
from contracts.catalogue import METRICS, Catalogue
from contracts.envelope import Event, MalformedError
from services.kernel import logging, retry, topology
from services.metrics.log import Fact

PASSED_MAX: Final = 50_000


class Delivery(NamedTuple):
    """A message as the broker gave it."""

    tag: int
    body: bytes
    content_type: str
    headers: Mapping[str, Any]
    redelivered: bool
    exchange: str


class Refusal(NamedTuple):
    """Where an event goes that does not take effect now, and why."""

    step: retry.Step
    reason: str


@dataclass(slots=True)
class Batch:
    """Whole deliveries, in the order of their tags, that are settled together."""

    last_tag: int = 0
    deliveries: int = 0
    events: int = 0
    redelivered: bool = False
    facts: dict[str, Fact] = field(default_factory=dict)
    headers: dict[str, Mapping[str, Any]] = field(default_factory=dict)
    refusals: list[Refusal] = field(default_factory=list)
    current_at: datetime | None = None


class Reader:
    """Reads deliveries into batches, by the contracts alone."""

    def __init__(self, catalogue: Catalogue) -> None:
        self._catalogue = catalogue
        self._consumed = {entry.type for entry in catalogue.consumed_by(METRICS)}
        self._whole = {entry.type for entry in catalogue if entry.judges_together}
        self._passed: set[tuple[Any, ...]] = set()

    def read(self, delivery: Delivery, batch: Batch) -> None:
        """Adds a delivery's events to a batch; one that is malformed takes no neighbour along."""
        batch.last_tag = delivery.tag
        batch.deliveries += 1
        batch.redelivered |= delivery.redelivered
        try:
            found = envelope.load(delivery.body, delivery.content_type)
        except MalformedError as error:
            logging.get().error(
                "message_malformed",
                code=str(error),
                sha256=hashlib.sha256(delivery.body).hexdigest(),
                size=len(delivery.body),
            )
            step = retry.step_raw(METRICS, delivery.body, delivery.content_type, str(error))
            batch.refusals.append(Refusal(step, str(error)))
            return
        batch.events += len(found)
        sender = topology.sender(delivery.exchange, METRICS)
        for raw in found:
            self._read_event(raw, delivery, sender, batch)

    def _read_event(self, raw: Any, delivery: Delivery, sender: str | None, batch: Batch) -> None:
        try:
            event = envelope.check(raw)
            self._check(event)
            if sender is not None and event["source"] != sender:
                raise MalformedError(retry.FOREIGN)  # noqa: TRY301
        except MalformedError as error:
            batch.refusals.append(_refused(raw, delivery, str(error)))
            return
        if event["id"] in batch.facts:
            return
        try:
            counts = self._catalogue.counts(event)
        except Exception as error:  # noqa: BLE001 (whatever a mapping raises is this event's failure alone)
            batch.refusals.append(failed(event, delivery.headers, error))
            return
        batch.facts[event["id"]] = Fact(event, counts, datetime.fromisoformat(event["recordedtime"]))
        if retry.ATTEMPT in delivery.headers:
            batch.headers[event["id"]] = delivery.headers

    def _check(self, event: Event) -> None:
        """The catalogue's verdict, which depends on few values that repeat themselves all day.

        The schemas take half of the time that reading takes; what passed once is not put to them again. Where a
        schema judges fields together, it is all values that must have passed together.
        """
        type_, data = event["type"], event["data"]
        # the types, too: to a set, 1, 1.0 and True are the same
        seen: set[tuple[Any, ...]] = {(type_, event["source"], event["county"], *data)}
        try:
            if type_ in self._whole:
                seen.add((type_, *data.items(), *map(type, data.values())))
            else:
                seen.update((type_, name, value, type(value)) for name, value in data.items())
        except TypeError:  # a list in it
            seen = set()
        if seen and seen <= self._passed:
            return
        self._catalogue.check(event)
        if type_ not in self._consumed:
            raise MalformedError("not_consumed_here")
        if len(self._passed) + len(seen) > PASSED_MAX:
            self._passed.clear()
        self._passed |= seen


def _refused(raw: Any, delivery: Delivery, reason: str) -> Refusal:
    try:
        return Refusal(retry.step(METRICS, raw, delivery.headers, reason, final=True), reason)
    except RecursionError:  # nested so deep that it could just be read: the message as it came; its others are known
        return Refusal(retry.step_raw(METRICS, delivery.body, delivery.content_type, reason), reason)


def failed(event: Event, headers: Mapping[str, Any], error: Exception) -> Refusal:
    """The next step of a well-formed event that could not be applied: a pause, at last the dead-letter queue."""
    reason = type(error).__name__
    logging.get().warning(
        "event_not_applied",
        event_id=event["id"],
        type=event["type"],
        attempt=retry.attempt_of(headers) + 1,
        exc_info=error,
    )
    return Refusal(retry.step(METRICS, event, headers, reason), reason)
