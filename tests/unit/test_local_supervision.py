"""supervisord's configuration as supervisord itself reads it, and what is found of a supervisor that was killed."""

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from supervisor.options import ServerOptions

from deploy.local import supervision
from deploy.local.errors import LauncherError
from deploy.local.layout import Layout
from deploy.local.program import Program, Stage
from deploy.local.supervision import MARK, NAME, STAGE, Supervisor

PROGRAMS = (
    Program("epmd", Stage.NAMES, ("/bin/true",), stop_seconds=5),
    Program("rabbitmq", Stage.STORES, ("/bin/true",)),
    Program("mongod", Stage.STORES, ("/bin/true",)),
    Program("stations", Stage.PROCESSES, ("/bin/true",)),
    Program("caddy", Stage.EDGE, ("/bin/true",)),
)


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Layout]:
    """A system whose path has all that a person may put into a folder's name."""
    made = Layout(tmp_path / "50% 泰安 (e-station),#1;v=2" / "var", {})
    made.prepare()
    yield made
    made.tidy()


def parsed(place: Layout, *programs: Program) -> Any:
    """What supervisord makes of the configuration."""
    path = place.run / "supervisord.conf"
    path.write_text(supervision.configuration(place, programs), encoding="utf-8")
    options = ServerOptions()
    options.realize(["--configuration", str(path)], doc="")
    return options


def test_paths_and_values_come_through_unchanged(place: Layout) -> None:
    command = (f"{place.var}/bin/run it", "--flag", "100%", "a b", "it's", "{127,0,0,1}")
    values = {
        "URL": "amqp://stations:a%2Fb@127.0.0.1:5772/e",
        "ARGS": "-kernel x {127,0,0,1} -y",
        "WHERE": str(place.var),
        "NONE": "",
    }
    options = parsed(place, Program("stations", Stage.PROCESSES, command, environment=values))
    config = options.process_group_configs[0].process_configs[0]
    assert options.pidfile == str(place.run / "supervisord.pid")
    assert options.logfile == str(place.log / "supervisord.log")
    assert config.stdout_logfile == str(place.log / "stations.log")
    assert config.environment == {**values, NAME: "stations", STAGE: "30"}
    assert tuple(shlex.split(config.command)) == command


def test_brokers_stop_last_and_everything_is_restarted_without_end(place: Layout) -> None:
    groups = sorted(parsed(place, *PROGRAMS).process_group_configs, key=lambda group: group.priority)
    assert [[process.name for process in group.process_configs] for group in groups] == [
        ["epmd"],
        ["rabbitmq", "mongod"],
        ["stations"],
        ["caddy"],
    ]
    for process in (process for group in groups for process in group.process_configs):
        assert not process.autostart
        assert process.startretries >= 100_000
        assert process.stopwaitsecs == (5 if process.name == "epmd" else 30)
        assert process.stdout_logfile_maxbytes > 0
        assert process.redirect_stderr


@pytest.mark.parametrize("value", ["a\nb", "a #b", "a ;b", 'a"b', "'a"])
def test_a_value_that_the_format_cannot_carry_is_refused_not_cut(place: Layout, value: str) -> None:
    with pytest.raises(LauncherError, match="holds"):
        supervision.configuration(place, [Program("x", Stage.EDGE, ("/bin/true",), environment={"A": value})])


def test_restarts_are_counted_from_the_last_start_of_the_supervisor(place: Layout) -> None:
    log = place.log / "supervisord.log"
    Path(f"{log}.1").write_text("supervisord started with pid 1\nspawned: 'a' with pid 2\nspawned: 'a' with pid 3\n")
    log.write_text("spawned: 'a' with pid 4\nspawned: 'b' with pid 5\n")
    assert Supervisor(place)._restarts() == {"a": 2, "b": 0}
    log.write_text("spawned: 'a' with pid 4\nsupervisord started with pid 9\nspawned: 'a' with pid 10\n")
    assert Supervisor(place)._restarts() == {"a": 0}


def test_a_supervisor_that_is_gone_is_none_and_says_how_to_mend(place: Layout) -> None:
    assert Supervisor(place).pid() is None
    place.socket.touch()
    assert Supervisor(place).pid() is None
    with pytest.raises(LauncherError, match="estation up"):
        Supervisor(place).states()


def test_orphans_are_found_by_their_mark_alone_parents_only_edge_first(place: Layout) -> None:
    sleeper = "import subprocess, sys; p = subprocess.Popen(['sleep', '60']); print('up', flush=True); p.wait()"

    def start(stage: Stage, name: str, mark: str) -> subprocess.Popen[str]:
        environ = {**os.environ, MARK: mark, NAME: name, STAGE: str(stage.value)}
        process = subprocess.Popen([sys.executable, "-c", sleeper], env=environ, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        return process

    mine = [start(Stage.STORES, "mongod", str(place.var)), start(Stage.EDGE, "caddy", str(place.var))]
    other = start(Stage.EDGE, "caddy", "/another/var")
    try:
        found = supervision.orphans(place)
        assert [(orphan.name, orphan.pid) for orphan in found] == [("caddy", mine[1].pid), ("mongod", mine[0].pid)]
        supervision.end((orphan.pid for orphan in found), seconds=10)
        # their children lost their parents and are found by themselves
        supervision.end((orphan.pid for orphan in supervision.orphans(place)), seconds=10)
        assert supervision.orphans(place) == []
        assert other.poll() is None
    finally:
        for process in (*mine, other):
            process.terminate()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()
        supervision.end((orphan.pid for orphan in supervision.orphans(Layout(Path("/another/var"), {}))), seconds=10)


def test_what_ignores_sigterm_is_killed() -> None:
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print('up', flush=True); time.sleep(60)"
    with subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "up\n"
        supervision.end([process.pid], seconds=0.3)
        assert process.wait(5) == -9
