"""Keeps the processes running: supervisord, its configuration and control, and what a dead one leaves behind.

supervisord restarts a process that dies: at once if it had served a while, otherwise with a pause that grows by a
second at each attempt. Its log rotates, and so does one log a process.
"""

import contextlib
import getpass
import json
import os
import re
import resource
import shlex
import signal
import subprocess
import sys
import time
import xmlrpc.client
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]
from supervisor.xmlrpc import SupervisorTransport

from deploy.local.errors import LauncherError
from deploy.local.layout import PROJECT, Layout
from deploy.local.program import Program, Stage

MARK, NAME, STAGE = "ESTATION_INSTANCE", "ESTATION_PROGRAM", "ESTATION_STAGE"
"""In the environment of every process of a system, its children's too: which system, which program, which stage.

Unlike a pid file it cannot be stale, missing or another's, and it outlives a supervisord that was killed.
"""
RPC = "supervisor.rpcinterface:make_main_rpcinterface"
PREFIX = "ESTATION_"
FILES = 65536
"""Open files and connections that a broker and a database may have; inherited by all."""
START_SECONDS = 3
REMIND_SECONDS = 5.0
ENDLESS = 1_000_000
SUPERVISORD = 99
"""Its place among the stages when a system without control is stopped: first, as it stops the others itself."""
RUNNING, ENDED = ("STARTING", "RUNNING"), ("STOPPED", "EXITED", "FATAL", "UNKNOWN")
SPAWNED = re.compile(r"spawned: '([^']+)' with pid")


@dataclass(frozen=True, slots=True)
class ProcessState:
    """What supervisord knows of one program; ``uptime`` in seconds, 0 if it does not run."""

    name: str
    stage: Stage
    state: str
    pid: int
    uptime: int
    restarts: int

    @property
    def running(self) -> bool:
        """Whether there is a process."""
        return self.state in RUNNING


def configuration(place: Layout, programs: Iterable[Program]) -> str:
    """The text of supervisord.conf.

    Raises:
        LauncherError: a path holds what the format cannot carry.
    """
    programs = tuple(programs)
    sections: list[tuple[str, Mapping[str, object]]] = [
        (
            "supervisord",
            {
                "identifier": "estation",
                "pidfile": _value(place.run / "supervisord.pid"),
                "directory": _value(PROJECT),
                "logfile": _value(place.log / "supervisord.log"),
                "logfile_maxbytes": "10MB",
                "logfile_backups": "1",
                "minfds": "256",
                "umask": "077",
                "nocleanup": "true",
                **({"user": getpass.getuser()} if os.getuid() == 0 else {}),
            },
        ),
        ("unix_http_server", {"file": _value(place.socket), "chmod": "0700"}),
        ("rpcinterface:supervisor", {"supervisor.rpcinterface_factory": RPC}),
    ]
    for stage in Stage:
        members = [program for program in programs if program.stage == stage]
        if members:
            names = ",".join(program.name for program in members)
            sections.append((f"group:{stage.name.lower()}", {"programs": names, "priority": stage.value}))
        sections += [(f"program:{program.name}", _program(place, program)) for program in members]
    return "\n".join(
        f"[{title}]\n" + "".join(f"{name} = {value}\n" for name, value in section.items())
        for title, section in sections
    )


def _program(place: Layout, program: Program) -> dict[str, object]:
    environment = {**program.environment, NAME: program.name, STAGE: str(program.stage.value)}
    return {
        "command": _value(shlex.join(program.command)),
        "directory": _value(PROJECT),
        "environment": ",".join(f"{name}={_quoted(value)}" for name, value in sorted(environment.items())),
        "autostart": "false",
        "autorestart": "true",
        "startsecs": START_SECONDS,
        "startretries": ENDLESS,
        "stopsignal": "TERM",
        "stopwaitsecs": program.stop_seconds,
        "killasgroup": "true",
        "redirect_stderr": "true",
        # supervisord expands this one twice
        "stdout_logfile": _value(place.log / f"{program.name}.log").replace("%", "%%"),
        "stdout_logfile_maxbytes": "20MB",
        "stdout_logfile_backups": "2",
    }


def _value(value: object) -> str:
    """As supervisord reads it back: it expands ``%`` and ends a line at a comment sign after a blank."""
    text = str(value)
    if re.search(r"[\r\n]|\s[;#]|^[;#]|^\s|\s$", text):
        raise LauncherError(
            f"{text!r} holds a line break, or a ; or # after a blank: move the folder, or set ESTATION_VAR"
        )
    return text.replace("%", "%%")


def _quoted(value: str) -> str:
    if '"' in value or value.startswith("'") or value.endswith("'"):
        raise LauncherError(f"{value!r} holds a quotation mark: move the folder, or set ESTATION_VAR")
    return f'"{_value(value)}"'


class Supervisor:
    """The control of one system's supervisord; every call fails with LauncherError if it is not there."""

    def __init__(self, place: Layout) -> None:
        self._place = place
        self._given = place.run / "given.json"

    def pid(self) -> int | None:
        """The supervisord of this system, None if there is none."""
        try:
            return int(self._call("getPID"))
        except LauncherError:
            return None

    def launch(self, programs: Iterable[Program], environ: Mapping[str, str] = os.environ) -> None:
        """Starts supervisord in the background; it starts nothing by itself."""
        path = self._place.run / "supervisord.conf"
        path.touch(mode=0o600)
        path.write_text(configuration(self._place, programs), encoding="utf-8")
        command = [sys.executable, "-m", "supervisor.supervisord", "--configuration", str(path)]
        given = {name: value for name, value in environ.items() if name.startswith(PREFIX)}
        self._given.touch(mode=0o600)
        self._given.write_text(json.dumps({**given, "ESTATION_VAR": str(self._place.var)}), encoding="utf-8")
        environment = {**environ, MARK: str(self._place.var)}
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(
            resource.RLIMIT_NOFILE, (FILES if hard == resource.RLIM_INFINITY else min(FILES, hard), hard)
        )
        done = subprocess.run(command, env=environment, cwd=PROJECT, capture_output=True, text=True, check=False)
        if done.returncode:
            raise LauncherError(f"supervisord does not start: {(done.stderr or done.stdout).strip().splitlines()[-1]}")
        wait(lambda: self.pid() is not None, 10, "supervisord does not answer: see " + str(self._place.log))

    def environ(self, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment with the settings that the running system was started with; another shell may have others."""
        if self.pid() is None:
            return dict(environ)
        ours: dict[str, str] = json.loads(self._given.read_text(encoding="utf-8"))
        return {**{name: value for name, value in environ.items() if not name.startswith(PREFIX)}, **ours}

    def states(self) -> dict[str, ProcessState]:
        """Every program by name."""
        restarts = self._restarts()
        return {
            info["name"]: ProcessState(
                name=info["name"],
                stage=Stage[info["group"].upper()],
                state=info["statename"],
                pid=info["pid"],
                uptime=info["now"] - info["start"] if info["statename"] in RUNNING else 0,
                restarts=restarts.get(info["name"], 0),
            )
            for info in self._call("getAllProcessInfo")
        }

    def start(self, program: Program) -> None:
        """Starts a program without waiting for it."""
        self._call("startProcess", f"{program.stage.name.lower()}:{program.name}", False)

    def stop(self, stage: Stage) -> None:
        """Sends SIGTERM to a stage's processes, and SIGKILL to those that overstay; does not wait."""
        self._call("stopProcessGroup", stage.name.lower(), False)

    def remind(self, state: ProcessState) -> None:
        """Sends SIGTERM again: a broker that is asked to stop while it starts forgets the first one."""
        with contextlib.suppress(LauncherError):  # it may have ended this moment
            self._call("signalProcess", f"{state.stage.name.lower()}:{state.name}", "TERM")

    def shutdown(self) -> None:
        """Ends supervisord, and what still runs."""
        self._call("shutdown")

    def _call(self, method: str, *arguments: object) -> Any:
        transport = SupervisorTransport(None, None, f"unix://{self._place.socket}")
        try:
            with xmlrpc.client.ServerProxy("http://localhost", transport=transport) as proxy:
                return getattr(proxy.supervisor, method)(*arguments)
        except OSError as error:
            raise LauncherError("the supervisor is gone: `estation up` mends that") from error
        except xmlrpc.client.Fault as fault:
            raise LauncherError(f"the supervisor refuses {method}: {fault.faultString}") from fault

    def _restarts(self) -> dict[str, int]:
        """Beyond the first start; supervisord itself keeps no count, but its log does."""
        log = self._place.log / "supervisord.log"
        text = "".join(path.read_text(errors="replace") for path in (Path(f"{log}.1"), log) if path.exists())
        counts: dict[str, int] = {}
        for name in SPAWNED.findall(text.rsplit("supervisord started with pid", 1)[-1]):
            counts[name] = counts.get(name, -1) + 1
        return counts


@dataclass(frozen=True, slots=True)
class Orphan:
    """A process of this system that no supervisord answers for."""

    stage: int
    name: str
    pid: int


def orphans(place: Layout) -> list[Orphan]:
    """What a killed supervisord left behind, in the order to stop it in; only to be asked if there is no supervisord.

    Children of these processes are left out: they end with their parents.
    """
    found: dict[int, Orphan] = {}
    parents: dict[int, int] = {}
    for process in psutil.process_iter():
        try:
            environ = process.environ()
            if environ.get(MARK) == str(place.var) and process.status() != psutil.STATUS_ZOMBIE:
                stage, name = int(environ.get(STAGE, SUPERVISORD)), environ.get(NAME, "supervisord")
                found[process.pid], parents[process.pid] = Orphan(stage, name, process.pid), process.ppid()
        except psutil.Error:
            continue
    heads = (orphan for pid, orphan in found.items() if parents[pid] not in found)
    return sorted(heads, key=lambda orphan: -orphan.stage)


def end(pids: Iterable[int], seconds: float) -> None:
    """Ends processes: SIGTERM, and SIGKILL to those that are still there after some seconds."""
    pids = list(pids)
    for number, patience in ((signal.SIGTERM, seconds), (signal.SIGKILL, 5.0)):
        deadline = time.monotonic() + patience
        reminded = float("-inf")
        while (left := [pid for pid in pids if alive(pid)]) and time.monotonic() < deadline:
            if time.monotonic() - reminded > REMIND_SECONDS:
                reminded = time.monotonic()
                for pid in left:
                    with contextlib.suppress(ProcessLookupError):
                        os.kill(pid, number)
            time.sleep(0.1)


def alive(pid: int) -> bool:
    """Whether a process still does anything; one that is merely not yet reaped does not."""
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return False


def holder(port: int) -> str:
    """Which process listens on a port, if this user may know."""
    try:
        listening = psutil.net_connections(kind="tcp")
    except psutil.AccessDenied:
        listening = []
    for connection in listening:
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port and connection.pid:
            try:
                return f"{psutil.Process(connection.pid).name()} (pid {connection.pid})"
            except psutil.Error:
                break
    return "another process"


def wait(condition: Callable[[], bool], seconds: float, problem: str) -> None:
    """Returns when the condition holds.

    Raises:
        LauncherError: with the problem, when time is up.
    """
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise LauncherError(problem)
        time.sleep(0.1)
