"""The whole pipeline at once: devices post, the service stores, the relay publishes, the aggregator counts.

The load is held back by the far end: no more than a window of rows is under way between a device and the figures, so
what is sustained is what the slowest part does, and a backlog cannot hide it. Against the same writes without anything
around them: insert, mark, log and roll-up by threads of this process.
"""

import queue
import threading
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Any, Final
from uuid import uuid4

from contracts import catalogue
from contracts.catalogue import METRICS
from services.stations.store import checkin_events
from tests.bench import aggregation
from tests.bench.latency import system
from tests.bench.relaying import close
from tests.bench.rows import Goal, Row
from tests.bench.scene import CONNECTIONS, Bench, Facts, Sample, Service, alike, renew, say

ROWS: Final = 20
"""Check-ins in a request: a kiosk that sends what came in within a few minutes."""
WINDOW: Final = 4 * CONNECTIONS * ROWS
NATION: Final = 27
"""Check-ins a second of all the nation's stations: 2.3 million a day."""
LOOK_SECONDS: Final = 0.02
STEP: Final = 1000
INSERTERS: Final = 2
BARE_PER_SECOND: Final = 15_000
"""More than the bare writes do, so that they do not run out."""


def sustained(bench: Bench) -> list[Row]:
    """Check-ins a second from HTTP to figures, minutes long, and whether anything piled up."""
    seconds = bench.options.sustained_seconds
    bare_seconds = max(2.0, min(20.0, seconds / 10))
    with system(bench) as (service, _aggregator, database):
        bare = database.client[database.name + "_bare"]
        for name in aggregation.COLLECTIONS:
            alike(bare[name], database[name])
        alike(bare["checkins"], service.database["checkins"])
        before = _bare(bench, bare, bare_seconds)
        say(f"  bare writes {before:,.0f}/s")
        rates, backlog = _drive(bench, service, database, seconds)
        after = _bare(bench, bare, bare_seconds)
        say(f"  bare writes {after:,.0f}/s")
    limit = (before + after) / 2
    half = len(backlog) // 2
    early, late = (
        max(1.0, median(one["open"] + one["inbox"] for one in part)) for part in (backlog[:half], backlog[half:])
    )
    samples = {"backlog": backlog, "bare_before": before, "bare_after": after, "window": WINDOW}
    whole = f"whole pipeline, {seconds:g} s sustained"
    mean = sum(rates) / len(rates)
    return [
        Row(
            whole,
            "check-ins/s",
            rates,
            "bare insert, mark, log + roll-up",
            [limit] * len(rates),
            Goal(">=", 0.6),
            f"mean {mean:,.0f}",
            samples,
        ),
        Row(whole, "check-ins/s", [mean], "the nation's stations", [NATION], Goal(">=", 1)),
        Row("its backlog (open + inbox), second half", "events", [late], "first half", [early], Goal("<", 1.5)),
    ]


def _drive(bench: Bench, service: Service, database: Any, seconds: float) -> tuple[list[float], list[Sample]]:
    """Rates of each tenth of the time, and what was under way each second."""
    load = bench.load(service.ports, service.keys, rows=ROWS, paced=True, seconds=seconds, warm_up=0.0)
    begin = aggregation.applied(database)
    load.start().allow(WINDOW)
    started = time.perf_counter()
    counted: list[tuple[float, int]] = [(started, 0)]
    backlog: list[Sample] = []
    while not load.ended:
        done = aggregation.applied(database) - begin
        load.allow(done + WINDOW)
        now = time.perf_counter()
        if now - counted[-1][0] >= seconds / 10:
            counted.append((now, done))
            say(f"  {now - started:6.1f} s  {done:,} counted  backlog {backlog[-1] if backlog else ''}")
        if now - started >= len(backlog) + 1:
            backlog.append(_backlog(service))
        time.sleep(LOOK_SECONDS)
    load.outcome()
    pairs = pairwise(counted)
    return [(done - base) / (at - since) for (since, base), (at, done) in pairs], backlog


def _backlog(service: Service) -> Sample:
    waiting = service.database["checkins"].count_documents({"open": True}, hint="outbox")
    return {"open": waiting, "inbox": service.world.broker.depth(catalogue.inbox(METRICS)) * 1.0}


def _bare(bench: Bench, database: Any, seconds: float) -> float:
    """Rows a second through all three writes; each kind has threads of its own, as ours has processes of their own.

    Everything is computed before the clock starts.
    """
    templates = Facts(bench.seed()).documents(BARE_PER_SECOND, rows=ROWS)
    documents = [{**one, "_id": str(uuid4())} for _ in range(int(seconds) + 1) for one in templates]
    parts = [documents[start : start + STEP] for start in range(0, len(documents), STEP)]
    steps = aggregation.prepared([event for one in documents for event in checkin_events(one)])
    to_insert = iter(range(len(parts)))
    to_mark: queue.Queue[int | None] = queue.Queue(4)
    to_log: queue.Queue[int | None] = queue.Queue(4)
    begun = time.perf_counter()
    end = begun + seconds

    def insert() -> None:
        for number in to_insert:  # the list's iterator is one for all threads
            database["checkins"].insert_many(parts[number], ordered=False)
            to_mark.put(number)
            if time.perf_counter() > end:
                break
        to_mark.put(None)

    def mark() -> None:
        for _ in range(INSERTERS):
            while (number := to_mark.get()) is not None:
                close(database["checkins"], parts[number])
                to_log.put(number)
        to_log.put(None)

    logged = []

    def write() -> None:
        while (number := to_log.get()) is not None:
            aggregation.transact(database, steps[number])
            logged.append(number)

    _together([*[insert] * INSERTERS, mark, write])
    rate = len(logged) * STEP / (time.perf_counter() - begun)
    for name in (*aggregation.COLLECTIONS, "checkins"):
        renew(database[name])
    return rate


def _together(works: Sequence[Callable[[], None]]) -> None:
    threads = [threading.Thread(target=work) for work in works]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
