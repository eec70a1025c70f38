"""What is checked of the machine: ports, space, packages, Python."""

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import bootstrap, debian, doctor, layout, lifecycle, probe
from deploy.local.errors import LauncherError
from deploy.local.layout import Layout


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    made = socket.create_server(("127.0.0.1", 0))
    yield made
    made.close()


def test_a_taken_port_is_told_with_its_holder_and_its_variable(listening: socket.socket) -> None:
    number = listening.getsockname()[1]
    place = layout.read({"ESTATION_EDGE_PORT": str(number)})
    expected = rf"port {number} \(edge\) is taken by \S+ \(pid {os.getpid()}\): .*ESTATION_EDGE_PORT"
    with pytest.raises(LauncherError, match=expected):
        lifecycle.check_port(place, "edge")
    listening.close()
    lifecycle.check_port(place, "edge")


def test_too_little_space_is_told_with_what_is_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lifecycle.check_space(Layout(tmp_path, {}))
    monkeypatch.setattr(lifecycle, "FREE_BYTES", 1 << 60)
    with pytest.raises(LauncherError, match=r"\d+ MB left and needs \d+: .*ESTATION_VAR"):
        lifecycle.check_space(Layout(tmp_path, {}))


def test_a_command_that_fails_is_told_by_its_last_error() -> None:
    with pytest.raises(LauncherError, match=r"sh did not succeed: E: no such package$"):
        debian._run("sh", "-c", "echo W: old >&2; echo E: no such package >&2; echo done; exit 100")


def test_package_lists_are_refreshed_once_and_only_if_needed() -> None:
    calls: list[str] = []

    def act() -> None:
        calls.append("act")
        if "refresh" not in calls:
            raise LauncherError("unable to locate package")

    debian._after_refresh(act, lambda: calls.append("refresh"))
    assert calls == ["act", "refresh", "act"]
    debian._after_refresh(act, lambda: calls.append("again"))
    assert calls[3:] == ["act"]


def test_library_folders_are_those_under_the_unpacked_root(tmp_path: Path) -> None:
    for folder in ("usr/lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu", "usr/lib/erlang"):
        (tmp_path / folder).mkdir(parents=True)
    assert debian.libraries(tmp_path).split(":") == [
        str(tmp_path / "lib/aarch64-linux-gnu"),
        str(tmp_path / "usr/lib/x86_64-linux-gnu"),
    ]
    assert debian.libraries(debian.MACHINE) == ""


def test_bootstrap_refuses_an_old_python_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "OLDEST", (3, 99))
    with pytest.raises(SystemExit, match=r"^Python 3\.\d+\.\d+ does not do, [^\n]+ `make PYTHON=python3\.11 up`$"):
        bootstrap.main("local")


def test_bootstrap_runs_without_anything_installed() -> None:
    command = [
        sys.executable,
        "-I",
        "-S",
        "-c",
        f"import runpy; runpy.run_path({str(bootstrap.__file__)!r}, run_name='x')",
    ]
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0


def test_the_doctor_names_every_port_that_is_taken(listening: socket.socket, tmp_path: Path) -> None:
    environ = {"ESTATION_VAR": str(tmp_path), "ESTATION_EDGE_PORT": str(listening.getsockname()[1])}
    place = layout.read(environ)
    bad = [str(finding) for finding in doctor.examine(place, environ) if finding.bad]
    place.tidy()
    assert any("ESTATION_EDGE_PORT" in line for line in bad)


def test_the_doctor_names_a_setting_that_is_wrong(tmp_path: Path) -> None:
    environ = {"ESTATION_VAR": str(tmp_path), "ESTATION_MODE": "else"}
    place = layout.read(environ)
    found = {finding.name: finding for finding in doctor.examine(place, environ)}
    place.tidy()
    assert found["settings"].bad
    assert "ESTATION_MODE" in found["settings"].mend
    assert not found["python"].bad


def test_who_does_not_answer_and_who_answers_otherwise_are_told_apart(listening: socket.socket) -> None:
    number = listening.getsockname()[1]
    assert probe.tcp_problem("127.0.0.1", number) == ""
    listening.close()
    assert probe.tcp_problem("127.0.0.1", number) == "connection refused"
    assert probe.http_problem(f"http://127.0.0.1:{number}/readyz") == "connection refused"
