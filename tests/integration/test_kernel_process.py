"""How a process starts, says that it is ready, and ends."""

import contextlib
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.kernel import ProbeWorld
from tests.parts import Parts, Process, free_port, until


@pytest.fixture
def world(parts: Parts, tmp_path: Path) -> Iterator[ProbeWorld]:
    with contextlib.closing(ProbeWorld(parts, tmp_path)) as made:
        yield made


def logged(process: Process, message: str) -> list[dict[str, object]]:
    return [line for line in process.lines() if line["event"] == message]


def ended(process: Process, seconds: float = 20) -> int:
    assert process.popen is not None
    return process.popen.wait(seconds)


def catches_sigterm(process: Process) -> bool:
    """What the kernel says of its signal handlers."""
    assert process.popen is not None
    status = dict(line.split(":", 1) for line in Path(f"/proc/{process.popen.pid}/status").read_text().splitlines())
    return bool(int(status["SigCgt"], 16) >> (signal.SIGTERM - 1) & 1)


@pytest.mark.parametrize("role", ["service", "relay"])
def test_sigterm_while_idle_ends_it_with_0(world: ProbeWorld, role: str) -> None:
    process = world.process(role, "probe").start()
    assert process.stop() == 0
    assert logged(process, "stopped")


@pytest.mark.parametrize("role", ["service", "relay"])
def test_sigterm_while_it_waits_for_the_database_ends_it_with_0(world: ProbeWorld, role: str) -> None:
    nowhere = f"mongodb://127.0.0.1:{free_port()}/?replicaSet=estation"
    process = world.process(role, "probe", ESTATION_MONGODB_URL=nowhere).start(ready=False)
    until(lambda: catches_sigterm(process), "it has got so far")
    assert process.stop() == 0
    assert not logged(process, "process_died")


@pytest.mark.parametrize("role", ["service", "relay"])
def test_a_port_that_is_taken_ends_it_with_one_line(world: ProbeWorld, role: str) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        process = world.process(role, "probe", ESTATION_OPS_PORT=port).start(ready=False)
        assert ended(process) == 1
    assert process.log.read_text().splitlines()[-1].startswith(f"ESTATION_OPS_PORT: {port} on 127.0.0.1 cannot be")


@pytest.mark.parametrize("role", ["service", "relay"])
def test_what_breaks_its_loop_ends_it_with_1_and_without_its_text(world: ProbeWorld, role: str) -> None:
    """A lease that is none: neither timer nor relay knows how to go on, and a supervisor must see it."""
    process = world.process(role, "probe").start()
    name = "timer tick" if role == "service" else "relay"
    world.database["leases"].replace_one({"_id": name}, {"holder": "nobody"}, upsert=True)
    assert ended(process) == 1
    assert logged(process, "process_died")
    assert all(line.startswith("{") for line in process.log.read_text().splitlines())


def test_a_service_without_a_method_for_an_event_refuses_to_start_and_names_it(world: ProbeWorld) -> None:
    process = world.process("deaf", "probe").start(ready=False)
    assert ended(process) == 1
    (line,) = logged(process, "events_without_method")
    assert line["events"] == ["probe.level_set.v1"]
