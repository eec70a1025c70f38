"""The aggregator empties a prefilled inbox, exactly once in effect: against the bare transactions; as history grows."""

import time
from collections.abc import Sequence
from contextlib import ExitStack, closing
from datetime import timedelta
from functools import partial
from random import Random
from statistics import median
from typing import Any, Final
from uuid import UUID

from pymongo import InsertOne, ReturnDocument, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.read_concern import ReadConcern

from contracts.catalogue import CATALOGUE
from contracts.envelope import Event
from services.kernel import clock, mongo
from services.kernel.amqp import Publisher
from services.kernel.mongo import Document
from services.kernel.relay import pack
from services.metrics import log, store
from services.metrics.aggregator import BATCH_EVENTS
from services.metrics.log import Fact
from services.metrics.projections import Sums
from tests.bench.rows import Goal, Row
from tests.bench.scene import Bench, Facts, Sample, alike, cpu_seconds, drained, renew, say
from tests.parts import World

AGGREGATOR: Final = "aggregator process"
BARE: Final = "bare log + roll-up transactions"
FLAT: Final = 0.8
COLLECTIONS: Final = (log.EVENTS, log.ROLLUPS, log.TOTALS, log.STATE)


def aggregator(bench: Bench) -> list[Row]:
    """Events a second from the inbox into log and figures."""
    with bench.world() as world, ExitStack() as stack:
        database = database_of(world, stack)
        bare = _beside(database, stack)
        events = Facts(bench.seed()).events(bench.options.fill)
        seen = bench.rounds(
            {
                BARE: partial(_bare, bare, events),
                AGGREGATOR: partial(_aggregator, world, database, events),
            }
        )
    return [
        Row(
            "aggregator, exactly once",
            "events/s",
            [sample["per_second"] for sample in seen[AGGREGATOR]],
            BARE,
            [sample["per_second"] for sample in seen[BARE]],
            Goal(">=", 0.8),
            f"{median(sample['cpu_us'] for sample in seen[AGGREGATOR]):.0f} us CPU each",
            seen,
        )
    ]


def history(bench: Bench) -> list[Row]:
    """The same where the log is empty, half full and full; the steps of one history, so each is measured in turn."""
    with bench.world() as world, ExitStack() as stack:
        database = database_of(world, stack)
        facts = Facts(bench.seed())
        rates: dict[int, list[float]] = {}
        filled = 0
        for size in (0, bench.options.history // 2, bench.options.history):
            _grow(database, filled, size, bench.seed())
            filled = size
            for number in range(bench.options.rounds):
                sample = _aggregator(world, database, facts.events(bench.options.fill), keep=True)
                filled += bench.options.fill
                rates.setdefault(size, []).append(sample["per_second"])
                say(f"  round {number + 1}  log of {filled:,}  per_second {sample['per_second']:,.1f}")
    _none, half, full = rates
    return [
        Row(
            f"aggregator, log of {full:,}",
            "events/s",
            rates[full],
            f"log of {half:,}",
            rates[half],
            Goal(">=", FLAT),
        ),
        Row(f"aggregator, log of {full:,}", "events/s", rates[full], "empty log", rates[0]),
    ]


def database_of(world: World, stack: ExitStack) -> Database[Document]:
    """The database of metrics with its indexes."""
    database = mongo.connect(world.settings("metrics"), "metrics", "bench")
    stack.callback(database.client.close)
    store.ensure_indexes(database)
    return database


def _beside(database: Database[Document], stack: ExitStack) -> Database[Document]:
    beside = database.client[database.name + "_bare"]
    for name in COLLECTIONS:
        alike(beside[name], database[name])
    return beside


def publish(world: World, events: Sequence[Event]) -> None:
    """Puts events into the inbox, in messages as the relay makes them."""
    messages = [message for start in range(0, len(events), 1000) for message, _ in pack(events[start : start + 1000])]
    with closing(Publisher(world.broker.url_for("stations"), "bench")) as publisher:
        if not all(publisher.publish(messages)):
            raise RuntimeError("the broker refused a message")


def applied(database: Database[Document]) -> int:
    """How many events the log holds."""
    return int(log.state(database)["n"])


def _aggregator(world: World, database: Database[Document], events: Sequence[Event], *, keep: bool = False) -> Sample:
    if not keep:
        for name in COLLECTIONS:
            renew(database[name])
    before = applied(database)
    publish(world, events)
    process = world.process("aggregator").start()
    cpu = cpu_seconds([process])
    count, seconds = drained(lambda: applied(database) - before, len(events))
    cpu = cpu_seconds([process]) - cpu
    process.stop()
    return {"per_second": count / seconds, "cpu_us": cpu / len(events) * 1e6}


def _bare(database: Database[Document], events: Sequence[Event]) -> Sample:
    """The same transactions by a loop that has nothing else to do: everything is computed before the clock starts."""
    for name in COLLECTIONS:
        renew(database[name])
    steps = prepared(events)
    begun = time.perf_counter()
    for step in steps:
        transact(database, step)
    return {"per_second": len(events) / (time.perf_counter() - begun)}


Step = tuple[int, list[Document], list[Any], list[Any]]


def prepared(events: Sequence[Event]) -> list[Step]:
    """The writes of each transaction, as :func:`services.metrics.log.apply` would make them."""
    steps: list[Step] = []
    now = clock.now()
    for start in range(0, len(events), BATCH_EVENTS):
        facts = [Fact(event, CATALOGUE.counts(event), now) for event in events[start : start + BATCH_EVENTS]]
        rows = [log._row(fact, n, now) for n, fact in enumerate(facts, start=start + 1)]
        sums = Sums()
        for fact in facts:
            sums.add(fact.counts)
        days = [log._increment(cell, "day", delta) for cell, delta in sums.days().items()]
        years = [log._increment(cell, "year", delta) for cell, delta in sums.years().items()]
        steps.append((len(facts), rows, days, years))
    return steps


def transact(database: Database[Document], step: Step) -> None:
    """One transaction: the counter, the log's rows, the roll-ups, the totals."""
    count, rows, days, years = step

    def work(session: ClientSession) -> None:
        database[log.STATE].find_one_and_update(
            {"_id": log.APPLIED},
            {"$inc": {"n": count}, "$set": {"last_applied_at": clock.now()}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
            session=session,
        )
        database[log.EVENTS].insert_many(rows, session=session)
        database[log.ROLLUPS].bulk_write(days, session=session)
        database[log.TOTALS].bulk_write(years, session=session)

    with database.client.start_session() as session:
        session.with_transaction(
            work, read_concern=ReadConcern("snapshot"), write_concern=WriteConcern("majority", j=True)
        )


def _grow(database: Database[Document], start: int, size: int, seed: int) -> None:
    """Fills the log to a size with rows like those of years past; the counter follows."""
    if size <= start:
        return
    say(f"  filling the log from {start:,} to {size:,} rows")
    random = Random(seed)
    templates = prepared(Facts(seed).events(2000))
    rows = [row for step in templates for row in step[1]]
    unhurried = database[log.EVENTS].with_options(write_concern=WriteConcern(1))
    for first in range(start + 1, size + 1, 10_000):
        many = []
        for n in range(first, min(first + 10_000, size + 1)):
            row, id_ = rows[n % len(rows)], str(UUID(int=random.getrandbits(128), version=4))
            day = (clock.now() - timedelta(days=1 + (size - n) * 1000 // size)).date().isoformat()
            trail = [entry[:-10] + day for entry in row["trail"]]
            many.append(
                {**row, "_id": id_, "n": n, "trail": trail, "event": {**row["event"], "id": id_, "subject": id_}}
            )
        unhurried.bulk_write([InsertOne(row) for row in many], ordered=False)
    database[log.STATE].update_one({"_id": log.APPLIED}, {"$set": {"n": size}}, upsert=True)
    # what the filling left dirty must not be the next round's work
    database.client.admin.command("fsync")
