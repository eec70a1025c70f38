"""Where a process spends its time: a sampling profiler looks into it from outside while it works as in the figures.

py-spy, because it neither slows the process nor trips over eventlet's threads. Shares are of the samples in which a
thread ran (it skips threads that wait): ``self`` is the function alone, ``with callees`` it and all it calls.
"""

import subprocess
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Final

from services.kernel.outbox import INDEX
from tests.bench import aggregation, peers
from tests.bench.scene import Bench, Facts, Service, stations_database
from tests.parts import PROJECT, Process, until

SAMPLES_PER_SECOND: Final = 250
TOP: Final = 25


def profile(bench: Bench, name: str) -> str:
    """The functions with the largest shares, as a table of text."""
    folded = bench.folder / "folded.txt"
    PROFILES[name](bench, folded)
    return _report(folded.read_text())


@contextmanager
def _watched(process: Process, folded: Path) -> Iterator[None]:
    """Samples a process until the block ends. It is our child's sibling: the system may forbid to look into it."""
    assert process.popen is not None
    command = (
        *(str(peers.environment(peers.PROFILE) / "py-spy"), "record", "--pid", str(process.popen.pid), "--nonblocking"),
        *("--rate", str(SAMPLES_PER_SECOND), "--format", "raw", "--output", str(folded), "--duration", "unlimited"),
    )
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as spy:
        try:
            yield
        finally:
            spy.send_signal(2)
            _out, told = spy.communicate(timeout=60)
    if not folded.exists():
        raise SystemExit(f"py-spy could not look into the process: {told.strip()[-300:]}")


def _ingestion(rows: int, bench: Bench, folded: Path) -> None:
    with bench.world() as world:
        service = Service(world)
        load = bench.load(service.ports, service.keys, rows=rows, seconds=3 * bench.options.seconds)
        with _watched(service.processes[0], folded):
            load.start().outcome()
        service.close()


def _relay(bench: Bench, folded: Path) -> None:
    documents = Facts(bench.seed()).documents(bench.options.fill, rows=20)
    with bench.world() as world:
        database = stations_database(world)
        collection = database["checkins"]
        process = world.process("relay", "stations").start()
        until(lambda: process.metric("estation_relay_active") == 1, "the relay holds its lease")
        with _watched(process, folded):
            for start in range(0, len(documents), 5000):
                collection.insert_many(documents[start : start + 5000])
            until(lambda: collection.find_one({"open": True}, hint=INDEX) is None, "all is published", 120)
        database.client.close()


def _aggregator(bench: Bench, folded: Path) -> None:
    events = Facts(bench.seed()).events(bench.options.fill)
    with bench.world() as world, ExitStack() as stack:
        database = aggregation.database_of(world, stack)
        with _watched(world.process("aggregator").start(), folded):
            aggregation.publish(world, events)
            until(lambda: aggregation.applied(database) == len(events), "all is applied", 120)


PROFILES: Final[dict[str, Callable[[Bench, Path], None]]] = {
    "single": partial(_ingestion, 1),
    "batch": partial(_ingestion, 100),
    "relay": _relay,
    "aggregator": _aggregator,
}


def _report(folded: str) -> str:
    alone: Counter[str] = Counter()
    within: Counter[str] = Counter()
    for line in folded.splitlines():
        stack, _, count = line.rpartition(" ")
        frames = [_short(frame) for frame in stack.split(";")]
        alone[frames[-1]] += int(count)
        for frame in set(frames):
            within[frame] += int(count)
    total = sum(alone.values())
    lines = [f"{total:,} samples", "", "   self  function"]
    lines += [f"{count / total:7.1%}  {frame}" for frame, count in alone.most_common(TOP)]
    lines += ["", "with callees  function"]
    lines += [f"{count / total:12.1%}  {frame}" for frame, count in within.most_common(2 * TOP)]
    return "\n".join(lines)


def _short(frame: str) -> str:
    """``function (file:line)`` without the line: one entry a function."""
    name, _, place = frame.partition(" (")
    return f"{name} ({place.split(':')[0].removeprefix(str(PROJECT) + '/').removesuffix(')')})"
