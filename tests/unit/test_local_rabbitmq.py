"""Which broker is taken, and how a private node is described."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import credentials, debian, layout, rabbitmq
from deploy.local.errors import LauncherError
from deploy.local.layout import Layout
from deploy.local.rabbitmq import Broker, Distribution
from deploy.run import SERVICES

GIVEN = {
    "ESTATION_RABBITMQ_URL": "amqp://one:two@broker:5700/city",
    "ESTATION_RABBITMQ_API": "http://admin:x@broker:15700/",
}


@pytest.fixture
def place(tmp_path: Path) -> Iterator[Layout]:
    made = layout.read({"ESTATION_VAR": str(tmp_path / "泰安 e" / "var")})
    made.prepare()
    yield made
    made.tidy()


def unpacked(root: Path, version: str = "3.10.8") -> Distribution:
    """The shape of the unpacked packages."""
    scripts = root / f"usr/lib/rabbitmq/lib/rabbitmq_server-{version}/sbin"
    erlang = root / "usr/lib/erlang/bin"
    for folder in (scripts, erlang, root / "usr/lib/x86_64-linux-gnu"):
        folder.mkdir(parents=True)
    (scripts / "rabbitmq-server").touch()
    (erlang / "erl").write_text('#!/bin/sh\nif true\nthen\n    ROOTDIR=/usr/lib/erlang\nfi\nBINDIR="$ROOTDIR/x"\n')
    return Distribution(scripts, root)


def test_a_named_broker_is_taken_with_its_host_port_and_vhost() -> None:
    assert rabbitmq.given(GIVEN) == Broker("broker", 5700, "city", "http://admin:x@broker:15700")
    assert rabbitmq.given({}) is None


@pytest.mark.parametrize("name", GIVEN)
def test_half_a_broker_is_refused_naming_the_other_half(name: str) -> None:
    missing = next(other for other in GIVEN if other != name)
    with pytest.raises(LauncherError, match=f"{missing} is not set"):
        rabbitmq.given({name: GIVEN[name]})


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("amqp://h", "amqp://stations:p%2Fw%40@h:5672/%2F"),
        ("amqps://h/%2Fa", "amqps://stations:p%2Fw%40@h:5671/%2Fa"),
    ],
)
def test_each_service_gets_its_own_user_at_the_named_broker(url: str, expected: str) -> None:
    broker = rabbitmq.given({**GIVEN, "ESTATION_RABBITMQ_URL": url})
    assert broker is not None
    assert broker.url("stations", "p/w@") == expected


def test_passwords_are_not_in_what_is_printed_of_a_broker() -> None:
    assert "admin" not in repr(rabbitmq.given(GIVEN))


def test_the_version_is_read_from_the_packages_folder(tmp_path: Path) -> None:
    assert unpacked(tmp_path, "3.9.13").version == (3, 9, 13) < rabbitmq.OLDEST
    assert Distribution(Path("/opt/rabbitmq/sbin"), debian.MACHINE).version == ()


def test_an_unpacked_erlang_can_live_anywhere(tmp_path: Path) -> None:
    distribution = unpacked(tmp_path)
    rabbitmq._relocate(distribution.root)
    assert '\n    ROOTDIR="$ERL_ROOTDIR"\n' in (tmp_path / "usr/lib/erlang/bin/erl").read_text()
    with pytest.raises(LauncherError, match="not as we know it"):
        rabbitmq._relocate(distribution.root)


def test_everything_of_the_node_listens_on_loopback_with_a_password_of_its_own(place: Layout) -> None:
    secrets = credentials.ensure(place)
    epmd, node = rabbitmq.programs(place, unpacked(place.var / "rabbitmq" / "dist"), secrets)
    conf = (place.run / "rabbitmq.conf").read_text()
    assert f"listeners.tcp.default = 127.0.0.1:{place.ports['rabbitmq']}\n" in conf
    assert "management.tcp.ip = 127.0.0.1\n" in conf
    assert "prometheus.tcp.ip = 127.0.0.1\n" in conf
    assert f"default_pass = {secrets.rabbitmq_admin}\n" in conf
    assert "guest" not in conf.replace("# of a new node only; takes the place of guest", "")
    assert (place.run / "rabbitmq.conf").stat().st_mode & 0o077 == 0
    assert (place.var / "rabbitmq/home/.erlang.cookie").stat().st_mode & 0o777 == 0o400
    assert node.environment["ERL_EPMD_ADDRESS"] == "127.0.0.1"
    assert "inet_dist_use_interface {127,0,0,1}" in node.environment["RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS"]
    assert epmd.command[1:] == ("-port", str(place.ports["epmd"]), "-address", "127.0.0.1")
    assert secrets.rabbitmq_admin not in repr((epmd, node, secrets))


def test_scripts_that_cannot_bear_a_path_are_reached_by_a_plain_link(place: Layout) -> None:
    root = place.var / "rabbitmq" / "dist"
    _, node = rabbitmq.programs(place, unpacked(root), credentials.ensure(place))
    script = Path(node.command[0])
    assert str(script).isascii()
    assert " " not in node.command[0]
    assert script.resolve() == next(root.glob("usr/lib/rabbitmq/lib/*/sbin/rabbitmq-server")).resolve()


def test_secrets_are_made_once_and_only_for_this_user(place: Layout) -> None:
    first = credentials.ensure(place)
    assert credentials.ensure(place) == first
    assert set(first.rabbitmq_users) == set(SERVICES)
    assert len({first.rabbitmq_admin, first.erlang_cookie, *first.rabbitmq_users.values()}) == 2 + len(SERVICES)
    files = [path for path in place.secrets.rglob("*") if path.is_file()]
    assert len(files) == 7
    assert all(path.stat().st_mode & 0o077 == 0 for path in files)
