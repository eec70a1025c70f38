"""How much memory each of our processes takes: just started, and the most while devices post as fast as they can."""

import time
from collections.abc import Mapping
from typing import Final

import psutil  # type: ignore[import-untyped]

from tests.bench.latency import system
from tests.bench.rows import Goal, Row
from tests.bench.scene import Bench
from tests.parts import Process

IDLE, LOADED = Goal("<", 90), Goal("<", 200)
MIB: Final = 2**20
ROWS: Final = 100
LOOK_SECONDS: Final = 0.25


def memory(bench: Bench) -> list[Row]:
    """PSS (what is shared with others counted in part) and RSS of each process."""
    with system(bench) as (service, _aggregator, _database):
        board = service.world.process("service", "metrics").start()
        processes = {" ".join(one.role): one for one in (*service.world.processes[:-1], board)}
        idle = _taken(processes)
        load = bench.load(service.ports, service.keys, rows=ROWS, seconds=3 * bench.options.seconds).start()
        loaded = idle
        while not load.ended:
            now = _taken(processes)
            loaded = {name: max(loaded[name], now[name]) for name in processes}
            time.sleep(LOOK_SECONDS)
        load.outcome()
    return [
        Row(f"memory, {name}, {when}", "MiB", [pss], goal=goal, note=f"RSS {rss:.0f}")
        for name in processes
        for when, (pss, rss), goal in (("idle", idle[name], IDLE), ("loaded", loaded[name], LOADED))
    ]


def _taken(processes: Mapping[str, Process]) -> dict[str, tuple[float, float]]:
    return {name: _of(process) for name, process in processes.items()}


def _of(process: Process) -> tuple[float, float]:
    """(PSS, RSS) in MiB."""
    assert process.popen is not None
    found = psutil.Process(process.popen.pid).memory_full_info()
    return found.pss / MIB, found.rss / MIB
