"""Settles batches: the events take effect, or lie confirmed where they pause or are parked. Knows no delivery."""

import random
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Final, TypeVar

from prometheus_client import Counter
from pymongo.database import Database
from pymongo.errors import PyMongoError

from services.kernel import clock, logging, mongo
from services.kernel.amqp import Publisher, PublishError
from services.kernel.mongo import Document
from services.metrics import log
from services.metrics.log import Fact
from services.metrics.reading import Batch, Refusal, failed

BACKOFF_MAX_SECONDS: Final = 5.0
TRIES_OF_A_CORPSE: Final = 50
"""After so many in a row, whoever holds the counter is not at work any more."""
FAULTS: Final = Counter("estation_aggregator_faults", "Pauses before trying again, by what was away", ["reason"])
_CONFLICT: Final = "TransientTransactionError"
T = TypeVar("T")


class StoppedError(Exception):
    """Told to stop while the database or the broker is away: what is in hand stays the broker's."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What became of a batch: facts that took effect now, events that did not, and when the figures were there."""

    fresh: Sequence[Fact]
    refusals: Sequence[Refusal]
    visible_at: datetime
    seconds: float


def back_off(faults: int, reason: str, error: Exception, stop: threading.Event) -> None:
    """Waits for what is away, longer each time, never in step with others; returns at once when told to stop."""
    FAULTS.labels(reason).inc()
    pause = random.uniform(0.5, 1.0) * min(BACKOFF_MAX_SECONDS, 0.1 * 2 ** min(faults, 8))  # noqa: S311 (jitter)
    logging.get().warning("aggregator_waits", reason=reason, pause=round(pause, 2), exc_info=error)
    stop.wait(pause)


class Applier:
    """Settles one batch at a time, however long database or broker are away, until told to stop."""

    def __init__(
        self, database: Database[Document], publisher: Publisher, stop: threading.Event, now: clock.Clock
    ) -> None:
        self._database, self._publisher, self._stop, self._now = database, publisher, stop, now
        self._faults = 0
        self.database_answers = False

    def begin(self) -> None:
        """Clears what a killed predecessor left behind.

        Raises:
            StoppedError: told to stop before the database answered.
        """

        def clear() -> None:
            self._end_orphans()
            log.begin(self._database)

        self._insist(clear)

    def settle(self, batch: Batch) -> Settled:
        """Returns when every event of the batch has taken effect, or lies where it pauses or is parked.

        Raises:
            StoppedError: told to stop before that was possible.
        """
        started = time.perf_counter()
        refusals = list(batch.refusals)
        fresh = self._apply(list(batch.facts.values()), batch, refusals)
        visible_at = self._now()
        self._put(refusals)
        return Settled(fresh, refusals, visible_at, time.perf_counter() - started)

    def mark_current(self, at: datetime) -> None:
        """Notes that the inbox was empty at ``at``; where the database is away, the next mark will do."""
        try:
            log.mark_current(self._database, at)
        except PyMongoError as error:
            logging.get().warning("not_marked_current", exc_info=error)
            self.database_answers = False
        else:
            self.database_answers = True

    def _apply(self, facts: list[Fact], batch: Batch, refusals: list[Refusal]) -> list[Fact]:
        """The facts that took effect now; what cannot be applied is found by halves and refused alone."""
        if not facts:
            return []
        look_first = batch.redelivered

        def attempt() -> list[Fact] | Exception:
            nonlocal look_first
            try:
                return log.apply(self._database, facts, self._now(), look_first=look_first, current_at=batch.current_at)
            except Exception as error:
                if log.is_events_own(error):
                    return error
                if log.is_known(error) and look_first:
                    log.begin(self._database)  # not an event: a number was taken
                look_first = True
                raise

        outcome = self._insist(attempt)
        if not isinstance(outcome, Exception):
            return outcome
        if len(facts) == 1:
            event = facts[0].event
            refusals.append(failed(event, batch.headers.get(event["id"], {}), outcome))
            return []
        middle = len(facts) // 2
        return self._apply(facts[:middle], batch, refusals) + self._apply(facts[middle:], batch, refusals)

    def _put(self, refusals: Sequence[Refusal]) -> None:
        """Publishes refused events to where they pause or are parked, until each is confirmed."""
        left = [refusal.step.message for refusal in refusals]

        def attempt() -> None:
            nonlocal left
            confirmed = self._publisher.publish(left)
            left = [message for message, sure in zip(left, confirmed, strict=True) if not sure]
            if left:
                raise PublishError("refused")

        if left:
            self._insist(attempt)
            self._publisher.close()  # rare: not worth a second connection to keep alive

    def _insist(self, attempt: Callable[[], T]) -> T:
        """Tries until it works: after a conflict soon, after an absence with growing pauses."""
        tries = 0
        while True:
            tries += 1
            try:
                if tries % TRIES_OF_A_CORPSE == 0:
                    self._end_orphans()
                outcome = attempt()
            except PyMongoError as error:
                if _is_conflict(error):
                    time.sleep(random.uniform(0, 0.01))  # noqa: S311 (jitter)
                else:
                    self.database_answers = False
                    self._pause("database", error)
            except PublishError as error:
                self._pause("broker", error)
            else:
                self._faults = 0
                self.database_answers = True
                return outcome

    def _end_orphans(self) -> None:
        """Ends transactions of a killed predecessor, which would conflict with ours until they time out."""
        client = self._database.client
        try:
            count = mongo.end_orphans(client, client.options.pool_options.metadata["application"]["name"])
        except PyMongoError as error:
            if mongo.is_away(error):
                raise
            logging.get().warning("orphans_not_looked_for", exc_info=error)  # the right to look was not given
        else:
            logging.get().info("orphans_ended", count=count)

    def _pause(self, reason: str, error: Exception) -> None:
        self._faults += 1
        back_off(self._faults, reason, error, self._stop)
        if self._stop.is_set():
            raise StoppedError


def _is_conflict(error: PyMongoError) -> bool:
    passing = log.is_known(error) or error.has_error_label(_CONFLICT)
    return passing and not mongo.is_away(error)
