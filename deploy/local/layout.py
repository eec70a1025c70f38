"""Where the local system lives: its folders under ``var/`` and its table of ports, each movable by one variable."""

import hashlib
import os
import re
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from deploy.local.errors import LauncherError
from deploy.run import PUBLISHERS, SERVICES

PROJECT = Path(__file__).resolve().parents[2]
PORT_MAX = 65535
PLAIN = re.compile(r"[A-Za-z0-9_./+-]{1,80}")
UNBEARABLE = re.compile(r"""["'\\\r\n]|\s[;#]""")
"""What supervisord's, apt's or Caddy's configuration cannot carry in a path."""


@dataclass(frozen=True, slots=True)
class Port:
    """One place of the table: the variable that moves it, and where it is if nothing does."""

    variable: str
    default: int


# a port follows from the place in the list of services: new services go to its end
PORTS: Mapping[str, Port] = MappingProxyType(
    {
        "edge": Port("ESTATION_EDGE_PORT", 8080),
        "rabbitmq": Port("ESTATION_RABBITMQ_PORT", 5772),
        "rabbitmq-api": Port("ESTATION_RABBITMQ_API_PORT", 15772),
        "rabbitmq-prometheus": Port("ESTATION_RABBITMQ_PROMETHEUS_PORT", 15792),
        "rabbitmq-dist": Port("ESTATION_RABBITMQ_DIST_PORT", 25772),
        "epmd": Port("ESTATION_EPMD_PORT", 4470),
        "mongod": Port("ESTATION_MONGODB_PORT", 27117),
        **{name: Port(f"ESTATION_{name.upper()}_PORT", 8101 + i) for i, name in enumerate(SERVICES)},
        **{f"{name}-ops": Port(f"ESTATION_{name.upper()}_OPS_PORT", 9101 + i) for i, name in enumerate(SERVICES)},
        **{
            f"relay-{name}-ops": Port(f"ESTATION_RELAY_{name.upper()}_OPS_PORT", 9121 + i)
            for i, name in enumerate(PUBLISHERS)
        },
        "aggregator-ops": Port("ESTATION_AGGREGATOR_OPS_PORT", 9141),
        "sealer-ops": Port("ESTATION_SEALER_OPS_PORT", 9142),
    }
)
OFFSET = "ESTATION_PORT_OFFSET"
"""Added to every default, so that a second system can run beside a first; a port's own variable is taken as it is."""


@dataclass(frozen=True, slots=True)
class Layout:
    """The places of one system. Two systems with different ``var`` and ports do not meet."""

    var: Path
    ports: Mapping[str, int]

    @property
    def secrets(self) -> Path:
        """Passwords and private keys; 0700."""
        return self.var / "secrets"

    @property
    def run(self) -> Path:
        """What is written anew at every start."""
        return self.var / "run"

    @property
    def log(self) -> Path:
        """One rotated file a process."""
        return self.var / "log"

    @property
    def runtime(self) -> Path:
        """A folder with a plain and short path: a socket's may have 108 bytes, and RabbitMQ's scripts bear no space.

        If ``run`` is not like that, it is one under /tmp; whatever TMPDIR says, or another shell would not find it.
        """
        if PLAIN.fullmatch(str(self.run)):
            return self.run
        key = hashlib.sha256(os.fsencode(self.var)).hexdigest()[:12]
        return Path("/tmp") / f"estation-{os.getuid()}-{key}"  # noqa: S108 - made 0700 and checked in prepare()

    @property
    def socket(self) -> Path:
        """Where supervisord listens."""
        return self.runtime / "supervisor.sock"

    def unpacked(self, name: str) -> Path:
        """Where packages are unpacked; a second system beside the first uses what that has fetched."""
        shared = PROJECT / "var" / name
        return shared if shared.exists() else self.var / name

    def tidy(self) -> None:
        """Leaves nothing outside ``var``; for a system that is down."""
        if self.runtime != self.run:
            shutil.rmtree(self.runtime, ignore_errors=True)

    def prepare(self) -> None:
        """Makes the folders, private to this user.

        Raises:
            LauncherError: a folder cannot be written, or is somebody else's.
        """
        for path in (PROJECT, self.var):
            if UNBEARABLE.search(str(path)):
                raise LauncherError(
                    f"the path {path} holds a quotation mark, a backslash, or ; or # after a blank: move it"
                )
        for folder in (self.var, self.secrets, self.run, self.log, self.runtime):
            try:
                folder.mkdir(mode=0o700, parents=True, exist_ok=True)
                found = folder.lstat()
            except OSError as error:
                raise LauncherError(
                    f"{folder} cannot be made ({error.strerror}): choose another with ESTATION_VAR"
                ) from error
            if not os.access(folder, os.W_OK | os.X_OK):
                raise LauncherError(
                    f"{folder} cannot be written by this user: chown it, or set ESTATION_VAR to another"
                )
            if folder in (self.secrets, self.runtime):
                if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                    raise LauncherError(f"{folder} is not this user's own folder: remove it")
                folder.chmod(0o700)


def read(environ: Mapping[str, str] = os.environ) -> Layout:
    """Reads ESTATION_VAR (relative to the project) and the ports.

    Raises:
        LauncherError: naming the variable that is wrong.
    """
    var = PROJECT / Path(environ.get("ESTATION_VAR") or "var").expanduser()
    offset = _number(environ, OFFSET, 0, lowest=-PORT_MAX)
    ports = {name: _number(environ, port.variable, port.default + offset) for name, port in PORTS.items()}
    taken: dict[int, str] = {}
    for name, number in ports.items():
        if number in taken:
            raise LauncherError(
                f"{PORTS[taken[number]].variable} and {PORTS[name].variable} are both {number}: move one"
            )
        taken[number] = name
    return Layout(var=var.resolve(), ports=MappingProxyType(ports))


def _number(environ: Mapping[str, str], variable: str, default: int, lowest: int = 1) -> int:
    text = environ.get(variable, "").strip() or str(default)
    try:
        number = int(text)
    except ValueError:
        number = PORT_MAX + 1
    if not lowest <= number <= PORT_MAX:
        raise LauncherError(f"{variable}={text} gives no port from 1 to {PORT_MAX}")
    return number
