"""Finds or sets up RabbitMQ, and describes a private node of it: own ports, own cookie, own epmd, loopback only.

In this order: the broker that the environment names; the packages of the machine; the packages of Debian or Ubuntu,
installed as root, otherwise unpacked under ``var/rabbitmq``.
"""

import os
import re
import shutil
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit

from deploy.local import debian, probe
from deploy.local.credentials import Credentials
from deploy.local.errors import LauncherError
from deploy.local.layout import PLAIN, Layout
from deploy.local.program import Program, Stage

URL, API = "ESTATION_RABBITMQ_URL", "ESTATION_RABBITMQ_API"
VHOST = "estation"
ADMIN = "admin"
UNPACKED = "rabbitmq/dist"
NODE = "estation@localhost"
OLDEST = (3, 10)
"""The first that dead-letters from quorum queues at least once."""
SCRIPTS = (Path("/usr/lib/rabbitmq/bin"), Path("/usr/local/lib/rabbitmq/bin"))
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PLUGINS = "[rabbitmq_management,rabbitmq_prometheus].\n"
WAYS_OUT = f"install rabbitmq-server {OLDEST[0]}.{OLDEST[1]} or newer, or name a broker with {URL} and {API}"


@dataclass(frozen=True, slots=True)
class Broker:
    """Where a broker is; ``api`` carries the administrator's password."""

    host: str
    port: int
    vhost: str
    api: str = field(repr=False)
    scheme: str = "amqp"

    def url(self, user: str, password: str) -> str:
        """The AMQP address for one user."""
        return f"{self.scheme}://{user}:{quote(password, safe='')}@{self.host}:{self.port}/{quote(self.vhost, safe='')}"

    def problem(self) -> str:
        """Why it does not serve yet; empty if it does."""
        problem = probe.http_problem(f"{self.api}/api/vhosts/{quote(self.vhost, safe='')}")
        if problem == "answers 401":
            return f"refuses our administrator: its data and var/secrets do not belong together, or {API} is wrong"
        return problem or probe.tcp_problem(self.host, self.port)


@dataclass(frozen=True, slots=True)
class Distribution:
    """A RabbitMQ that lies somewhere on this machine."""

    scripts: Path
    root: Path

    @property
    def version(self) -> tuple[int, ...]:
        """From the folder's name; empty if that does not say."""
        found = re.search(r"rabbitmq_server-(\d+)\.(\d+)\.(\d+)", str(self.scripts))
        return tuple(int(part) for part in found.groups()) if found else ()


def given(environ: Mapping[str, str] = os.environ) -> Broker | None:
    """The broker that the environment names.

    Raises:
        LauncherError: only half of it is named.
    """
    url, api = environ.get(URL, ""), environ.get(API, "")
    if bool(url) != bool(api):
        raise LauncherError(f"{URL} and {API} go together: {API if url else URL} is not set")
    if not url:
        return None
    parts = urlsplit(url)
    secure = parts.scheme == "amqps"
    return Broker(
        host=parts.hostname or probe.LOOPBACK,
        port=parts.port or (5671 if secure else 5672),
        vhost=unquote(parts.path[1:]) or "/",
        api=api.rstrip("/"),
        scheme=parts.scheme,
    )


def own(layout: Layout, credentials: Credentials) -> Broker:
    """The private node's place."""
    address = f"{probe.LOOPBACK}:{layout.ports['rabbitmq-api']}"
    api = f"http://{ADMIN}:{credentials.rabbitmq_admin}@{address}"
    return Broker(probe.LOOPBACK, layout.ports["rabbitmq"], VHOST, api)


def find(layout: Layout) -> Distribution | None:
    """What is already on this machine, installed or unpacked by us; None if nothing is."""
    if shutil.which("erl"):
        for folder in SCRIPTS:
            script = folder / "rabbitmq-server"
            if script.exists():
                return Distribution(script.resolve().parent, debian.MACHINE)
    root = layout.unpacked(UNPACKED)
    for script in root.glob("usr/lib/rabbitmq/lib/rabbitmq_server-*/sbin/rabbitmq-server"):
        return Distribution(script.parent, root)
    return None


def provide(layout: Layout) -> Distribution:
    """Finds a RabbitMQ, or gets one from the distribution's packages.

    Raises:
        LauncherError: there is none, or too old a one; says the ways out.
    """
    found = find(layout)
    if found is None:
        if not debian.available():
            raise LauncherError(f"no RabbitMQ on this machine: {WAYS_OUT}")
        keep_off = ["rabbitmq-server.service"] + ([] if shutil.which("erl") else ["epmd.service", "epmd.socket"])
        try:
            root = debian.provide(["rabbitmq-server"], layout.unpacked(UNPACKED), keep_off)
        except LauncherError as error:
            raise LauncherError(f"RabbitMQ could not be set up ({error.message}): {WAYS_OUT}") from error
        if root != debian.MACHINE:
            _relocate(root)
        found = find(layout)
    if found is None:
        raise LauncherError(f"the package rabbitmq-server holds no {SCRIPTS[0]}/rabbitmq-server: {WAYS_OUT}")
    if found.version and found.version < OLDEST:
        raise LauncherError(f"RabbitMQ {'.'.join(map(str, found.version))} is too old: {WAYS_OUT}")
    return found


def programs(layout: Layout, distribution: Distribution, credentials: Credentials) -> tuple[Program, Program]:
    """The node and its epmd. Writes their configuration; needs ``layout.prepare()`` first."""
    scripts, environment = _plain(layout, distribution)
    environment |= _configure(layout, credentials)
    epmd = shutil.which("epmd", path=environment["PATH"]) or "epmd"
    return (
        Program(
            name="epmd",
            stage=Stage.NAMES,
            command=(epmd, "-port", str(layout.ports["epmd"]), "-address", probe.LOOPBACK),
            environment={name: environment[name] for name in ("PATH", "LD_LIBRARY_PATH") if name in environment},
            ports=("epmd",),
            stop_seconds=5,
        ),
        Program(
            name="rabbitmq",
            stage=Stage.STORES,
            command=(str(scripts / "rabbitmq-server"),),
            environment=environment,
            ports=("rabbitmq", "rabbitmq-api", "rabbitmq-prometheus", "rabbitmq-dist"),
        ),
    )


def _relocate(root: Path) -> None:
    """Lets an unpacked ``erl`` live anywhere: Debian's knows only /usr/lib/erlang."""
    erl = root / "usr/lib/erlang/bin/erl"
    text = erl.read_text()
    mended = re.sub(r"^(\s*)ROOTDIR=/usr/lib/erlang$", r'\1ROOTDIR="$ERL_ROOTDIR"', text, flags=re.MULTILINE)
    if mended == text:
        raise LauncherError(f"{erl} is not as we know it and cannot be moved: {WAYS_OUT}")
    erl.write_text(mended)


def _plain(layout: Layout, distribution: Distribution) -> tuple[Path, dict[str, str]]:
    """The scripts' place and what they need to be found; by way of a link where the path is more than they can bear.

    The package's shell scripts expand paths unquoted: a space ends them.
    """
    root, scripts = distribution.root, distribution.scripts
    if root == debian.MACHINE:
        return scripts, {"PATH": f"{Path(shutil.which('erl') or '/usr/bin/erl').parent}:{SYSTEM_PATH}"}
    if not PLAIN.fullmatch(str(root)):
        link = layout.runtime / "rabbitmq"
        link.unlink(missing_ok=True)
        link.symlink_to(root)
        root, scripts = link, link / scripts.relative_to(root)
    erlang = root / "usr/lib/erlang"
    return scripts, {
        "PATH": f"{erlang / 'bin'}:{SYSTEM_PATH}",
        "ERL_ROOTDIR": str(erlang),
        "LD_LIBRARY_PATH": debian.libraries(root),
        "RABBITMQ_SCRIPTS_DIR": str(scripts),
    }


def _configure(layout: Layout, credentials: Credentials) -> dict[str, str]:
    folder = layout.var / "rabbitmq"
    home = folder / "home"
    for place in (home, folder / "data"):
        place.mkdir(mode=0o700, parents=True, exist_ok=True)
    cookie = home / ".erlang.cookie"
    cookie.unlink(missing_ok=True)
    cookie.touch(mode=0o600)
    cookie.write_text(credentials.erlang_cookie)
    cookie.chmod(0o400)
    conf = layout.run / "rabbitmq.conf"
    conf.touch(mode=0o600)
    conf.write_text(_conf(layout, credentials), encoding="utf-8")
    plugins = layout.run / "rabbitmq-plugins"
    plugins.write_text(PLUGINS, encoding="ascii")
    return {
        "HOME": str(home),
        # takes the bytes of a path as they are: some of its parts crash on one that is decoded to Chinese
        "LC_ALL": "C",
        "ERL_EPMD_ADDRESS": probe.LOOPBACK,
        "ERL_EPMD_PORT": str(layout.ports["epmd"]),
        "RABBITMQ_CONF_ENV_FILE": "/dev/null",
        "RABBITMQ_CONFIG_FILE": str(conf),
        "RABBITMQ_DIST_PORT": str(layout.ports["rabbitmq-dist"]),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(plugins),
        "RABBITMQ_LOG_BASE": str(layout.log),
        "RABBITMQ_LOGS": "-",
        "RABBITMQ_MNESIA_BASE": str(folder / "data"),
        "RABBITMQ_NODENAME": NODE,
        "RABBITMQ_PID_FILE": str(layout.run / "rabbitmq.pid"),
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": "-kernel inet_dist_use_interface {127,0,0,1} -start_epmd false",
        # makes the script become the node instead of waiting for it: the supervised pid is the node's
        "RUNNING_UNDER_SYSTEMD": "true",
    }


def _conf(layout: Layout, credentials: Credentials) -> str:
    ports = layout.ports
    return f"""\
listeners.tcp.default = {probe.LOOPBACK}:{ports["rabbitmq"]}
management.tcp.ip = {probe.LOOPBACK}
management.tcp.port = {ports["rabbitmq-api"]}
prometheus.tcp.ip = {probe.LOOPBACK}
prometheus.tcp.port = {ports["rabbitmq-prometheus"]}
# of a new node only; takes the place of guest
default_vhost = {VHOST}
default_user = {ADMIN}
default_pass = {credentials.rabbitmq_admin}
default_user_tags.administrator = true
# one laptop, not a cluster: the log of all quorum queues is rolled at 64 MB instead of 512 MB
raft.wal_max_size_bytes = 67108864
disk_free_limit.absolute = 500MB
log.console = true
log.console.level = info
"""
