"""The whole system as a list of processes, and the settings that each of them and every command is given."""

import os
import sys
from collections.abc import Callable, Mapping, MutableMapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote

from deploy.local import credentials, layout, mongodb, probe, rabbitmq
from deploy.local.credentials import Credentials
from deploy.local.layout import PROJECT, Layout
from deploy.local.program import Program, Stage
from deploy.local.supervision import Supervisor
from deploy.run import KEYED, PERSONS, PUBLISHERS, SERVICES

ADMINISTRATIVE = ("ESTATION_RABBITMQ_API", "ESTATION_RABBITMQ_PASSWORDS")
"""Settings that no service is given."""


@dataclass(frozen=True, slots=True)
class System:
    """One local system: where it is, what it runs on, and its processes in the order of their start."""

    layout: Layout
    broker: rabbitmq.Broker
    mongodb_url: str
    programs: tuple[Program, ...]

    def stage(self, stage: Stage) -> tuple[Program, ...]:
        """The programs of one stage."""
        return tuple(program for program in self.programs if program.stage == stage)


def assemble(place: Layout, environ: Mapping[str, str] = os.environ) -> System:
    """Gets every part ready to be started: folders, secrets, packages, configuration. Starts nothing.

    Raises:
        LauncherError: a part is missing and cannot be had.
    """
    place.prepare()
    secrets = credentials.ensure(place)
    broker, url = addresses(place, environ)
    programs: list[Program] = []
    if not rabbitmq.given(environ):
        programs += rabbitmq.programs(place, rabbitmq.provide(place), secrets)
    if not mongodb.given(environ):
        programs.append(mongodb.program(place, *mongodb.provide(place)))
    programs += _processes(place, secrets, broker, url, environ)
    programs.append(_caddy(place))
    return System(place, broker, url, tuple(programs))


def checks(place: Layout, broker: rabbitmq.Broker, url: str) -> dict[str, Callable[[], str]]:
    """By program: asks it why it does not serve; the answer is empty if it does."""
    here = probe.LOOPBACK
    return {
        "epmd": partial(probe.tcp_problem, here, place.ports["epmd"]),
        "rabbitmq": broker.problem,
        "mongod": partial(mongodb.problem, url),
        **{
            port.removesuffix("-ops"): partial(probe.http_problem, f"http://{here}:{number}/readyz")
            for port, number in place.ports.items()
            if port.endswith("-ops")
        },
        # answered by the edge itself, and nobody else would say no
        "caddy": partial(probe.http_problem, f"{edge_url(place)}/livez", expected=404),
    }


def edge_url(place: Layout) -> str:
    """The one origin that people and devices see."""
    return f"http://{probe.LOOPBACK}:{place.ports['edge']}"


def addresses(place: Layout, environ: Mapping[str, str] = os.environ) -> tuple[rabbitmq.Broker, str]:
    """The broker and the MongoDB address of this system: given by the environment, or our own."""
    broker = rabbitmq.given(environ) or rabbitmq.own(place, credentials.ensure(place))
    return broker, mongodb.given(environ) or mongodb.own(place)


def settings(place: Layout, environ: Mapping[str, str] = os.environ) -> dict[str, str]:
    """What a command such as ``migrate`` or ``simulate`` needs to reach the local system, as its administrator."""
    place.prepare()
    secrets = credentials.ensure(place)
    broker, url = addresses(place, environ)
    return {
        **_common(place, secrets, url, environ),
        "ESTATION_VAR": str(place.var),
        "ESTATION_EDGE_URL": edge_url(place),
        "ESTATION_RABBITMQ_URL": environ.get(rabbitmq.URL) or broker.url(rabbitmq.ADMIN, secrets.rabbitmq_admin),
        "ESTATION_RABBITMQ_API": broker.api,
        "ESTATION_RABBITMQ_PASSWORDS": str(secrets.rabbitmq_users_file),
        "ESTATION_BACKUP_KEY": str(secrets.backup_key),
        "ESTATION_DATA_BACKUPS": str(place.var / "backups" / "data"),
        "ESTATION_KEY_BACKUPS": str(place.var / "backups" / "keys"),
        **_personal(place, secrets),
    }


def fill(environ: MutableMapping[str, str]) -> None:
    """Adds the local system's settings where the environment names no other, so that commands need no set-up by hand.

    Does nothing in production mode and before the first ``estation up``.
    """
    place, running = as_running(environ)
    if environ.get("ESTATION_MODE", "local") == "local" and place.secrets.exists():
        for name, value in settings(place, running).items():
            environ.setdefault(name, value)


def as_running(environ: Mapping[str, str] = os.environ) -> tuple[Layout, dict[str, str]]:
    """Where the running system is and the settings it was started with; what the environment says, if none runs."""
    running = Supervisor(layout.read(environ)).environ(environ)
    return layout.read(running), running


def _common(place: Layout, secrets: Credentials, url: str, environ: Mapping[str, str]) -> dict[str, str]:
    return {
        "ESTATION_MODE": "local",
        "ESTATION_MONGODB_URL": url,
        "ESTATION_JWKS": environ.get("ESTATION_JWKS") or str(secrets.jwks),
        "ESTATION_DEMO_ISSUER": environ.get("ESTATION_DEMO_ISSUER") or "on",
        "ESTATION_ORIGIN": environ.get("ESTATION_ORIGIN") or edge_url(place),
    }


def _personal(place: Layout, secrets: Credentials) -> dict[str, str]:
    return {"ESTATION_KEYS": str(secrets.keys), "ESTATION_ERASURES": str(place.var / "erasures")}


def _processes(
    place: Layout, secrets: Credentials, broker: rabbitmq.Broker, url: str, environ: Mapping[str, str]
) -> list[Program]:
    common = _common(place, secrets, url, environ) | dict.fromkeys(ADMINISTRATIVE, "")
    common["ESTATION_AUDIT_HEADS"] = environ.get("ESTATION_AUDIT_HEADS") or str(place.var / "audit-heads")

    people = {
        "ESTATION_SIGNING_KEYS": str(secrets.signing_keys),
        **{
            variable: environ.get(variable) or default
            for name in ("SMS", "CHAT")
            for variable, default in (
                (f"ESTATION_{name}", f"file://{quote(str(place.var / name.lower()))}.jsonl"),
                (f"ESTATION_{name}_TOKEN", ""),
            )
        },
    }

    def process(name: str, service: str, role: tuple[str, ...], http_port: str = "") -> Program:
        environment = {
            **common,
            **(people if name == PERSONS else {}),
            **(_personal(place, secrets) if name in KEYED else {}),
            "ESTATION_RABBITMQ_URL": broker.url(service, secrets.rabbitmq_users[service]) if service else "",
            "ESTATION_OPS_PORT": str(place.ports[f"{name}-ops"]),
        }
        if http_port:
            environment |= {"ESTATION_HTTP_HOST": probe.LOOPBACK, "ESTATION_HTTP_PORT": str(place.ports[http_port])}
        return Program(
            name=name,
            stage=Stage.PROCESSES,
            command=(sys.executable, "-m", "deploy.run", *role),
            environment=environment,
            ports=tuple(filter(None, (http_port, f"{name}-ops"))),
        )

    return [
        *(process(f"relay-{name}", name, ("relay", name)) for name in PUBLISHERS),
        process("aggregator", "metrics", ("aggregator",)),
        process("sealer", "", ("sealer",)),
        *(process(name, name, ("service", name), http_port=name) for name in SERVICES),
    ]


def _caddy(place: Layout) -> Program:
    storage = place.var / "caddy"
    storage.mkdir(mode=0o700, exist_ok=True)
    return Program(
        name="caddy",
        stage=Stage.EDGE,
        command=(
            *(str(Path(sys.executable).parent / "caddy"), "run"),
            *("--adapter", "caddyfile", "--config", str(PROJECT / "deploy/caddy/Caddyfile")),
        ),
        environment={
            "ESTATION_EDGE_ADDRESS": f"http://:{place.ports['edge']}",
            "ESTATION_EDGE_BIND": probe.LOOPBACK,
            "ESTATION_EDGE_STORAGE": str(storage),
            "XDG_CONFIG_HOME": str(storage),
            "XDG_DATA_HOME": str(storage),
            **{f"ESTATION_{name.upper()}_UPSTREAM": f"{probe.LOOPBACK}:{place.ports[name]}" for name in SERVICES},
        },
        ports=("edge",),
        stop_seconds=15,
    )
