"""``estation simulate``: devices that behave like the front line, over HTTP with real keys, and a ledger of their own.

Each device captures by the hour of the day, loses the network now and then, loses answers, sends again, and sends
in bursts when it is back. What was acknowledged is added up here, outside the system, and held against the plan's
figure and the Prometheus text at the end.
"""

import json
import os
import random
import threading
import time
import uuid
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import click
import requests

from contracts.codes import ServiceKind
from deploy.commands.api import SECONDS, Api, Refused, edge_url
from deploy.local import layout
from services.kernel import clock

HOURS = (1, 1, 1, 1, 1, 2, 4, 7, 8, 9, 11, 16, 18, 13, 10, 9, 9, 11, 12, 8, 5, 3, 2, 1)
"""How busy a station is by the hour of the day, in parts of the busiest."""
KINDS = {
    ServiceKind.WATER: 40,
    ServiceKind.REST: 35,
    ServiceKind.MEAL: 10,
    ServiceKind.CHARGING: 12,
    ServiceKind.MOTHER_ROOM: 3,
}
BATCH_MAX = 200
SEND_EVERY = (1.0, 4.0)
OFFLINE_SHARE = 0.15
LOST_ANSWERS = 0.03


@dataclass
class Ledger:
    """What devices were told; kept outside the system."""

    people: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, sent: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
        """Notes the results of one answered batch."""
        with self.lock:
            for row, result in zip(sent, results, strict=True):
                self.rows[result["status"]] += 1
                self.people += row["people"] if result["status"] == "accepted" else 0


class Device(threading.Thread):
    """One simulated tablet."""

    def __init__(self, key: str, ledger: Ledger, dice: random.Random, rate: float, until: float) -> None:
        super().__init__(daemon=True)
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"
        self._ledger, self._dice, self._rate, self._until = ledger, dice, rate, until
        self._queue: list[dict[str, Any]] = []
        self.made = 0
        self.unsent = 0

    def run(self) -> None:
        """Captures until the time is up, then sends until nothing is left (at most a minute)."""
        next_row = time.monotonic() + self._pause()
        next_send = time.monotonic() + self._dice.uniform(*SEND_EVERY)
        offline_until = 0.0
        while (now := time.monotonic()) < self._until:
            while next_row <= now:
                self._capture()
                next_row += self._pause()
            if next_send <= now:
                if now >= offline_until and self._dice.random() < OFFLINE_SHARE / 4:
                    offline_until = now + self._dice.uniform(5, 25)
                if now >= offline_until and self._queue:
                    self._send()
                next_send = now + self._dice.uniform(*SEND_EVERY)
            time.sleep(0.05)
        deadline = time.monotonic() + 60
        while self._queue and time.monotonic() < deadline:
            if not self._send():
                time.sleep(self._dice.uniform(0.2, 1.0))
        self.unsent = len(self._queue)

    def _pause(self) -> float:
        busy = HOURS[datetime.now(clock.SHANGHAI).hour] / max(HOURS)
        return self._dice.expovariate(self._rate * max(busy, 0.25) / 60)

    def _capture(self) -> None:
        self.made += 1
        self._queue.append(
            {
                "id": str(uuid.UUID(int=self._dice.getrandbits(128), version=4)),
                "captured_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
                "kind": self._dice.choices(list(KINDS), weights=list(KINDS.values()))[0],
                "people": self._dice.choices([1, 2, 3, 5, 12], weights=[70, 18, 7, 4, 1])[0],
            }
        )

    def _send(self) -> bool:
        batch = self._queue[:BATCH_MAX]
        started = time.perf_counter()
        try:
            answer = self._session.post(
                edge_url() + "/api/v1/stations/checkins",
                json={"sent_at": datetime.now(UTC).isoformat(timespec="milliseconds"), "items": batch},
                timeout=SECONDS,
            )
        except requests.RequestException as error:
            self._fault(type(error).__name__)
            return False
        if answer.status_code != requests.codes.ok:
            self._fault(str(answer.status_code))
            time.sleep(min(5.0, float(answer.headers.get("Retry-After", "0"))))
            return False
        if self._dice.random() < LOST_ANSWERS:  # the answer is lost on the way: the same rows go out again
            self._fault("answer lost")
            return False
        with self._ledger.lock:
            self._ledger.latencies.append(time.perf_counter() - started)
        self._ledger.settle(batch, answer.json()["results"])
        self._queue = self._queue[len(batch) :]
        return True

    def _fault(self, kind: str) -> None:
        with self._ledger.lock:
            self._ledger.faults[kind] += 1


@click.command()
@click.option("--devices", default=50, show_default=True, type=click.IntRange(1, 2000))
@click.option("--minutes", default=2.0, show_default=True, type=click.FloatRange(0.05, 24 * 60))
@click.option("--rate", default=30.0, show_default=True, help="Check-ins a minute and device in the busiest hour")
@click.option("--seed", "seed_", default=None, type=int, help="Repeat a run's dice")
def simulate(devices: int, minutes: float, rate: float, seed_: int | None) -> None:
    """Post check-ins like the front line does, then hold the figures against what was acknowledged."""
    seed_ = seed_ if seed_ is not None else random.SystemRandom().randrange(10**6)
    officer = Api.officer()
    keys = _keys(officer, devices)
    before = _figures()
    click.echo(f"seed {seed_}: {devices} devices for {minutes:g} minutes")
    ledger, until = Ledger(), time.monotonic() + minutes * 60
    fleet = [
        Device(key, ledger, random.Random(seed_ * 10_000 + number), rate, until)  # noqa: S311 (a simulation)
        for number, key in enumerate(keys)
    ]
    for device in fleet:
        device.start()
    for device in fleet:
        device.join()
    _report(fleet, ledger)
    wanted = before[0] + ledger.people
    shown = _await_figures(wanted)
    year = clock.day(clock.now())[:4]
    click.echo(f"plan {year}, stations.checkins: {before[0]} + {ledger.people} acknowledged = {wanted}")
    click.echo(f"shown: plan {shown[0]}, Prometheus {shown[1]}")
    unsent = sum(device.unsent for device in fleet)
    if shown != (wanted, wanted) or unsent:
        raise click.ClickException("the figures do not agree" if not unsent else f"{unsent} rows could not be sent")
    click.echo("every acknowledged check-in is in both")


def _report(fleet: list[Device], ledger: Ledger) -> None:
    latencies = sorted(ledger.latencies) or [0.0]
    made = sum(device.made for device in fleet)
    click.echo(
        f"{made} rows captured; answered: {dict(ledger.rows)}; {ledger.people} people accepted; "
        f"faults: {dict(ledger.faults) or 'none'}"
    )
    click.echo(
        f"{len(ledger.latencies)} requests, p50 {latencies[len(latencies) // 2] * 1000:.0f} ms, "
        f"p99 {latencies[len(latencies) * 99 // 100] * 1000:.0f} ms"
    )


def _keys(officer: Api, count: int) -> list[str]:
    """Keys of enrolled devices, spread over the open stations; kept beside the other secrets for the next run."""
    path = Path(os.environ["ESTATION_VAR"]) / "secrets" / "simulated-devices.json"
    keys: list[str] = json.loads(path.read_text()) if path.exists() else []
    stations = officer.all("/stations/stations?state=active")
    if not stations:
        raise Refused("there is no open station: `estation seed` makes some")
    while len(keys) < count:
        station = stations[len(keys) % len(stations)]
        body = {"label": f"模拟平板 {len(keys) + 1}"}
        keys.append(officer.call("POST", f"/stations/stations/{station['id']}/devices", body, creates=True)["key"])
    path.touch(mode=0o600)
    path.write_text(json.dumps(keys))
    return keys[:count]


def _figures() -> tuple[int, int]:
    """People at stations this year, as the plan and as Prometheus show it."""
    year = clock.day(clock.now())[:4]
    plan = requests.get(f"{edge_url()}/api/v1/metrics/plan/{year}", timeout=SECONDS).json()
    actual = next(row["actual"] for row in plan["rows"] if row["key"] == "stations.checkins")
    ops = f"http://127.0.0.1:{layout.read().ports['metrics-ops']}/metrics"
    exposed = 0.0
    for line in requests.get(ops, timeout=SECONDS).text.splitlines():
        if line.startswith("estation_plan_actual{") and 'key="stations.checkins"' in line and f'year="{year}"' in line:
            exposed += float(line.rsplit(" ", 1)[1])
    return int(actual or 0), int(exposed)


def _await_figures(wanted: int, seconds: float = 60) -> tuple[int, int]:
    deadline = time.monotonic() + seconds
    while (shown := _figures()) != (wanted, wanted) and time.monotonic() < deadline:
        time.sleep(0.2)
    return shown
