"""What the tests of the kernel share: the probe in a world of its own, a database that fails when told, HTTP calls."""

import contextlib
import http.client
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pymongo import MongoClient
from pymongo.database import Database

from services.kernel import mongo
from services.kernel.mongo import Document
from services.kernel.settings import Settings
from tests import probe
from tests.parts import Parts, Process, World


@contextlib.contextmanager
def failing(url: str, appname: str, *commands: str, times: int = 0, skip: int = 0, **how: Any) -> Iterator[None]:
    """While the block runs, commands of the clients of one name fail; ``how``: see MongoDB's failCommand.

    ``times``: only so often; ``skip``: only after so many that do not.
    """
    with MongoClient[Document](url, directConnection=True) as client:
        mode: Any = {"times": times} if times else {"skip": skip} if skip else "alwaysOn"
        data = {"failCommands": list(commands), "appName": appname, **how}
        client.admin.command("configureFailPoint", "failCommand", mode=mode, data=data)
        try:
            yield
        finally:
            client.admin.command("configureFailPoint", "failCommand", mode="off")


@contextlib.contextmanager
def connected(settings: Settings, service: str, role: str) -> Iterator[Database[Document]]:
    """A service's database; its client is closed at the end."""
    database = mongo.connect(settings, service, role)
    try:
        yield database
    finally:
        database.client.close()


class ProbeWorld(World):
    """A fresh vhost and databases for the probe and its processes."""

    def __init__(self, parts: Parts, folder: Path) -> None:
        super().__init__(parts, folder, probe.EVENTS, module="tests.run_probe")
        self._clients = contextlib.ExitStack()
        self.database = self._clients.enter_context(connected(self.settings(probe.NAME), probe.NAME, "test"))
        probe.ensure_indexes(self.database)

    def service(self, **more: str) -> Process:
        """The probe's service, not yet started."""
        return self.process("service", probe.NAME, **more)

    def relay(self, **more: str) -> Process:
        """The probe's relay, not yet started."""
        return self.process("relay", probe.NAME, **more)

    def close(self) -> None:
        """Takes everything away."""
        super().close()
        self._clients.close()


@dataclass(frozen=True, slots=True)
class Reply:
    """An answer to an HTTP request."""

    status: int
    headers: http.client.HTTPMessage
    """By name, whatever its case."""
    body: bytes

    @property
    def json(self) -> Any:
        """The body's JSON value."""
        return json.loads(self.body)

    @property
    def code(self) -> str:
        """The code of a problem document."""
        assert self.headers["Content-Type"] == "application/problem+json"
        return str(self.json["code"])


def call(
    port: int,
    method: str,
    path: str,
    body: object = None,
    *,
    token: str | None = None,
    timeout: float = 20,
    **headers: str,
) -> Reply:
    """One request on a connection of its own; a body that is no bytes is sent as JSON; a_b becomes a-b."""
    sent = {name.replace("_", "-"): text for name, text in headers.items()}
    if token:
        sent["Authorization"] = f"Bearer {token}"
    if body is not None:
        sent.setdefault("Content-Type", "application/json")
    raw = body if body is None or isinstance(body, bytes) else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request(method, path, raw, sent)
        answer = connection.getresponse()
        return Reply(answer.status, answer.headers, answer.read())
    finally:
        connection.close()


def new_key() -> str:
    """An Idempotency-Key that nobody used."""
    return os.urandom(16).hex()
