"""The list of processes: who gets which settings, in which order."""

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
from click.testing import CliRunner

from deploy.local import commands, credentials, layout, lifecycle, system
from deploy.local.errors import LauncherError
from deploy.local.layout import Layout
from deploy.local.program import Stage
from deploy.local.status import Process, Status, Store, as_json, as_text
from deploy.run import PUBLISHERS, SERVICES

GIVEN = {
    "ESTATION_RABBITMQ_URL": "amqp://broker:5700/city",
    "ESTATION_RABBITMQ_API": "http://boss:word@broker:15700",
    "ESTATION_MONGODB_URL": "mongodb://db:27000/?replicaSet=x",
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Layout]:
    made = layout.read({"ESTATION_VAR": str(tmp_path / "a b")})
    yield made
    made.tidy()


def test_with_given_stores_only_our_own_processes_are_started(place: Layout) -> None:
    parts = system.assemble(place, GIVEN)
    assert {program.name for program in parts.programs} == {
        *SERVICES,
        *(f"relay-{name}" for name in PUBLISHERS),
        "aggregator",
        "sealer",
        "caddy",
    }
    assert parts.mongodb_url == GIVEN["ESTATION_MONGODB_URL"]


def test_the_edge_opens_last_and_every_program_can_be_asked(place: Layout) -> None:
    parts = system.assemble(place, GIVEN)
    assert [program.name for program in parts.stage(Stage.EDGE)] == ["caddy"]
    assert max(Stage) == Stage.EDGE
    assert min(Stage) == Stage.NAMES
    assert {program.name for program in parts.programs} <= set(system.checks(place, parts.broker, parts.mongodb_url))
    assert all(port in place.ports for program in parts.programs for port in program.ports)


def test_each_process_has_its_own_service_user_and_no_administrative_setting(place: Layout) -> None:
    parts = system.assemble(place, GIVEN)
    secrets = credentials.ensure(place)
    owner = dict(zip(SERVICES, SERVICES, strict=True)) | {f"relay-{name}": name for name in PUBLISHERS}
    owner["aggregator"] = "metrics"
    for program in parts.stage(Stage.PROCESSES):
        user = owner.get(program.name)  # the sealer needs no broker
        url = program.environment["ESTATION_RABBITMQ_URL"]
        assert url == (f"amqp://{user}:{secrets.rabbitmq_users[user]}@broker:5700/city" if user else "")
        assert program.environment["ESTATION_RABBITMQ_API"] == ""
        assert program.environment["ESTATION_RABBITMQ_PASSWORDS"] == ""
        assert program.environment["ESTATION_OPS_PORT"] == str(place.ports[f"{program.name}-ops"])


def test_commands_are_given_the_administrators_address_and_the_users_passwords(place: Layout) -> None:
    found = system.settings(place, GIVEN)
    assert found["ESTATION_RABBITMQ_API"] == "http://boss:word@broker:15700"
    assert set(json.loads(Path(found["ESTATION_RABBITMQ_PASSWORDS"]).read_text())) == set(SERVICES)
    own = system.settings(place, {})
    assert own["ESTATION_RABBITMQ_URL"].startswith("amqp://admin:")
    assert own["ESTATION_RABBITMQ_URL"].endswith(f"@127.0.0.1:{place.ports['rabbitmq']}/estation")
    assert own["ESTATION_MONGODB_URL"] == f"mongodb://127.0.0.1:{place.ports['mongod']}/?replicaSet=estation"


def test_a_commands_environment_is_filled_but_never_overruled(place: Layout) -> None:
    system.settings(place, {})
    environ = {"ESTATION_VAR": str(place.var), "ESTATION_MONGODB_URL": "mongodb://mine/"}
    system.fill(environ)
    assert environ["ESTATION_MONGODB_URL"] == "mongodb://mine/"
    assert environ["ESTATION_EDGE_URL"] == "http://127.0.0.1:8080"


@pytest.mark.parametrize("mode", ["production", "local"])
def test_nothing_is_filled_in_production_or_before_the_first_start(place: Layout, mode: str) -> None:
    environ = {"ESTATION_VAR": str(place.var), "ESTATION_MODE": mode}
    if mode == "production":
        system.settings(place, {})
    system.fill(environ)
    assert environ == {"ESTATION_VAR": str(place.var), "ESTATION_MODE": mode}


def test_two_commands_never_work_on_one_system_at_once(place: Layout) -> None:
    place.prepare()
    with lifecycle.alone(place), pytest.raises(LauncherError, match="at work"), lifecycle.alone(place):
        pass
    with lifecycle.alone(place):
        pass


def test_down_and_status_of_a_system_that_is_not_up_say_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ESTATION_VAR", str(tmp_path / "var"))
    runner = CliRunner()
    down = runner.invoke(commands.down)
    assert (down.exit_code, down.output) == (0, "E-Station was not up.\n")
    status = runner.invoke(commands.status)
    assert (status.exit_code, status.output) == (1, "E-Station is not up: `estation up` starts it\n")
    assert not (tmp_path / "var").exists()


def _process(problem: str = "") -> Process:
    return Process("stations", "running", 7, 3725, 2, problem)


STORE = Store("127.0.0.1:1", "X 1", "")


@pytest.mark.parametrize(
    ("status", "ok"),
    [
        (Status(up=True, processes=[_process()], broker=STORE, database=STORE), True),
        (Status(up=True, processes=[_process("answers 503")], broker=STORE, database=STORE), False),
        (Status(up=True, processes=[_process()], broker=Store("a", "", "refused"), database=STORE), False),
        (Status(up=True, processes=[_process()], broker=STORE, database=Store("a", "", "refused")), False),
        (Status(up=False, processes=[]), False),
        (Status(up=False, processes=[], orphans=3), False),
    ],
)
def test_all_is_well_only_if_every_part_is(status: Status, ok: bool) -> None:
    assert status.ok is ok
    assert json.loads(as_json(status))["ok"] is ok
    assert ("all is well" in as_text(status).splitlines()) is ok


def test_the_table_tells_uptime_restarts_and_the_problem() -> None:
    text = as_text(
        Status(up=True, processes=[_process("answers 503")], queues={"q": 4, "empty": 0}, outbox={"stations": 9})
    )
    assert "1:02:05" in text
    assert "answers 503" in text
    assert "q: 4 messages" in text
    assert "empty" not in text
    assert "stations: 9 pending" in text
