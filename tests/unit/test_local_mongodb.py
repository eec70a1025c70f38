"""The mongod of the wheel: whether it can run here."""

from pathlib import Path

import pytest

from deploy.local import layout, mongodb
from deploy.local.errors import LauncherError


def test_the_wheels_mongod_has_all_its_libraries_here() -> None:
    place = layout.read()
    mongod, library_path = mongodb.provide(place)
    assert mongodb.missing_libraries(mongod, library_path) == []


def test_a_library_that_the_machine_lacks_is_named(tmp_path: Path) -> None:
    changed = tmp_path / "mongod"
    changed.write_bytes(mongodb.binary().read_bytes().replace(b"libcurl.so.4", b"libnone.so.4"))
    changed.chmod(0o755)
    assert mongodb.missing_libraries(changed) == ["libnone.so.4"]


def test_nobody_there_is_said_in_one_short_line() -> None:
    problem = mongodb.problem("mongodb://127.0.0.1:9/?directConnection=true&connectTimeoutMS=200")
    assert problem
    assert "\n" not in problem
    assert len(problem) <= 200


def test_the_node_keeps_to_loopback_and_to_a_bounded_cache(tmp_path: Path) -> None:
    place = layout.read({"ESTATION_VAR": str(tmp_path), "ESTATION_MONGODB_PORT": "27555"})
    program = mongodb.program(place, Path("/m m/mongod"), "")
    assert program.command[0] == "/m m/mongod"
    options = dict(zip(program.command, program.command[1:], strict=False))
    assert options["--bind_ip"] == "127.0.0.1"
    assert options["--port"] == "27555"
    assert float(options["--wiredTigerCacheSizeGB"]) <= 0.5
    assert program.environment == {}


def test_a_set_without_an_answer_is_refused_with_its_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mongodb, "START_SECONDS", 0.2)
    place = layout.read({"ESTATION_VAR": str(tmp_path), "ESTATION_MONGODB_PORT": "9"})
    with pytest.raises(LauncherError, match=r"mongod\.log"):
        mongodb.initiate(place)
