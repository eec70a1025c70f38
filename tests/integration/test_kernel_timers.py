"""A timer runs in one process at a time, goes on after a failure, and moves over when its process ends."""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.builders import ID_NUMBER
from tests.kernel import ProbeWorld, failing
from tests.parts import Parts, Process, until


@pytest.fixture
def world(parts: Parts, tmp_path: Path) -> Iterator[ProbeWorld]:
    with contextlib.closing(ProbeWorld(parts, tmp_path)) as made:
        yield made


def ticks(world: ProbeWorld) -> dict[str, int]:
    """How often each process was at it; the holder's name tells its process id."""
    return {row["_id"].split(":")[1]: row["count"] for row in world.database["ticks"].find()}


def pid(process: Process) -> str:
    assert process.popen is not None
    return str(process.popen.pid)


def two(world: ProbeWorld) -> tuple[Process, Process]:
    """One that has the timer, and one that stands by."""
    first = world.service().start()
    until(lambda: ticks(world).get(pid(first), 0) > 2, "the first has the timer")
    return first, world.service().start()


def count(world: ProbeWorld, process: Process) -> int:
    return ticks(world).get(pid(process), 0)


def test_one_of_two_runs_it_and_hands_it_over_at_once_when_it_stops(world: ProbeWorld) -> None:
    first, second = two(world)
    seen = count(world, first)
    until(lambda: count(world, first) > seen + 10, "the first goes on")
    assert set(ticks(world)) == {pid(first)}
    assert first.stop() == 0
    left = count(world, first)
    until(lambda: count(world, second) > 2, "the second takes over", 2)
    assert count(world, first) == left


def test_it_moves_over_when_its_process_dies(world: ProbeWorld) -> None:
    first, second = two(world)
    first.kill()
    left = count(world, first)
    until(lambda: count(world, second) > 2, "the second takes over", 12)
    assert count(world, first) == left


def test_a_failure_of_one_run_is_not_the_timers_end(world: ProbeWorld) -> None:
    world.database["orders"].insert_one({"_id": "fail the timer"})
    process = world.service().start()
    until(lambda: count(world, process) > 3, "it runs again after failures")
    log = process.log.read_text()
    assert "builtins.RuntimeError" in log
    assert ID_NUMBER not in log
    assert process.stop() == 0


def test_it_outlives_a_database_that_fails(world: ProbeWorld) -> None:
    process = world.service().start()
    until(lambda: count(world, process) > 1, "it runs")
    with failing(world.parts.mongodb_url, "estation-probe-service", "find", "update", errorCode=8000):
        until(
            lambda: any(line["event"] == "timer_without_database" for line in process.lines()), "it misses the database"
        )
    seen = count(world, process)
    until(lambda: count(world, process) > seen + 2, "it runs again")
    assert process.stop() == 0
