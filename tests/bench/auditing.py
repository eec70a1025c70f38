"""What the audit chain costs the busiest path: check-ins stored with and without a sealer, and how fast it seals.

``python -m tests.bench.auditing`` prints the figures.
"""

import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Final
from uuid import uuid4

import mongoengine
from pymongo.database import Database

from contracts import codes
from deploy import audit_verify
from services.kernel import clock, mongo
from services.kernel.act import Act
from services.kernel.auth import Actor
from services.kernel.mongo import Document
from services.kernel.sealer import Sealer
from services.kernel.settings import Settings
from services.stations import handlers, rules, schemas, store
from services.stations.store import AUDITED, Store
from tests.parts import PROJECT, started, until

NAME: Final = "stations"
BATCH: Final = 50
THREADS: Final = 4
TRACE: Final = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


@dataclass(frozen=True, slots=True)
class Figures:
    """Check-ins a second: stored without and with a sealer beside (a value a round), sealed, verified.

    ``lag``: seconds until the last row of a round was sealed.
    """

    off: Sequence[float]
    on: Sequence[float]
    lag: Sequence[float]
    sealed: float
    verified: float


class _Unaudited(Store):
    """The store as it would be without an audit chain."""

    def insert_checkins(self, documents: Sequence[Document]) -> list[Document | None]:
        for document in documents:
            del document["unsealed"]
        return super().insert_checkins(documents)


def measure(settings: Settings, rounds: int = 5, seconds: float = 4.0) -> Figures:
    """Stores check-ins as fast as the handlers can, with and without in turn, in a database of its own."""
    database = mongo.connect_documents(settings, NAME, "bench")
    try:
        store.ensure_indexes(database)
        plain, audited = _Unaudited(database), Store(database)
        view = _device(audited)
        off, on, lag = [], [], []
        for _ in range(rounds):
            off.append(_rate(plain, view, seconds))
            with _sealing(settings):
                on.append(_rate(audited, view, seconds))
                ended = time.monotonic()
                until(lambda: not _waiting(database), "all is sealed", 60)
                lag.append(time.monotonic() - ended)
        _rate(audited, view, seconds)
        sealed = _backlog(database)
        _forget_unaudited(database)
        report = audit_verify.verify(NAME, database, AUDITED)
        if report.findings:
            raise AssertionError(report.findings[:3])
        return Figures(off, on, lag, sealed, report.rows / report.seconds)
    finally:
        database.client.drop_database(database.name)
        mongoengine.disconnect(NAME)


def _forget_unaudited(database: Database[Document]) -> None:
    """Deletes what the rounds without auditing stored, in parts that one command's time is enough for."""
    checkins = database["checkins"]
    while ids := [one["_id"] for one in checkins.find({"unsealed": {"$exists": False}}, {"_id": 1}).limit(2000)]:
        checkins.delete_many({"_id": {"$in": ids}})


def _device(stored: Store) -> dict[str, object]:
    officer = Act(Actor("officer-1", "person", frozenset({"city_officer"}), codes.CITY), clock.now(), TRACE)
    place = {"county": "370902", "name": "bench", "address": "bench", "opens": "08:00", "closes": "20:00"}
    station, _ = handlers.propose_station(stored, officer, {**place, "position": None, "facilities": []}, None)
    station = handlers.move_station(stored, officer, station["_id"], "open", "bench")
    device, _ = handlers.enroll_device(stored, officer, station["_id"], "bench", None)
    return handlers.device_view(device, station)


def _rate(stored: Store, view: dict[str, object], seconds: float) -> float:
    """Check-ins a second that the handlers store."""
    counts, end = [0] * THREADS, time.monotonic() + seconds
    actor = Actor(str(view["id"]), "device", rules.DEVICES, "370902", view)

    def work(place: int) -> None:
        while time.monotonic() < end:
            now = clock.now()
            rows = [
                {"id": str(uuid4()), "captured_at": clock.rfc3339(now), "kind": "water", "people": 3}
                for _ in range(BATCH)
            ]
            act = Act(actor, now, TRACE)
            counts[place] += len(handlers.record_checkins(stored, act, view, rows, None, schemas.load_row))

    begun = time.monotonic()
    threads = [threading.Thread(target=work, args=(place,)) for place in range(THREADS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.monotonic() - begun)


def _waiting(database: Database[Document]) -> int:
    return database["checkins"].count_documents({"unsealed": True})


def _backlog(database: Database[Document]) -> float:
    """Rows a second that a sealer seals when many wait."""
    sealer = Sealer(NAME, database, AUDITED, holder="bench")
    begun, count = time.monotonic(), 0
    while sealed := sealer.seal():
        count += sealed
    return count / (time.monotonic() - begun)


@contextmanager
def _sealing(settings: Settings) -> Iterator[None]:
    process = subprocess.Popen(
        [sys.executable, "-m", __spec__.name, settings.mongodb_url, settings.mongodb_prefix], cwd=PROJECT
    )
    try:
        yield
    finally:
        process.kill()  # the next round's takes over as one does after an accident
        process.wait(10)


def _seal(url: str, prefix: str) -> None:
    database = mongo.connect(Settings(mongodb_url=url, mongodb_prefix=prefix), NAME, "sealer")
    database["leases"].delete_one({"_id": "sealer"})
    Sealer(NAME, database, AUDITED, holder="bench").run()


def _print(figures: Figures) -> None:
    off, on = median(figures.off), median(figures.on)
    ratio = median(with_ / without for with_, without in zip(figures.on, figures.off, strict=True))
    print(f"check-ins stored, auditing off  {off:8.0f}/s  {[round(value) for value in figures.off]}")  # noqa: T201
    print(f"check-ins stored, auditing on   {on:8.0f}/s  {[round(value) for value in figures.on]}, ratio {ratio:.2f}")  # noqa: T201
    print(f"last one sealed after           {max(figures.lag):8.2f} s at most")  # noqa: T201
    print(f"sealed, when many wait          {figures.sealed:8.0f}/s")  # noqa: T201
    print(f"verified                        {figures.verified:8.0f}/s")  # noqa: T201


if __name__ == "__main__":
    if len(sys.argv) > 1:
        _seal(*sys.argv[1:])
    else:
        with tempfile.TemporaryDirectory() as folder, started(Path(folder)) as parts:
            _print(measure(Settings(mongodb_url=parts.mongodb_url, mongodb_prefix="bench_")))
