"""Real parts for tests: a private RabbitMQ and mongod on free ports, and our own processes as they really run."""

import contextlib
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pika

from contracts import catalogue, envelope
from contracts.catalogue import CATALOGUE, Catalogue
from deploy.local import credentials, layout, mongodb, rabbitmq
from deploy.local.program import Program
from services.kernel import auth
from services.kernel.settings import Settings
from services.kernel.topology import Management, definitions

PROJECT = Path(__file__).resolve().parents[1]
START_SECONDS = 120


def free_port() -> int:
    """A port that nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def until(condition: Callable[[], Any], what: str, seconds: float = 30.0) -> Any:
    """The first true value of ``condition``; fails with ``what`` when it stays false. Errors of I/O count as false."""
    deadline = time.monotonic() + seconds
    problem: object = None
    while time.monotonic() < deadline:
        try:
            found = condition()
        except OSError as error:
            found, problem = None, error
        if found:
            return found
        time.sleep(0.02)
    raise AssertionError(f"not within {seconds} s: {what}" + (f" ({problem})" if problem else ""))


def listens(port: int) -> bool:
    """Whether somebody accepts connections there."""
    with socket.create_connection(("127.0.0.1", port), 1):
        return True


@dataclass(frozen=True, slots=True)
class Broker:
    """A vhost of its own on the private RabbitMQ, with the topology declared."""

    host: str
    port: int
    api: str
    vhost: str
    passwords: Mapping[str, str]
    management: Management = field(repr=False)

    def url_for(self, user: str) -> str:
        """The AMQP address for one user."""
        return f"amqp://{user}:{self.passwords[user]}@{self.host}:{self.port}/{self.vhost}"

    @property
    def admin_url(self) -> str:
        """The AMQP address for the administrator (tests that look into queues)."""
        user, password = self.api.split("//")[1].split("@")[0].split(":")
        return f"amqp://{user}:{password}@{self.host}:{self.port}/{self.vhost}"

    def depth(self, queue: str) -> int:
        """Messages ready in a queue, as the queue itself counts them (the management API's figures lag)."""
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self.admin_url))) as connection:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)


class Tap:
    """A queue of a test's own on services' exchanges: sees every message that is published from now on."""

    def __init__(self, broker: Broker, *owners: str) -> None:
        self._connection = pika.BlockingConnection(pika.URLParameters(broker.admin_url))
        self.channel = self._connection.channel()
        self.queue = self.channel.queue_declare("", exclusive=True).method.queue
        for owner in owners:
            self.channel.queue_bind(self.queue, catalogue.exchange(owner), "#")
        self.messages: list[tuple[str, str, bytes]] = []
        """(routing key, content type, body)"""

    def drain(self) -> list[dict[str, Any]]:
        """All events seen so far."""
        while True:
            method, properties, body = self.channel.basic_get(self.queue, auto_ack=True)
            if method is None:
                break
            self.messages.append((method.routing_key, properties.content_type, body))
        return [event for _key, kind, body in self.messages for event in envelope.load(body, kind)]

    def events(self, count: int, seconds: float = 30) -> list[dict[str, Any]]:
        """At least so many events."""
        until(lambda: len(self.drain()) >= count, f"{count} events published", seconds)
        return self.drain()

    def close(self) -> None:
        """Takes the queue away."""
        self._connection.close()


def _with_fail_points(mongod: Program) -> Program:
    """A database that can be told to fail (failCommand)."""
    return replace(mongod, command=(*mongod.command, "--setParameter", "enableTestCommands=1"))


class Parts:
    """RabbitMQ and mongod for one test session."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        # found or unpacked where `make up` would have it, so that it is fetched once
        self._distribution = rabbitmq.provide(layout.read(os.environ))
        ports = {name: free_port() for name in layout.PORTS}
        self.layout = layout.Layout(var=folder / "var", ports=ports)
        self.layout.prepare()
        self.credentials = credentials.ensure(self.layout)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._passwords: dict[str, str] = {}
        mongod, library_path = mongodb.provide(self.layout)
        self.programs: dict[str, Program] = {
            program.name: program
            for program in (
                *rabbitmq.programs(self.layout, self._distribution, self.credentials),
                _with_fail_points(mongodb.program(self.layout, mongod, library_path)),
            )
        }
        self.mongodb_url = f"mongodb://127.0.0.1:{ports['mongod']}/?replicaSet={mongodb.REPLICA_SET}"
        self.rabbitmq = rabbitmq.own(self.layout, self.credentials)

    def start(self, name: str) -> None:
        """Starts one part; :meth:`await_ready` waits for it."""
        program = self.programs[name]
        with (self.folder / f"{name}.log").open("ab") as log:
            self._running[name] = subprocess.Popen(
                program.command,
                env={**os.environ, **program.environment},
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                start_new_session=True,
            )

    def start_all(self) -> None:
        """Starts everything and returns when it is ready."""
        self.start("epmd")
        until(lambda: listens(self.layout.ports["epmd"]), "epmd listens")
        for name in ("rabbitmq", "mongod"):
            self.start(name)
        until(lambda: listens(self.layout.ports["mongod"]), "mongod listens", 60)
        mongodb.initiate(self.layout)
        self.await_ready("mongod")
        self.await_ready("rabbitmq")

    def await_ready(self, name: str) -> None:
        """Returns when the part serves."""
        if name == "rabbitmq":
            until(lambda: not self.rabbitmq.problem(), "RabbitMQ serves", START_SECONDS)
        elif name == "mongod":
            until(lambda: not mongodb.problem(self.mongodb_url), "mongod has a primary", START_SECONDS)

    def kill(self, name: str, sig: signal.Signals = signal.SIGKILL) -> None:
        """Ends a part (its whole process group) and waits until it is gone."""
        process = self._running.pop(name)
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, sig)
        process.wait(60)

    def stop_all(self) -> None:
        """Ends everything, the broker first: its epmd goes last. Their data is thrown away, so nobody says goodbye."""
        for name in ("rabbitmq", "mongod", "epmd"):
            if name in self._running:
                self.kill(name)

    def broker(self, events: Catalogue = CATALOGUE) -> Broker:
        """A fresh vhost with the topology of a catalogue."""
        vhost = "t" + secrets.token_hex(4)
        management = Management(self.rabbitmq.api)
        for user in {*events.owners, *events.consumers}:  # users are the broker's, whatever the vhost
            self._passwords.setdefault(user, secrets.token_hex(8))
        passwords = {user: self._passwords[user] for user in {*events.owners, *events.consumers}}
        management.call("PUT", f"/vhosts/{vhost}", {})
        admin = self.rabbitmq.api.split("//")[1].split(":")[0]
        management.call("PUT", f"/permissions/{vhost}/{admin}", {"configure": ".*", "write": ".*", "read": ".*"})
        management.apply(definitions(events, vhost, passwords))
        return Broker("127.0.0.1", self.layout.ports["rabbitmq"], self.rabbitmq.api, vhost, passwords, management)

    def forget(self, broker: Broker) -> None:
        """Takes a vhost away."""
        broker.management.delete_vhost(broker.vhost)


def outside() -> dict[str, str]:
    """The environment without any setting of ours: neither what somebody exported nor another test's system."""
    return {name: value for name, value in os.environ.items() if not name.startswith("ESTATION_")}


class Process:
    """One of our own processes, as ``python -m deploy.run`` starts it."""

    def __init__(
        self, role: tuple[str, ...], environ: Mapping[str, str], log: Path, *, module: str = "deploy.run"
    ) -> None:
        self.role, self.log, self._module = role, log, module
        self._environ = {**outside(), **environ}
        if role[0] == "service" and self._environ.pop("COVERAGE_PROCESS_CONFIG", ""):
            self._environ["COVERAGE_PROCESS_START"] = str(PROJECT / "tests/coverage-green.toml")
        self.http_port = int(environ.get("ESTATION_HTTP_PORT", "0"))
        self.ops_port = int(environ["ESTATION_OPS_PORT"])
        self.popen: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> "Process":
        """Starts it; returns when it says that it is ready."""
        with self.log.open("ab") as log:
            self.popen = subprocess.Popen(
                [sys.executable, "-m", self._module, *self.role],
                cwd=PROJECT,
                env=self._environ,
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
            )
        if ready:
            self.await_ready()
        return self

    def await_ready(self) -> None:
        """Returns when ``/readyz`` says 200."""

        def ready() -> bool:
            assert self.popen is not None
            if self.popen.poll() is not None:
                raise AssertionError(f"{self.role} ended with {self.popen.returncode}:\n{self.log.read_text()[-4000:]}")
            try:
                return self.ops("/readyz").strip() == "ready"
            except urllib.error.HTTPError:
                return False

        until(ready, f"{self.role} is ready", 60)

    def ops(self, path: str) -> str:
        """A page of its ops listener."""
        with urllib.request.urlopen(f"http://127.0.0.1:{self.ops_port}{path}", timeout=10) as answer:
            return str(answer.read().decode())

    def metric(self, name: str, **labels: str) -> float | None:
        """One sample of its ``/metrics``; None where there is none."""
        from prometheus_client.parser import text_string_to_metric_families

        for family in text_string_to_metric_families(self.ops("/metrics")):
            for sample in family.samples:
                if sample.name == name and labels.items() <= sample.labels.items():
                    return float(sample.value)
        return None

    def stop(self, seconds: float = 40) -> int:
        """SIGTERM; the exit status, which should be 0."""
        assert self.popen is not None
        self.popen.terminate()
        return self.popen.wait(seconds)

    def kill(self) -> None:
        """SIGKILL."""
        assert self.popen is not None
        self.popen.kill()
        self.popen.wait(10)

    def lines(self) -> list[dict[str, Any]]:
        """Its log lines."""
        return [json.loads(line) for line in self.log.read_text().splitlines() if line.startswith("{")]


class World:
    """Parts, a fresh vhost and databases of their own for one test (or module), and our processes on them."""

    def __init__(
        self, parts: Parts, folder: Path, events: Catalogue = CATALOGUE, *, module: str = "deploy.run"
    ) -> None:
        self.parts, self.folder, self._module = parts, folder, module
        self.prefix = "t" + secrets.token_hex(4) + "_"
        self.broker = parts.broker(events)
        self.issuer = folder / "issuer"
        auth.create_local_issuer(self.issuer)
        self.processes: list[Process] = []
        self._taps: list[Tap] = []

    def tap(self, *owners: str) -> Tap:
        """Listens to what the given services publish."""
        self._taps.append(Tap(self.broker, *(owners or ("stations",))))
        return self._taps[-1]

    def environ(self, user: str, **more: str) -> dict[str, str]:
        """The variables of one process."""
        return {
            "ESTATION_MONGODB_URL": self.parts.mongodb_url,
            "ESTATION_MONGODB_PREFIX": self.prefix,
            "ESTATION_RABBITMQ_URL": self.broker.url_for(user),
            "ESTATION_RABBITMQ_API": self.broker.api,
            "ESTATION_JWKS": str(self.issuer / "jwks.json"),
            "ESTATION_OPS_PORT": str(free_port()),
            "ESTATION_HTTP_PORT": str(free_port()),
            **more,
        }

    def settings(self, user: str, **more: Any) -> Settings:
        """The same as a settings object, for code that runs in the test's own process."""
        known: dict[str, Any] = {
            "mongodb_url": self.parts.mongodb_url,
            "mongodb_prefix": self.prefix,
            "rabbitmq_url": self.broker.url_for(user),
            "rabbitmq_api": self.broker.api,
            "jwks": str(self.issuer / "jwks.json"),
            **more,
        }
        return Settings(**known)

    def process(self, *role: str, **more: str) -> Process:
        """A process of ours, not yet started; stopped at the end."""
        user = role[1] if len(role) > 1 else "metrics"
        number = len(self.processes)
        log = self.folder / f"{number}-{'-'.join(role)}.log"
        process = Process(role, self.environ(user, **more), log, module=self._module)
        self.processes.append(process)
        return process

    def token(
        self, subject: str = "officer-1", roles: tuple[str, ...] = ("city_officer",), scope: str = "370900"
    ) -> str:
        """A bearer token of the local issuer."""
        return auth.issue_local_token(self.issuer, self.settings_without_broker(), subject, roles, scope)

    def settings_without_broker(self) -> Settings:
        """Issuer and audience as the processes know them."""
        return Settings(jwks=str(self.issuer / "jwks.json"))

    def close(self) -> None:
        """Stops the processes, takes vhost and databases away."""
        from pymongo import MongoClient

        for process in self.processes:
            if process.popen is not None and process.popen.poll() is None:
                process.popen.terminate()
        for process in self.processes:
            if process.popen is not None:
                try:
                    process.popen.wait(40)
                except subprocess.TimeoutExpired:
                    process.popen.kill()
                    process.popen.wait(10)
        for tap in self._taps:
            tap.close()
        self.parts.forget(self.broker)
        with MongoClient[dict[str, Any]](self.parts.mongodb_url) as client:
            for name in client.list_database_names():
                if name.startswith(self.prefix):
                    client.drop_database(name)


@contextlib.contextmanager
def started(folder: Path) -> Iterator[Parts]:
    """RabbitMQ and mongod while the block runs."""
    parts = Parts(folder)
    try:
        parts.start_all()
        yield parts
    finally:
        parts.stop_all()
