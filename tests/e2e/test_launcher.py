"""`estation up` for real: beside whatever else runs, in a folder whose path has a space, killed in every way."""

import contextlib
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from deploy.local import layout, lifecycle, probe, status, supervision, system
from deploy.local.errors import LauncherError
from deploy.local.layout import OFFSET, PROJECT, Layout
from deploy.local.rabbitmq import ADMIN
from deploy.local.status import Process, Status
from deploy.run import PUBLISHERS, SERVICES
from services.kernel.topology import Management

CTRL_C = b"\x03"


@dataclass(frozen=True)
class Launched:
    """One system under test."""

    place: Layout
    environ: dict[str, str]

    @property
    def command(self) -> list[str]:
        """The launcher, as `make` calls it."""
        return [sys.executable, "-m", "deploy.cli"]

    def estation(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Runs a command to its end."""
        return subprocess.run(
            [*self.command, *arguments], env=self.environ, cwd=PROJECT, capture_output=True, text=True, timeout=120
        )

    def status(self) -> Status:
        """What `estation status` finds."""
        return status.read(*system.as_running(self.environ))

    def process(self, name: str) -> Process:
        """One process of the status."""
        return next(process for process in self.status().processes if process.name == name)

    def pids(self) -> dict[str, int]:
        """Of every process."""
        return {process.name: process.pid for process in self.status().processes}

    def left(self) -> list[str]:
        """Programs that still run, supervised or not."""
        return [orphan.name for orphan in supervision.orphans(self.place)]


def await_(condition: Callable[[], bool], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.1)


def free_offset() -> int:
    """An offset at which no port of the table is taken."""
    for offset in range(2000, 5600, 90):
        with contextlib.suppress(LauncherError):
            place = layout.read({OFFSET: str(offset)})
            for name in place.ports:
                lifecycle.check_port(place, name)
            return offset
    raise AssertionError("no offset with free ports")


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Launched]:
    """A system that is up."""
    environ = {name: value for name, value in os.environ.items() if not name.startswith("ESTATION_")}
    environ |= {
        "ESTATION_VAR": str(tmp_path_factory.mktemp("launcher") / "泰安 e-station 50%" / "var"),
        OFFSET: str(free_offset()),
    }
    made = Launched(layout.read(environ), environ)
    up = made.estation("up", "--no-seed")
    try:
        assert up.returncode == 0, up.stdout + up.stderr
        assert "background" in up.stdout
        yield made
    finally:
        down = made.estation("down")
    assert "E-Station is down." in down.stdout
    assert made.left() == []
    assert not made.place.runtime.exists()


@pytest.fixture
def second(launched: Launched, tmp_path: Path) -> Iterator[Launched]:
    """A system beside the first, on the broker and the database of the first: an address given by the environment."""
    broker, mongodb_url = system.addresses(launched.place, launched.environ)
    management = Management(broker.api)
    management.call("PUT", "/vhosts/second", {})
    management.call("PUT", f"/permissions/second/{ADMIN}", {"configure": ".*", "write": ".*", "read": ".*"})
    environ = {
        **launched.environ,
        "ESTATION_VAR": str(tmp_path / "second var"),
        OFFSET: str(free_offset()),
        "ESTATION_RABBITMQ_URL": f"amqp://{broker.host}:{broker.port}/second",
        "ESTATION_RABBITMQ_API": broker.api,
        "ESTATION_MONGODB_URL": mongodb_url,
        "ESTATION_MONGODB_PREFIX": "second_",
    }
    made = Launched(layout.read(environ), environ)
    made.place.prepare()
    # one broker, so one password a user
    users = made.place.secrets / "rabbitmq-users.json"
    users.write_text((launched.place.secrets / users.name).read_text())
    yield made
    lifecycle.down(made.place)


def test_up_returns_when_every_part_serves(launched: Launched) -> None:
    told = launched.estation("status", "--json")
    assert told.returncode == 0, told.stdout
    found = json.loads(told.stdout)
    names = {process["name"] for process in found["processes"] if process["state"] in {"running", "starting"}}
    ours = {*SERVICES, *(f"relay-{name}" for name in PUBLISHERS), "aggregator", "sealer"}
    assert names == {"epmd", "rabbitmq", "mongod", *ours, "caddy"}
    assert found["ok"]


def test_a_second_up_changes_nothing_and_says_so(launched: Launched) -> None:
    before = launched.pids()
    again = launched.estation("up")
    assert again.returncode == 0
    assert "already up" in again.stdout
    assert launched.pids() == before


def test_status_knows_the_ports_whatever_this_shell_says(launched: Launched) -> None:
    other = Launched(launched.place, {**launched.environ, OFFSET: "0"})
    assert other.status().ok
    refused = other.estation("up")
    assert refused.returncode == 1
    assert "other settings" in refused.stderr


def test_another_system_on_the_same_ports_is_refused_in_one_line(launched: Launched, tmp_path: Path) -> None:
    refused = Launched(launched.place, {**launched.environ, "ESTATION_VAR": str(tmp_path / "var")}).estation("up")
    assert refused.returncode == 1
    assert refused.stderr.count("\n") == 1
    assert "(pid " in refused.stderr
    assert "ESTATION_EPMD_PORT" in refused.stderr
    assert launched.status().ok


def test_the_edge_shows_no_ops_endpoint_and_caps_bodies(launched: Launched) -> None:
    edge = f"http://127.0.0.1:{launched.place.ports['edge']}"
    for path in ("/livez", "/readyz", "/metrics", "/metrics/x"):
        answer = probe.get(edge + path)
        assert answer.status == 404
        assert json.loads(answer.body)["code"] == "not_found"
    assert probe.get(f"{edge}/api/v1/stations/openapi.json").status == 200
    body = ["--header", "Content-Type: application/json", "--data-binary", "@-"]
    sent = subprocess.run(
        ["curl", "--silent", *body, f"{edge}/api/v1/stations/checkins?secret=3"],
        input=b" " * 2_000_000,
        capture_output=True,
    )
    # which of the two refuses first is the network's choice
    assert json.loads(sent.stdout)["code"] in {"too_large", "unauthenticated"}
    await_(lambda: "/stations/checkins" in (launched.place.log / "caddy.log").read_text())
    lines = (launched.place.log / "caddy.log").read_text().splitlines()
    logged = next(json.loads(line) for line in lines if "/stations/checkins" in line)
    assert logged["bytes_read"] < 1_100_000
    assert not any("secret" in line for line in lines)


@pytest.mark.parametrize("name", ["aggregator", "mongod"])
def test_what_is_killed_is_restarted_and_status_tells(launched: Launched, name: str) -> None:
    before = launched.process(name)
    os.kill(before.pid, signal.SIGKILL)
    await_(lambda: launched.process(name).pid not in {0, before.pid})
    await_(lambda: launched.status().ok)
    assert launched.process(name).restarts == before.restarts + 1


def test_a_killed_supervisor_is_mended_and_ctrl_c_twice_leaves_nothing(second: Launched) -> None:
    assert second.estation("up", "--no-seed").returncode == 0
    before = second.pids()
    assert {"rabbitmq", "mongod"}.isdisjoint(before)
    os.kill(int((second.place.run / "supervisord.pid").read_text()), signal.SIGKILL)
    told = second.estation("status")
    assert told.returncode == 1
    assert f"{len(before)} processes" in told.stdout
    with terminal([*second.command, "up", "--no-seed"], second.environ) as (process, screen):
        screen.until("Ctrl-C stops everything.")
        assert "lost their supervisor" in screen.text
        assert second.status().ok
        screen.type(CTRL_C)
        screen.until("caddy stopped", after="Ctrl-C stops everything.")
        screen.type(CTRL_C)
        screen.until("E-Station is down.")
        assert process.wait(30) == 0
    assert second.left() == []
    assert not second.place.runtime.exists()


class Screen:
    """What a terminal shows, and its keyboard."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.text = ""

    def until(self, marker: str, after: str = "") -> None:
        """Reads on until the marker has come; the test's own time limit ends a vain wait."""
        while marker not in self.text.partition(after)[2] if after else marker not in self.text:
            try:
                chunk = os.read(self._descriptor, 4096)
            except OSError:  # the other side has closed
                chunk = b""
            assert chunk, self.text
            self.text += chunk.decode()

    def type(self, keys: bytes) -> None:
        """Presses keys."""
        os.write(self._descriptor, keys)


@contextlib.contextmanager
def terminal(command: list[str], environ: dict[str, str]) -> Iterator[tuple[subprocess.Popen[bytes], Screen]]:
    """Runs a command as one does by hand: with a terminal whose Ctrl-C reaches it as SIGINT."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        ["setsid", "--ctty", "--wait", *command], env=environ, cwd=PROJECT, stdin=theirs, stdout=theirs, stderr=theirs
    ) as process:
        os.close(theirs)
        try:
            yield process, Screen(ours)
        finally:
            process.kill()
            os.close(ours)
