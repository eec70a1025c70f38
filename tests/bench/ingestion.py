"""Check-ins over HTTP, single and by the hundred: ours against bare pymongo and the peers, in the same rounds."""

import contextlib
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from itertools import cycle
from statistics import median
from typing import Any, Final
from uuid import uuid4

from pymongo.collection import Collection

from contracts import catalogue
from contracts.catalogue import METRICS
from services.kernel.mongo import Document
from tests.bench import peers
from tests.bench.rows import Goal, Row
from tests.bench.scene import (
    Bench,
    Facts,
    Load,
    Sample,
    Service,
    alike,
    client,
    cpu_seconds,
    free,
    program,
    purge,
    renew,
)
from tests.parts import World, listens, until

BATCH: Final = 100
RAW_THREADS: Final = {1: 20, BATCH: 4}
SEEN: Final = 2000
"""Documents that bare writes take turns with; each gets an id of its own."""


def ceiling(bench: Bench) -> list[Row]:
    """How much the load generator can send to a server that costs next to nothing."""
    rows = []
    for size, figure in ((1, "single"), (BATCH, f"batch of {BATCH}")):
        port = free()
        command = [*peers.OURS, "-m", "tests.bench.responder", str(port), str(size)]
        with program(command, bench.folder / "responder.log", {}):
            until(lambda port=port: listens(port), "the responder listens")  # type: ignore[misc]
            measure = partial(_drive, bench, [port], ["esd_none"], size)
            seen = bench.rounds({f"responder, {figure}": measure})
        rows.append(_row(f"load generator's own ceiling, {figure}", seen[f"responder, {figure}"], size))
    return rows


def single(bench: Bench) -> list[Row]:
    """One check-in a request."""
    return _compare(bench, 1)


def batch(bench: Bench) -> list[Row]:
    """A hundred check-ins a request."""
    return _compare(bench, BATCH)


def _compare(bench: Bench, size: int) -> list[Row]:
    with bench.world() as world, contextlib.ExitStack() as stack:
        service = Service(world, processes=2)
        stack.callback(service.close)
        raw = client(world)[world.prefix + "raw"]["checkins"]
        stack.callback(raw.database.client.close)
        alike(raw, service.database["checkins"])
        relay = world.process("relay", "stations")
        ours = partial(_ours, bench, service, size)
        participants: dict[str, Callable[[], Sample]] = {
            RAW: partial(_raw, bench, raw, size),
            "ours": partial(ours, service.ports[:1]),
            "ours, 2 processes": partial(ours, service.ports),
        }
        if bench.options.peers:
            participants["ours, relay running"] = partial(ours, service.ports[:1], relay)
            participants["ours, 2 processes, relay running"] = partial(ours, service.ports, relay)
            for peer in stack.enter_context(peers.started(bench, service)):
                participants[peer.name] = partial(_peer, bench, world, peer, size)
        seen = bench.rounds(participants)
    return _rows(seen, size)


RAW: Final = "raw pymongo"


def _rows(seen: dict[str, list[Sample]], size: int) -> list[Row]:
    figure, raw = (
        ("single check-in", f"raw insert_one, {RAW_THREADS[1]} threads")
        if size == 1
        else (f"batch of {BATCH}", f"raw insert_many({BATCH}), {RAW_THREADS[BATCH]} threads")
    )
    rows = [
        _row(f"{figure}, one process", seen["ours"], size, raw, seen[RAW], Goal(">=", 0.5 if size == 1 else 0.6)),
        _row(
            f"{figure}, two processes",
            seen["ours, 2 processes"],
            size,
            raw,
            seen[RAW],
            Goal(">=", 0.8) if size == 1 else None,
        ),
    ]
    for name, samples in seen.items():
        if name == RAW or name.startswith("ours"):
            continue
        two = ", 2 processes" if name.endswith("2 processes") else ""
        # who publishes in the request is compared with a relay that runs; who only stores, with storing
        own = f"ours{two}" if "insert" in name else f"ours{two}, relay running"
        goal = Goal(">=", (2 if size == 1 else 10) if "dual" in name or "Celery" in name else 1)
        own_figure = f"{figure}{', two processes' if two else ''}{', relay running' if 'relay' in own else ''}"
        rows.append(_row(own_figure, seen[own], size, name, samples, goal))
    return rows


def _row(
    figure: str,
    samples: Sequence[Sample],
    size: int,
    against: str = "",
    reference: Sequence[Sample] = (),
    goal: Goal | None = None,
) -> Row:
    p50, p99, cpu = (median(sample[name] for sample in samples) for name in ("p50", "p99", "load_cpu"))
    return Row(
        figure,
        "req/s" if size == 1 else "items/s",
        [sample["per_second"] for sample in samples],
        against,
        [sample["per_second"] for sample in reference],
        goal,
        f"p50 {p50:.1f} ms, p99 {p99:.0f} ms" + _cpu(samples),
        {"p50": p50, "p99": p99, "load_cpu": cpu, "rounds": samples, "against_rounds": reference},
    )


def _cpu(samples: Sequence[Sample]) -> str:
    """Processor time of our service a check-in, where it was measured."""
    taken = [sample["cpu_us"] for sample in samples if "cpu_us" in sample]
    return f", {median(taken):.0f} us CPU each" if taken else ""


def _drive(bench: Bench, ports: Sequence[int], keys: Sequence[str], size: int) -> Sample:
    return _sample(bench.load(ports, keys, rows=size), size)


def _sample(load: Load, size: int) -> Sample:
    outcome = load.start().outcome()
    return {
        "per_second": outcome.per_second * size,
        "p50": outcome.p50,
        "p99": outcome.p99,
        "load_cpu": outcome.cpu,
    }


def _ours(bench: Bench, service: Service, size: int, ports: Sequence[int], relay: Any = None) -> Sample:
    load = bench.load(ports, service.keys, rows=size)
    cpu = cpu_seconds(service.processes)
    with _running(relay):
        sample = _sample(load, size)
    stored = service.database["checkins"].estimated_document_count()
    cpu_us = (cpu_seconds(service.processes) - cpu) / stored * 1e6
    left = service.database["checkins"].count_documents({"open": True}) if relay else 0
    renew(service.database["checkins"])
    purge(service.world, catalogue.inbox(METRICS))
    return {**sample, "cpu_us": cpu_us, "unpublished_after": left}


@contextlib.contextmanager
def _running(process: Any) -> Iterator[None]:
    if process is None:
        yield
        return
    process.start()
    until(lambda: process.metric("estation_relay_active") == 1, "the relay holds its lease")
    yield
    process.stop()


def _peer(bench: Bench, world: World, peer: "peers.Peer", size: int) -> Sample:
    load = bench.load([peer.port], peer.keys, rows=size)
    with peer.companion():
        sample = _sample(load, size)
        left = peer.left()
    for name in ("checkins", "outbox"):
        renew(peer.database[name])
    purge(world, catalogue.inbox(METRICS))
    peer.forget()
    return {**sample, "undone_after": left}


def _raw(bench: Bench, collection: Collection[Document], size: int) -> Sample:
    """The same documents by bare inserts from threads, acknowledged like ours."""
    facts = Facts(bench.seed())
    templates = facts.documents(SEEN, rows=size)
    threads = RAW_THREADS[size]
    latencies: list[list[float]] = [[] for _ in range(threads)]
    gate = threading.Barrier(threads + 1)

    def work(own: list[float]) -> None:
        source = cycle(templates)
        gate.wait()
        end = time.perf_counter() + bench.options.seconds
        while True:
            documents = [{**next(source), "_id": str(uuid4())} for _ in range(size)]
            begun = time.perf_counter()
            if size == 1:
                collection.insert_one(documents[0])
            else:
                collection.insert_many(documents, ordered=False)
            now = time.perf_counter()
            if now > end:
                return
            own.append(now - begun)

    workers = [threading.Thread(target=work, args=(own,)) for own in latencies]
    for worker in workers:
        worker.start()
    gate.wait()
    for worker in workers:
        worker.join()
    renew(collection)
    together = sorted(latency for own in latencies for latency in own)
    return {
        "per_second": len(together) * size / bench.options.seconds,
        "p50": together[len(together) // 2] * 1000,
        "p99": together[len(together) * 99 // 100] * 1000,
        "load_cpu": 0.0,
    }
