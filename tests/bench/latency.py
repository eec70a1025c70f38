"""How long until a check-in shows: from the moment a device sends it to the commit that the next scrape reads.

The figures of ``/metrics`` are read from the database at each scrape, so a check-in is in them from the commit of its
transaction on. That moment is seen by a change stream on the event log, in the bench's own process; what the stream
itself adds is measured beside, with inserts whose end is known. At the end one scrape must show all of them.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from statistics import median
from typing import Any, Final

from pymongo.collection import Collection
from pymongo.database import Database

from services.kernel import audit, clock, ids
from services.kernel.mongo import Document
from services.metrics import log
from tests.bench.aggregation import applied, database_of
from tests.bench.rows import Goal, Row
from tests.bench.scene import Bench, Sample, Service
from tests.parts import Process, until

RATE: Final = 200
PROBES: Final = 100
RECORDS: Final = "stations.checkin_records"


class Watch:
    """When each document of a collection became visible, by id (seconds since the epoch)."""

    def __init__(self, collection: Collection[Document]) -> None:
        self.seen: dict[str, float] = {}
        self._stop = threading.Event()
        project: list[Document] = [{"$match": {"operationType": "insert"}}, {"$project": {"documentKey": 1}}]
        self._stream = collection.watch(project, max_await_time_ms=200, batch_size=1000)
        self._thread = threading.Thread(target=self._run, name="watch", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        while not self._stop.is_set():
            change = self._stream.try_next()
            if change is not None:
                self.seen[change["documentKey"]["_id"]] = time.time()

    def close(self) -> None:
        """Ends it."""
        self._stop.set()
        self._thread.join()
        self._stream.close()


def captured_to_visible(bench: Bench) -> list[Row]:
    """At 200 check-ins a second, each in a request of its own."""
    with system(bench) as (service, metrics, database):
        board = service.world.process("service", "metrics").start()
        own = _own_delay(database)
        seen = bench.rounds({f"{RATE} check-ins a second": partial(_round, bench, service, database)})
        total = applied(database)
        shown = _shown(board)
        if shown != total - _others(database):
            raise RuntimeError(f"/metrics shows {shown} of {total} check-ins")
        del metrics
    (samples,) = seen.values()
    note = f"the stream that sees it adds {own * 1000:.1f} ms at its median"
    return [
        Row(
            f"captured -> in /metrics at {RATE}/s, {name}",
            "ms",
            [sample[name] for sample in samples],
            goal=Goal("<", bound),
            note=note,
            samples={"rounds": samples},
        )
        for name, bound in (("p50", 20), ("p99", 50))
    ]


@contextmanager
def system(bench: Bench) -> Iterator[tuple[Service, Process, Database[Document]]]:
    """Service, relay, aggregator, sealer at work: the service, the aggregator's process, the database of metrics."""
    with bench.world() as world, ExitStack() as stack:
        database = database_of(world, stack)
        service = Service(world)
        stack.callback(service.close)
        relay = world.process("relay", "stations").start()
        until(lambda: relay.metric("estation_relay_active") == 1, "the relay holds its lease")
        aggregator = world.process("aggregator").start()
        audit.ensure_indexes(database.client[f"{world.prefix}{audit.OPERATIONS}"], audit.OPERATED)
        world.process("sealer").start()
        service.stations.settled()
        yield service, aggregator, database


def _round(bench: Bench, service: Service, database: Database[Document]) -> Sample:
    watch = Watch(database[log.EVENTS])
    seconds = 2.5 * bench.options.seconds
    load = bench.load(service.ports, service.keys, rows=1, rate=RATE, stamped=True, seconds=seconds).start()
    sent = load.outcome().sent
    by_id = {ids.derived(kiosk.id, id_): at for id_, at in sent for kiosk in service.kiosks}
    until(lambda: sum(id_ in by_id for id_ in list(watch.seen)) == len(sent), "all of them are seen", 60)
    watch.close()
    late = sorted((at - by_id[id_]) * 1000 for id_, at in watch.seen.items() if id_ in by_id)
    return {"p50": late[len(late) // 2], "p99": late[len(late) * 99 // 100], "max": late[-1], "count": len(late)}


def _own_delay(database: Database[Document]) -> float:
    """What the change stream adds, seconds: from an insert's acknowledgement to its being seen."""
    probe = database["bench_probe"]
    probe.insert_one({"_id": "first"})
    watch = Watch(probe)
    delays = []
    for number in range(PROBES):
        id_ = f"{number}"
        probe.insert_one({"_id": id_, "at": clock.now()})
        acknowledged = time.time()
        until(lambda id_=id_: id_ in watch.seen, "the probe is seen")  # type: ignore[misc]
        delays.append(max(0.0, watch.seen[id_] - acknowledged))
    watch.close()
    return median(delays)


def _shown(board: Process) -> int:
    from prometheus_client.parser import text_string_to_metric_families

    samples: list[Any] = [
        one for family in text_string_to_metric_families(board.ops("/metrics")) for one in family.samples
    ]
    shown: float = sum(one.value for one in samples if one.labels.get("measure") == RECORDS)
    return int(shown)


def _others(database: Database[Document]) -> int:
    """Events that are no check-ins: stations opened, devices enrolled."""
    return database[log.EVENTS].count_documents({"event.type": {"$ne": "stations.checkin_recorded.v1"}})
