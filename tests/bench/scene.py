"""What every figure is measured with: worlds, rounds, the load generator, collections emptied at once, facts."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime, timedelta
from pathlib import Path
from random import Random
from typing import Any, Final, Self, cast
from urllib.parse import quote
from uuid import UUID

import psutil  # type: ignore[import-untyped]
from pymongo import IndexModel, MongoClient
from pymongo.collection import Collection
from pymongo.database import Database

from contracts.codes import REPORTING_UNITS
from contracts.envelope import Event
from services.kernel import clock, mongo, telemetry
from services.kernel.act import Act
from services.kernel.app import DEVICE
from services.kernel.auth import Actor
from services.kernel.mongo import Document
from services.stations import handlers, rules, schemas
from services.stations.store import Store, checkin_events
from tests.bench.load import KINDS, Job, Outcome
from tests.integration.stations_api import UNLIMITED, Kiosk, Stations, documents
from tests.parts import PROJECT, Parts, Process, World, free_port, listens, until

CONNECTIONS: Final = 20
STATIONS: Final = 400
PEOPLE: Final = 60
TODAY: Final = 0.8
"""The share of rows that were captured today; the rest came from devices that had been offline, up to four weeks."""
OFFLINE_DAYS: Final = 28

Sample = Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Options:
    """What the command line says."""

    seconds: float = 4.0
    """One participant's time in one round."""
    rounds: int = 5
    seed: int = 0
    sustained_seconds: float = 300.0
    fill: int = 50_000
    """Events to drain in a round."""
    history: int = 2_000_000
    """Rows of the grown log."""
    peers: bool = True

    def quick(self) -> "Options":
        """A look at whether everything runs; its figures mean little."""
        return Options(1.0, 1, self.seed, 20.0, 5_000, 20_000, self.peers)


class Bench:
    """One run of the benchmark on one private broker and database."""

    def __init__(self, parts: Parts, options: Options, folder: Path) -> None:
        self.parts, self.options, self.folder = parts, options, folder
        self._numbers = iter(range(10**9))

    def seed(self) -> int:
        """A seed of its own for each thing that draws, the same in each run of the same seed."""
        return self.options.seed * 1_000_003 + next(self._numbers)

    @contextlib.contextmanager
    def world(self) -> Iterator[World]:
        """A vhost and databases of their own."""
        folder = self.folder / f"world-{next(self._numbers)}"
        folder.mkdir()
        world = World(self.parts, folder)
        try:
            yield world
        finally:
            world.close()

    def rounds(
        self, participants: Mapping[str, Callable[[], Sample]], count: int | None = None
    ) -> dict[str, list[Sample]]:
        """Each participant in turn, and again: A B C A B C. What swings with the machine swings for all."""
        seen: dict[str, list[Sample]] = {name: [] for name in participants}
        for number in range(count or self.options.rounds):
            for name, measure in participants.items():
                sample = measure()
                seen[name].append(sample)
                told = "  ".join(f"{key} {value:,.1f}" for key, value in sample.items())
                say(f"  round {number + 1}  {name:<46} {told}")
        return seen

    def load(self, ports: Sequence[int], keys: Sequence[str], *, rows: int, **more: Any) -> "Load":
        """The load generator, built and waiting."""
        known: dict[str, Any] = {
            "connections": CONNECTIONS,
            "seconds": self.options.seconds,
            "seed": self.seed(),
            **more,
        }
        return Load(Job(ports=list(ports), keys=list(keys), rows=rows, **known))


class Load:
    """The load generator's process."""

    def __init__(self, job: Job) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.bench.load"], cwd=PROJECT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        self._say(json.dumps(asdict(job)))
        assert self._process.stdout is not None
        if self._process.stdout.readline() != b"ready\n":
            raise RuntimeError("the load generator did not get ready")

    def start(self) -> Self:
        """Lets it begin."""
        self._say("go")
        return self

    def allow(self, rows: int) -> None:
        """In paced runs: so many rows may have been sent."""
        with contextlib.suppress(BrokenPipeError):  # it has just ended
            self._say(str(rows))

    @property
    def ended(self) -> bool:
        """Whether it is over."""
        return self._process.poll() is not None

    def outcome(self) -> Outcome:
        """Waits for the end.

        Raises:
            RuntimeError: a connection broke, or an answer did not accept what was sent.
        """
        told, _errors = self._process.communicate()
        if self._process.returncode or not told:
            raise RuntimeError(f"the load generator ended with {self._process.returncode}")
        outcome = Outcome(**json.loads(told))
        if outcome.wrong:
            raise RuntimeError(f"{outcome.wrong} answers did not accept what was sent")
        return outcome

    def _say(self, line: str) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(line.encode() + b"\n")
        self._process.stdin.flush()


class Service:
    """The stations service in one or more processes, with devices that have been there for weeks."""

    def __init__(self, world: World, *, processes: int = 1) -> None:
        self.world = world
        self.stations = Stations(world, relay=False)
        self.database = self.stations.database
        more = [world.process("service", "stations", **UNLIMITED).start() for _ in range(processes - 1)]
        for process in more:
            until(lambda port=process.http_port: listens(port), "the service listens")  # type: ignore[misc]
        self.processes: list[Process] = [self.stations.process, *more]
        self.kiosks = [self._kiosk(number) for number in range(CONNECTIONS)]

    def _kiosk(self, number: int) -> Kiosk:
        kiosk = self.stations.kiosk(county=REPORTING_UNITS[number % len(REPORTING_UNITS)])
        self.stations.backdate(kiosk, days=OFFLINE_DAYS + 1)
        return kiosk

    @property
    def ports(self) -> list[int]:
        """Of all processes."""
        return [process.http_port for process in self.processes]

    @property
    def keys(self) -> list[str]:
        """Of all devices."""
        return [kiosk.key for kiosk in self.kiosks]

    def close(self) -> None:
        """Ends the connections of this process; the world ends the rest."""
        self.database.client.close()


class _Collecting:
    """Takes the place of the store, to learn which documents a use case would write."""

    def __init__(self) -> None:
        self.documents: list[Document] = []

    def insert_checkins(self, documents: Sequence[Document]) -> list[None]:
        self.documents.extend(documents)
        return [None] * len(documents)


class Facts:
    """Check-ins that do not repeat: stations, people, kinds and days vary as they would over a city.

    The documents are the use case's own, made without HTTP and database.
    """

    def __init__(self, seed: int) -> None:
        self._random = Random(seed)
        since = clock.now() - timedelta(days=OFFLINE_DAYS + 2)
        history = [{"state": rules.ACTIVE, "since": since}]
        self._devices = [
            {
                "id": self.id(),
                "station": self.id(),
                "county": self._random.choice(REPORTING_UNITS),
                "enrolled_at": since,
                "history": history,
            }
            for _ in range(STATIONS)
        ]

    def id(self) -> str:
        """A UUIDv4, drawn."""
        return str(UUID(int=self._random.getrandbits(128), version=4))

    def documents(self, count: int, *, rows: int = 1) -> list[Document]:
        """So many check-ins as the service writes them; ``rows`` came in one request. ``recorded_at`` rises by 1 ms."""
        store = _Collecting()
        now = clock.now() - timedelta(milliseconds=count)
        while len(store.documents) < count:
            device = self._random.choice(self._devices)
            wanted = min(rows, count - len(store.documents))
            self._record(store, device, [self._row(now) for _ in range(wanted)], now)
        for number, document in enumerate(store.documents):
            document["recorded_at"] = now + timedelta(milliseconds=number)
        return store.documents

    def events(self, count: int) -> list[Event]:
        """The events of so many check-ins."""
        return [event for document in self.documents(count, rows=20) for event in checkin_events(document)]

    def _record(self, store: _Collecting, device: dict[str, Any], rows: list[dict[str, Any]], now: datetime) -> None:
        actor = Actor(device["id"], DEVICE, rules.DEVICES, device["county"], device)
        act = Act(actor, now, telemetry.continued(None))
        handlers.record_checkins(cast("Store", store), act, device, rows, None, schemas.load_row)

    def _row(self, now: datetime) -> dict[str, Any]:
        days = 0 if self._random.random() < TODAY else self._random.uniform(1, OFFLINE_DAYS)
        captured_at = now - timedelta(days=days, seconds=self._random.uniform(1, 3600))
        return {
            "id": self.id(),
            "captured_at": clock.rfc3339(captured_at),
            "kind": self._random.choice(KINDS),
            "people": self._random.randint(1, PEOPLE),
        }


def client(world: World) -> "MongoClient[Document]":
    """The database as a service's own connection would see it."""
    return mongo.connect(world.settings("stations"), "stations", "bench").client


def renew(collection: Collection[Document]) -> None:
    """Empties a collection at once; its indexes stay."""
    indexes = _indexes(collection)
    collection.drop()
    if indexes:
        collection.create_indexes(indexes)


def alike(collection: Collection[Document], model: Collection[Document]) -> None:
    """Gives a collection the indexes of another."""
    if indexes := _indexes(model):
        collection.create_indexes(indexes)


def _indexes(collection: Collection[Document]) -> list[IndexModel]:
    return [
        IndexModel(
            about.pop("key"), name=name, **{key: value for key, value in about.items() if key not in ("v", "ns")}
        )
        for name, about in collection.index_information().items()
        if name != "_id_"
    ]


def stations_database(world: World) -> Database[Document]:
    """The database of stations with its indexes, where no service is started."""
    with documents(world):
        return mongo.connect(world.settings("stations"), "stations", "bench")


def purge(world: World, queue: str) -> None:
    """Throws away what waits in a queue."""
    world.broker.management.call("DELETE", f"/queues/{quote(world.broker.vhost, safe='')}/{quote(queue)}/contents")


@contextlib.contextmanager
def program(command: Sequence[str], log: Path, environ: Mapping[str, str], *, cwd: Path = PROJECT) -> Iterator[int]:
    """Runs a peer's program while the block runs; gives its pid. Its children end with it."""
    with log.open("ab") as output:
        process = subprocess.Popen(
            command,
            cwd=cwd,
            env={**os.environ, **environ},
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        yield process.pid
    finally:
        family = [process.pid, *(child.pid for child in psutil.Process(process.pid).children(recursive=True))]
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        for pid in family[1:]:
            with contextlib.suppress(psutil.NoSuchProcess):
                psutil.Process(pid).kill()


def cpu_seconds(processes: Iterable[Process]) -> float:
    """Processor time that our processes have taken so far: what a busy machine does not distort."""
    pids = [process.popen.pid for process in processes if process.popen is not None]
    return float(sum(sum(psutil.Process(pid).cpu_times()[:2]) for pid in pids))


def free() -> int:
    """A port for a peer."""
    return free_port()


def drained(read: Callable[[], int], target: int, *, begun_at: int = 1, seconds: float = 300) -> tuple[float, float]:
    """(events, seconds) from the first moment at which ``read`` says ``begun_at`` or more to that of ``target``.

    Raises:
        RuntimeError: not within ``seconds``.
    """
    deadline = time.monotonic() + seconds
    first: tuple[int, float] | None = None
    while time.monotonic() < deadline:
        seen, at = read(), time.perf_counter()
        if first is None and seen >= begun_at:
            first = (seen, at)
        if seen >= target:
            assert first is not None
            return target - first[0], at - first[1]
        time.sleep(0.005)  # how often to look; the figure rests on the moments seen
    raise RuntimeError(f"only {read()} of {target} within {seconds} s")


def say(line: str) -> None:
    """Progress, to stderr: stdout has the table alone."""
    print(line, file=sys.stderr, flush=True)  # noqa: T201
