"""The truth about the local system: asked of the processes themselves, not remembered."""

import json
import os
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from pymongo.errors import PyMongoError

from deploy.local import mongodb, probe, supervision, system
from deploy.local.layout import Layout
from deploy.local.rabbitmq import Broker
from deploy.local.supervision import Supervisor
from deploy.run import PUBLISHERS

OUTBOX = re.compile(r"^estation_outbox_pending(?:{[^}]*})? (\S+)$", flags=re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Process:
    """One line of the table; ``problem`` is empty if it serves, ``uptime`` is in seconds."""

    name: str
    state: str
    pid: int
    uptime: int
    restarts: int
    problem: str


@dataclass(frozen=True, slots=True)
class Store:
    """The broker or the database, ours or a given one."""

    address: str
    version: str
    problem: str


@dataclass(frozen=True, slots=True)
class Status:
    """What ``estation status`` tells; counts that could not be had are absent, never 0."""

    up: bool
    processes: list[Process]
    broker: Store | None = None
    database: Store | None = None
    queues: dict[str, int] = field(default_factory=dict)
    """Messages by queue."""
    outbox: dict[str, int] = field(default_factory=dict)
    """Documents with unpublished events, by service."""
    stopping: bool = False
    orphans: int = 0
    """Processes whose supervisor was killed."""

    @property
    def ok(self) -> bool:
        """Whether all is well."""
        problems = [process.problem for process in self.processes]
        problems += [store.problem for store in (self.broker, self.database) if store]
        return self.up and not self.orphans and not any(problems)


def read(place: Layout, environ: Mapping[str, str] = os.environ) -> Status:
    """Asks everything; takes seconds where something hangs."""
    supervisor = Supervisor(place)
    if supervisor.pid() is None:
        left = supervision.orphans(place)
        stopping = any(orphan.stage == supervision.SUPERVISORD for orphan in left)
        return Status(up=False, processes=[], stopping=stopping, orphans=0 if stopping else len(left))
    broker, url = system.addresses(place, environ)
    checks = system.checks(place, broker, url)
    processes = [
        Process(
            name=state.name,
            state=state.state.lower(),
            pid=state.pid,
            uptime=state.uptime,
            restarts=state.restarts,
            problem=checks[state.name]() if state.running else "does not run",
        )
        for state in sorted(supervisor.states().values(), key=lambda state: (state.stage, state.name))
    ]
    return Status(
        up=True,
        processes=processes,
        broker=_broker(broker),
        database=_database(url),
        queues=_queues(broker),
        outbox=_outbox(place),
    )


def as_json(status: Status) -> str:
    """For programs."""
    return json.dumps({"ok": status.ok, **asdict(status)}, indent=2)


def as_text(status: Status) -> str:
    """For people."""
    if not status.up:
        if status.stopping:
            return "E-Station is stopping, or its supervisor does not answer"
        if status.orphans:
            return f"The supervisor is gone and left {status.orphans} processes: `estation up` or `down` mends that"
        return "E-Station is not up: `estation up` starts it"
    lines = [f"{'process':<16}{'state':<10}{'ready':<7}{'pid':>8}{'uptime':>10}{'restarts':>10}"]
    for process in status.processes:
        ready = "no" if process.problem else "yes"
        uptime = f"{process.uptime // 3600}:{process.uptime // 60 % 60:02}:{process.uptime % 60:02}"
        lines.append(
            f"{process.name:<16}{process.state:<10}{ready:<7}{process.pid or '-':>8}{uptime:>10}{process.restarts:>10}"
            f"{'  ' + process.problem if process.problem else ''}"
        )
    for name, store in (("broker", status.broker), ("database", status.database)):
        if store:
            lines.append(f"{name:<16}{store.problem or 'reachable'}: {store.address} {store.version}".rstrip())
    lines += [f"{'outbox':<16}{service}: {count} pending" for service, count in sorted(status.outbox.items())]
    lines += [f"{'queue':<16}{name}: {count} messages" for name, count in sorted(status.queues.items()) if count]
    lines.append("all is well" if status.ok else "not all is well")
    return "\n".join(lines)


def _broker(broker: Broker) -> Store:
    overview = _json(f"{broker.api}/api/overview", {})
    return Store(
        f"{broker.host}:{broker.port}/{broker.vhost}",
        f"RabbitMQ {overview.get('rabbitmq_version', '')}",
        broker.problem(),
    )


def _database(url: str) -> Store:
    address = url.rsplit("@", 1)[-1].removeprefix("mongodb://").split("/", 1)[0]
    try:
        return Store(address, f"MongoDB {mongodb.hello(url)['version']}", "")
    except PyMongoError:
        return Store(address, "", mongodb.problem(url))


def _queues(broker: Broker) -> dict[str, int]:
    listed = _json(f"{broker.api}/api/queues/{quote(broker.vhost, safe='')}", [])
    return {queue["name"]: queue["messages"] for queue in listed if "messages" in queue}


def _outbox(place: Layout) -> dict[str, int]:
    pending = {}
    for service in PUBLISHERS:
        try:
            answer = probe.get(f"http://{probe.LOOPBACK}:{place.ports[f'relay-{service}-ops']}/metrics")
        except OSError:
            continue
        if found := OUTBOX.search(answer.body.decode(errors="replace")):
            pending[service] = int(float(found[1]))
    return pending


def _json(url: str, default: Any) -> Any:
    try:
        answer = probe.get(url)
        return json.loads(answer.body) if answer.status == HTTPStatus.OK else default
    except (OSError, ValueError):
        return default
