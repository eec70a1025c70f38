"""What ours is compared with, each in an environment of its own (``var/bench/<name>``), pinned by hashes.

Fair: the same rows from the same generator over as many connections, the same verdicts (asked before the first round),
documents, indexes, write concern, exchange, queue and event; persistent messages, awaited confirms. Tuned: uvicorn on
uvloop and httptools without access log, pydantic on the raw body, asynchronous pymongo, publishing of a batch at once.
They need not limit rates, continue traces or measure themselves, which ours does.
"""

import contextlib
import hashlib
import json
import os
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import pika
from pymongo.database import Database

from contracts import catalogue
from services.kernel.mongo import Document
from services.stations.store import checkin_events
from tests.bench.scene import Bench, Facts, Service, alike, free, program, say
from tests.integration.stations_api import ago, row
from tests.parts import PROJECT, World, listens, until

OURS: Final = (sys.executable,)
HERE: Final = Path(__file__).parent
PUBLISHED: Final = "stations.checkin_recorded.v1"
CELERY_QUEUE: Final = "bench.celery"
FASTAPI: Final = "fastapi"
CELERY: Final = "celery"
PROFILE: Final = "profile"


def environment(name: str) -> Path:
    """The environment of ``requirements/bench-<name>.txt``, made when it is missing or another; its ``bin``."""
    folder = PROJECT / "var" / "bench" / name
    wanted = PROJECT / "requirements" / f"bench-{name}.txt"
    stamp, digest = folder / "estation-bench", hashlib.sha256(os.fsencode(PROJECT) + wanted.read_bytes()).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        say(f"  making {folder.relative_to(PROJECT)}")
        python = str(folder / "bin" / "python")
        for command in (
            (sys.executable, "-m", "venv", "--clear", str(folder)),
            (python, "-m", "pip", "install", "--quiet", "--no-input", "--require-hashes", "--requirement", str(wanted)),
        ):
            subprocess.run(command, check=True, stdout=sys.stderr)
        stamp.write_text(digest)
    return folder / "bin"


def versions(name: str, *packages: str) -> dict[str, str]:
    """Of packages in a peer's environment."""
    ask = f"import importlib.metadata as m, json; print(json.dumps({{n: m.version(n) for n in {packages!r}}}))"
    told = subprocess.run([environment(name) / "python", "-c", ask], check=True, capture_output=True)
    found: dict[str, str] = json.loads(told.stdout)
    return found


@dataclass(frozen=True, slots=True)
class Peer:
    """One running server."""

    name: str
    port: int
    keys: Sequence[str]
    database: Database[Document]
    work: Sequence[str]
    """The command of its relay or worker; empty: there is none."""
    environ: dict[str, str]
    log: Path
    world: World

    @contextlib.contextmanager
    def companion(self) -> Iterator[None]:
        """Its relay or worker runs while the block runs."""
        if not self.work:
            yield
            return
        with program(self.work, self.log, self.environ, cwd=HERE):
            if self._is_celery:
                until(lambda: self._celery().consumer_count, "a Celery worker consumes", 60)
            else:
                self._probe_outbox()
            yield

    def left(self) -> int:
        """What its relay or worker has not done yet."""
        if self._is_celery:
            return int(self._celery().message_count)
        return self.database["outbox"].estimated_document_count()

    def forget(self) -> None:
        """Throws away what is left to do."""
        if self._is_celery:
            with self._channel() as channel:
                channel.queue_purge(CELERY_QUEUE)

    @property
    def _is_celery(self) -> bool:
        return "Celery" in self.name

    def _celery(self) -> Any:
        with self._channel() as channel:
            return channel.queue_declare(CELERY_QUEUE, durable=True).method

    def _probe_outbox(self) -> None:
        """Returns when its relay has published an event."""
        document = Facts(0).documents(1)[0]
        (told,) = checkin_events(document)
        body = json.dumps(told).encode()
        self.database["outbox"].insert_one({"_id": document["_id"], "at": document["received_at"], "body": body})
        until(lambda: not self.left(), "the outbox's relay publishes", 30)

    @contextlib.contextmanager
    def _channel(self) -> Iterator[Any]:
        with contextlib.closing(pika.BlockingConnection(pika.URLParameters(self.world.broker.admin_url))) as connection:
            yield connection.channel()


VARIANTS: Final = {
    "FastAPI + FastStream, dual write": "dual",
    "FastAPI + FastStream, outbox": "outbox",
    "FastAPI, insert only": "insert",
}


@contextlib.contextmanager
def started(bench: Bench, service: Service) -> Iterator[list[Peer]]:
    """All peers' servers, judged alike with ours before they are given."""
    with contextlib.ExitStack() as stack:
        peers = [
            stack.enter_context(_fastapi(bench, service, f"{name}{', 2 processes' * (workers - 1)}", variant, workers))
            for workers in (1, 2)
            for name, variant in VARIANTS.items()
        ]
        peers.append(stack.enter_context(_celery(bench, service)))
        for peer in peers:
            _assert_alike(service, peer)
        yield peers


@contextlib.contextmanager
def _fastapi(bench: Bench, service: Service, name: str, variant: str, workers: int) -> Iterator[Peer]:
    bin_ = environment(FASTAPI)
    relay = (str(bin_ / "python"), "fastapi_app.py") if variant == "outbox" else ()
    with _server(bench, service, name, bin_, "fastapi_app:app", variant, workers, relay) as peer:
        yield peer


@contextlib.contextmanager
def _celery(bench: Bench, service: Service) -> Iterator[Peer]:
    bin_ = environment(CELERY)
    worker = (str(bin_ / "celery"), "-A", "celery_app:tasks", "worker", "--concurrency", "2", "--loglevel", "WARNING")
    quiet = ("--without-gossip", "--without-mingle", "--without-heartbeat")
    with _server(
        bench, service, "FastAPI + Celery .delay", bin_, "celery_app:app", "celery", 1, worker + quiet
    ) as peer:
        peer._celery()  # its queue, before the web side sends to it
        yield peer


@contextlib.contextmanager
def _server(
    bench: Bench, service: Service, name: str, bin_: Path, app: str, variant: str, workers: int, work: Sequence[str]
) -> Iterator[Peer]:
    world, port = service.world, free()
    database = service.database.client[f"{world.prefix}{variant}{workers}"]
    environ = {
        "BENCH_MONGODB_URL": world.parts.mongodb_url,
        "BENCH_DATABASE": database.name,
        "BENCH_AMQP_URL": world.broker.admin_url,
        "BENCH_EXCHANGE": catalogue.exchange("stations"),
        "BENCH_TYPE": PUBLISHED,
        "BENCH_VARIANT": variant,
    }
    keys = _enroll(service, database)
    log = bench.folder / f"{variant}-{workers}.log"
    command = (
        *(str(bin_ / "python"), "-m", "uvicorn", app, "--port", str(port), "--workers", str(workers)),
        *("--loop", "uvloop", "--http", "httptools", "--no-access-log", "--log-level", "warning"),
    )
    with program(command, log, environ, cwd=HERE):
        until(lambda: listens(port), f"{name} listens", 60)
        yield Peer(name, port, keys, database, work, environ, log, world)


def _enroll(service: Service, database: Database[Document]) -> list[str]:
    """Our devices with their stations' histories; indexes like ours."""
    alike(database["checkins"], service.database["checkins"])
    database["outbox"].create_index("at")
    database["devices"].create_index("keys")
    for kiosk in service.kiosks:
        device = service.database["devices"].find_one({"_id": kiosk.id})
        station = service.database["stations"].find_one({"_id": kiosk.station})
        assert device is not None
        assert station is not None
        database["devices"].insert_one(
            {
                **{name: device[name] for name in ("_id", "station", "county", "enrolled_at")},
                "history": station["history"],
                "keys": [hashlib.sha256(kiosk.key.encode()).hexdigest()],
            }
        )
    return [kiosk.key for kiosk in service.kiosks]


def _assert_alike(service: Service, peer: Peer) -> None:
    """Both give each row the same verdict, or the comparison is worth nothing."""
    rows: list[Any] = [
        row(),
        row(kind="sleep"),
        row(people=0),
        row(people=501),
        row(people="3"),
        row(id="no-id"),
        row(note="unknown field"),
        row(captured_at="yesterday"),
        row(captured_at="2025-07-16T09:30:00"),
        row(captured_at=ago(days=-1)),
        row(captured_at=ago(days=40)),
        row(station=row()["id"]),
        {},
        7,
    ]
    body = json.dumps({"items": rows}).encode()
    verdicts = [_post(port, body, service.keys[0]) for port in (service.ports[0], peer.port)]
    if verdicts[0] != verdicts[1]:
        raise RuntimeError(f"{peer.name} judges otherwise than ours: {verdicts}")


def _post(port: int, body: bytes, key: str) -> list[str]:
    request = urllib.request.Request(
        f"http://127.0.0.1:{port}/api/v1/stations/checkins",
        body,
        {"Authorization": f"Bearer {key}", "Content-Type": "application/json"},
    )
    with urllib.request.urlopen(request, timeout=30) as answer:
        return [result["status"] for result in json.loads(answer.read())["results"]]


def all_versions() -> dict[str, str]:
    """Of everything the peers stand on."""
    return {
        **versions(FASTAPI, "fastapi", "pydantic", "uvicorn", "uvloop", "faststream", "aio-pika"),
        "pymongo of the peers": versions(FASTAPI, "pymongo")["pymongo"],
        **versions(CELERY, "celery"),
    }
