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
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import click
import requests
from urllib3.exceptions import NewConnectionError

from contracts.codes import ServiceKind
from deploy.commands.api import SECONDS, Api, Refused, edge_url
from deploy.local import layout
from services.kernel import clock
from services.stations.handlers import KEY_PREFIX

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
REFUSED = "refused"
LOST = "answer lost"
PATIENCE_SECONDS = 60
"""How long a device that stopped capturing tries to get rid of what it still holds."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How a device behaves. ``rate``: check-ins a minute in the busiest hour; the others: shares and seconds."""

    rate: float
    by_hour: bool = True
    send_every: tuple[float, float] = (1.0, 4.0)
    offline_share: float = 0.04
    offline_seconds: tuple[float, float] = (5.0, 25.0)
    lost_answers: float = 0.03
    wrong_clock: float = 0.0
    """Rows captured by a clock that is days off: they wait for an officer."""


@dataclass
class Ledger:
    """What devices were told; kept outside the system."""

    people: int = 0
    rows: Counter[str] = field(default_factory=Counter)
    faults: Counter[str] = field(default_factory=Counter)
    latencies: list[float] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def settle(self, device: str, sent: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
        """Notes the results of one answered batch."""
        del device
        with self.lock:
            for row, result in zip(sent, results, strict=True):
                self.rows[result["status"]] += 1
                self.people += row["people"] if result["status"] == "accepted" else 0


class Device(threading.Thread):
    """One simulated tablet."""

    def __init__(
        self, key: str, ledger: Ledger, dice: random.Random, habits: Habits, stop: threading.Event, edge: str
    ) -> None:
        super().__init__(daemon=True)
        self._session = requests.Session()
        self._session.headers["Authorization"] = f"Bearer {key}"
        self._ledger, self._dice, self._habits, self._stopping = ledger, dice, habits, stop
        self._url = edge + "/api/v1/stations/checkins"
        self._queue: list[dict[str, Any]] = []
        self.id = key.removeprefix(KEY_PREFIX).partition(".")[0]
        self.made = 0
        self.unsent = 0

    def run(self) -> None:
        """Captures until told to stop, then sends until nothing is left (at most a minute)."""
        next_row = time.monotonic() + self._pause()
        next_send = time.monotonic() + self._dice.uniform(*self._habits.send_every)
        offline_until = 0.0
        while not self._stopping.wait(max(0.0, min(next_row, next_send) - time.monotonic())):
            now = time.monotonic()
            while next_row <= now:
                self._capture()
                next_row += self._pause()
            if next_send <= now:
                if now >= offline_until and self._dice.random() < self._habits.offline_share:
                    offline_until = now + self._dice.uniform(*self._habits.offline_seconds)
                if now >= offline_until and self._queue:
                    self._send()
                next_send = now + self._dice.uniform(*self._habits.send_every)
        deadline = time.monotonic() + PATIENCE_SECONDS
        while self._queue and time.monotonic() < deadline:
            if not self._send():
                time.sleep(self._dice.uniform(0.2, 1.0))
        self.unsent = len(self._queue)
        self._session.close()

    def _pause(self) -> float:
        busy = HOURS[datetime.now(clock.SHANGHAI).hour] / max(HOURS) if self._habits.by_hour else 1.0
        return self._dice.expovariate(self._habits.rate * max(busy, 0.25) / 60)

    def _capture(self) -> None:
        self.made += 1
        captured_at = datetime.now(UTC)
        if self._dice.random() < self._habits.wrong_clock:
            captured_at += timedelta(days=self._dice.choice([-40, -2, 1]))
        self._queue.append(
            {
                "id": str(uuid.UUID(int=self._dice.getrandbits(128), version=4)),
                "captured_at": captured_at.isoformat(timespec="milliseconds"),
                "kind": self._dice.choices(list(KINDS), weights=list(KINDS.values()))[0],
                "people": self._dice.choices([1, 2, 3, 5, 12], weights=[70, 18, 7, 4, 1])[0],
            }
        )

    def _send(self) -> bool:
        batch = self._queue[:BATCH_MAX]
        started = time.perf_counter()
        try:
            answer = self._session.post(
                self._url,
                json={"sent_at": datetime.now(UTC).isoformat(timespec="milliseconds"), "items": batch},
                timeout=SECONDS,
            )
        except requests.RequestException as error:
            self._fault(_kind(error))
            return False
        if answer.status_code != requests.codes.ok:
            self._fault(str(answer.status_code))
            time.sleep(min(5.0, float(answer.headers.get("Retry-After", "0"))))
            return False
        if self._dice.random() < self._habits.lost_answers:  # the answer is lost on the way: the same rows go out again
            self._fault(LOST)
            return False
        with self._ledger.lock:
            self._ledger.latencies.append(time.perf_counter() - started)
        self._ledger.settle(self.id, batch, answer.json()["results"])
        self._queue = self._queue[len(batch) :]
        return True

    def _fault(self, kind: str) -> None:
        with self._ledger.lock:
            self._ledger.faults[kind] += 1


def _kind(error: requests.RequestException) -> str:
    """``refused`` where nobody listened; anything else may have been heard."""
    reason = getattr(error.args[0] if error.args else None, "reason", None)
    return REFUSED if isinstance(reason, NewConnectionError) else type(error).__name__


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
    ledger, stop = Ledger(), threading.Event()
    fleet = [
        Device(key, ledger, random.Random(seed_ * 10_000 + number), Habits(rate), stop, edge_url())  # noqa: S311 (dice)
        for number, key in enumerate(keys)
    ]
    for device in fleet:
        device.start()
    time.sleep(minutes * 60)
    stop.set()
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
