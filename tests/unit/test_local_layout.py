"""The table of ports and the folders of a local system."""

from pathlib import Path

import pytest

from deploy.local import layout
from deploy.local.errors import LauncherError
from deploy.local.layout import OFFSET, PORTS, PROJECT, Layout


def test_defaults_are_the_documented_ports_and_var_beside_the_code() -> None:
    place = layout.read({})
    assert place.var == PROJECT / "var"
    assert {
        name: place.ports[name] for name in ("edge", "rabbitmq", "rabbitmq-api", "mongod", "stations", "stations-ops")
    } == {
        "edge": 8080,
        "rabbitmq": 5772,
        "rabbitmq-api": 15772,
        "mongod": 27117,
        "stations": 8101,
        "stations-ops": 9101,
    }


def test_no_two_parts_share_a_port_or_a_variable() -> None:
    assert len(set(layout.read({}).ports.values())) == len(PORTS)
    assert len({port.variable for port in PORTS.values()}) == len(PORTS)


def test_an_offset_moves_all_but_what_is_set_by_itself() -> None:
    moved = layout.read({OFFSET: "2000", "ESTATION_EDGE_PORT": "8000"}).ports
    assert moved["edge"] == 8000
    assert all(moved[name] == port.default + 2000 for name, port in PORTS.items() if name != "edge")


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("ESTATION_EDGE_PORT", "http"),
        ("ESTATION_EDGE_PORT", "0"),
        ("ESTATION_MONGODB_PORT", "65536"),
        (OFFSET, "60000"),
    ],
)
def test_a_wrong_port_is_named_with_its_variable(variable: str, value: str) -> None:
    with pytest.raises(LauncherError, match=value if variable != OFFSET else "port"):
        layout.read({variable: value})


def test_two_parts_moved_to_one_port_are_both_named() -> None:
    with pytest.raises(LauncherError, match="ESTATION_EDGE_PORT and ESTATION_STATIONS_PORT are both 8101"):
        layout.read({"ESTATION_EDGE_PORT": "8101"})


def test_the_control_socket_fits_however_deep_the_project_lies() -> None:
    deep = Layout(var=Path("/") / "/".join(["a" * 60] * 8), ports={})
    assert len(bytes(deep.socket)) < 100


def test_systems_with_different_var_have_different_sockets(tmp_path: Path) -> None:
    assert Layout(tmp_path / "a", {}).socket != Layout(tmp_path / "b", {}).socket


def test_secrets_are_for_this_user_only_even_if_they_were_open_before(tmp_path: Path) -> None:
    place = Layout(tmp_path / "a b" / "var", {})
    place.secrets.mkdir(parents=True, mode=0o755)
    place.prepare()
    assert place.secrets.stat().st_mode & 0o777 == 0o700
    assert place.runtime.stat().st_mode & 0o777 == 0o700
    place.tidy()


def test_a_folder_that_cannot_be_made_is_named_with_the_variable(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(LauncherError, match=r"file/var cannot be made .*ESTATION_VAR"):
        Layout(tmp_path / "file" / "var", {}).prepare()


@pytest.mark.parametrize("name", ['a"b', "a'b", "a\\b", "a\nb", "a #b", "a ;b"])
def test_a_path_that_no_configuration_file_can_carry_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(LauncherError, match="move it"):
        Layout(tmp_path / name, {}).prepare()
    assert not (tmp_path / name).exists()
