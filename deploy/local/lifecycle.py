"""Up and down: what is started and stopped in which order, and what is checked before."""

import contextlib
import fcntl
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from deploy.local import mongodb, probe, supervision, system
from deploy.local.errors import LauncherError
from deploy.local.layout import OFFSET, PORTS, PROJECT, Layout
from deploy.local.program import Stage
from deploy.local.progress import WIDTH, say, step
from deploy.local.supervision import ENDED, ProcessState, Supervisor
from deploy.local.system import System

READY_SECONDS = 90
FREE_BYTES = 1 << 30
TRIES = 3
"""So many starts without success end `estation up`; once up, a process is restarted without end."""


def up(
    place: Layout, environ: Mapping[str, str], *, seed: bool = True, change: Callable[[System], System] | None = None
) -> System:
    """Starts what does not run yet, stage by stage, each ready before the next. If that fails, all is as before.

    ``change``: what a test puts between the parts.

    Raises:
        LauncherError: it could not be started; says why.
    """
    place.prepare()
    with alone(place):
        supervisor = Supervisor(place)
        fresh = supervisor.pid() is None
        if fresh:
            check_space(place)
            sweep(place)
        with step("parts and packages"):
            parts = system.assemble(place, environ)
            parts = change(parts) if change else parts
        if fresh:
            for port in (port for program in parts.programs for port in program.ports):
                check_port(place, port)
        else:
            check_same(place, parts)
            if all(state.running for state in supervisor.states().values()):
                say("E-Station is already up.")
                return parts
        try:
            if fresh:
                supervisor.launch(parts.programs, environ)
            _start(supervisor, parts, environ, seed=seed)
        except BaseException:
            if fresh:
                say("  stopping what was started")
                _stop(place, supervisor)
            raise
        return parts


def down(place: Layout) -> bool:
    """Stops everything in the reverse order, brokers last, and supervisord too; False if nothing ran."""
    if not place.run.exists():
        return False
    with alone(place):
        supervisor = Supervisor(place)
        if supervisor.pid() is not None:
            _stop(place, supervisor)
            return True
        found = sweep(place)
        place.tidy()
        return found


def check_space(place: Layout) -> None:
    """Refuses to start on a disk that is nearly full: the broker and the database would stop in the middle."""
    free = shutil.disk_usage(place.var).free
    if free < FREE_BYTES:
        raise LauncherError(
            f"{place.var} has {free >> 20} MB left and needs {FREE_BYTES >> 20}: free some, or move ESTATION_VAR"
        )


def check_port(place: Layout, name: str) -> None:
    """Refuses to start where a port is taken, naming it, its holder, and the variable that moves it."""
    number, variable = place.ports[name], PORTS[name].variable
    with socket.socket() as tried:
        tried.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            tried.bind((probe.LOOPBACK, number))
        except PermissionError as error:
            raise LauncherError(f"port {number} ({name}) is for root only: set {variable} to one above 1023") from error
        except OSError as error:
            raise LauncherError(
                f"port {number} ({name}) is taken by {supervision.holder(number)}: "
                f"stop that, or set {variable} to a free port (or {OFFSET} to move all)"
            ) from error


def check_same(place: Layout, parts: System) -> None:
    """Refuses to take a system that runs on other ports or addresses for the one that is asked for."""
    conf = place.run / "supervisord.conf"
    if not conf.exists() or conf.read_text(encoding="utf-8") != supervision.configuration(place, parts.programs):
        raise LauncherError("E-Station is up with other settings: `estation down` first")


def sweep(place: Layout) -> bool:
    """Stops what a killed supervisord left behind; False if there is nothing."""
    left = supervision.orphans(place)
    if not left:
        return False
    say(f"{len(left)} processes of an earlier run have lost their supervisor: stopping them")
    for stage in sorted({orphan.stage for orphan in left}, reverse=True):
        members = [orphan for orphan in left if orphan.stage == stage]
        with step(", ".join(orphan.name for orphan in members) + " stopped"):
            supervision.end((orphan.pid for orphan in members), seconds=60)
    # what a dead parent did not take along
    supervision.end((orphan.pid for orphan in supervision.orphans(place)), seconds=5)
    return True


@contextlib.contextmanager
def alone(place: Layout) -> Iterator[None]:
    """Two commands never start and stop the same system at once.

    Raises:
        LauncherError: another one is at it.
    """
    with (place.run / "lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise LauncherError("another `estation up` or `down` is at work on this system: wait for it") from error
        yield


def _start(supervisor: Supervisor, parts: System, environ: Mapping[str, str], *, seed: bool) -> None:
    command_environment = {**environ, **system.settings(parts.layout, environ)}
    checks = system.checks(parts.layout, parts.broker, parts.mongodb_url)
    for stage in Stage:
        if stage == Stage.PROCESSES:
            with step("topology and indexes"):
                _command("migrate", command_environment)
        started = time.monotonic()
        programs = parts.stage(stage)
        states = supervisor.states()
        for program in programs:
            if not states[program.name].running:
                supervisor.start(program)
        for program in programs:
            with step(program.name):
                if program.name == "mongod":
                    mongodb.initiate(parts.layout)
                _await(supervisor, parts.layout, states[program.name], checks[program.name], started)
    if seed:
        with step("demo data"):
            _command("seed", command_environment)


def _await(
    supervisor: Supervisor, place: Layout, before: ProcessState, check: Callable[[], str], started: float
) -> None:
    name, log = before.name, place.log / f"{before.name}.log"
    while problem := check():
        state = supervisor.states()[name]
        if state.restarts >= before.restarts + TRIES or state.state == "FATAL":
            raise LauncherError(f"{name} does not start: {_last_line(log)} ({log})")
        if time.monotonic() - started > READY_SECONDS:
            raise LauncherError(f"{name} is not ready after {READY_SECONDS} s: {problem} ({log})")
        time.sleep(0.1)


def _stop(place: Layout, supervisor: Supervisor) -> None:
    with _undisturbed():
        pid = supervisor.pid()
        if pid is not None:
            try:
                for stage in reversed(Stage):
                    _stop_stage(supervisor, stage)
                supervisor.shutdown()
                supervision.wait(lambda: not supervision.alive(pid), 30, "supervisord does not end")
            except LauncherError as error:
                say(f"  {error.message}")
        sweep(place)
        place.tidy()


def _stop_stage(supervisor: Supervisor, stage: Stage) -> None:
    started = time.monotonic()
    waiting = {name for name, state in supervisor.states().items() if state.stage == stage and state.state not in ENDED}
    if waiting:
        supervisor.stop(stage)
    reminded = started
    while waiting:
        states = supervisor.states()
        for name in sorted(name for name in waiting if states[name].state in ENDED):
            say(f"  {name + ' stopped':<{WIDTH}}{time.monotonic() - started:6.1f} s")
            waiting.remove(name)
        if time.monotonic() - reminded > supervision.REMIND_SECONDS:
            reminded = time.monotonic()
            for name in waiting:
                supervisor.remind(states[name])
        time.sleep(0.1)


@contextlib.contextmanager
def _undisturbed() -> Iterator[None]:
    """A second Ctrl-C, or a terminal that closes, must not leave half a system behind."""
    signals = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.signal(number, lambda *_: say("  stopping; the brokers go last")) for number in signals]
    try:
        yield
    finally:
        for number, handler in zip(signals, before, strict=True):
            signal.signal(number, handler)


def _command(name: str, environ: Mapping[str, str]) -> None:
    """Runs a command of ours as the user would."""
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", name],
        cwd=PROJECT,
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        said = (done.stderr + done.stdout).strip().splitlines() or ["it gave no reason"]
        raise LauncherError(f"`estation {name}` did not succeed: {said[-1]}")


def _last_line(log: Path) -> str:
    if not log.exists():
        return "it wrote nothing"
    lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it wrote nothing"
