"""The whole system as ``estation up`` starts it, on ports of its own, with hands to break it and to tell how it is."""

import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pika
import pytest
import requests
from pymongo import MongoClient
from pymongo.database import Database

from contracts import catalogue
from contracts.catalogue import CATALOGUE
from contracts.codes import REPORTING_UNITS
from deploy.commands.api import Api
from deploy.commands.simulate import Device, Habits
from deploy.local import layout, lifecycle, rabbitmq, system
from deploy.local.program import Program, Stage
from deploy.local.supervision import ProcessState, Supervisor
from deploy.local.system import System
from services.kernel.mongo import Document
from services.kernel.topology import Management
from services.metrics import rebuild
from services.stations.store import SOURCES
from tests.faults.ledger import Recorder
from tests.faults.wires import Wires
from tests.mailbox import Mailbox
from tests.parts import PROJECT, Broker, free_port, listens, until

OFFSET: Final = 5000
WELL_SECONDS: Final = 180
DRAIN_SECONDS: Final = 180
SHOWN_IDS: Final = 10
HABITS: Final = Habits(
    rate=240,
    by_hour=False,
    send_every=(0.3, 1.5),
    offline_share=0.02,
    offline_seconds=(1.0, 5.0),
    lost_answers=0.02,
    wrong_clock=0.03,
)
Change = Callable[[Program], Program]


class Rig:
    """One running system, its fleet of devices, its ledger, and the timeline of what was done to it."""

    def __init__(
        self, folder: Path, seed: int, devices: int, *, wired: bool, change: Change = lambda program: program
    ) -> None:
        self.seed, self.wired, self._devices, self._change = seed, wired, devices, change
        self.dice = random.Random(seed)
        self.folder = folder
        self.environ = {
            **os.environ,
            "ESTATION_VAR": str(folder / "var"),
            layout.OFFSET: str(OFFSET),
        }
        self.place = layout.read(self.environ)
        self.supervisor = Supervisor(self.place)
        self.wires = Wires(seed)
        self.ledger = Recorder(folder / "ledger.jsonl")
        self.timeline: list[str] = []
        self._began = time.monotonic()
        self._stop = threading.Event()
        self._fleet: list[Device] = []
        self._clerks: list[_Clerk] = []
        self._keys: list[str] = []
        self._environment = pytest.MonkeyPatch()
        self._client: MongoClient[Document] | None = None
        self.parts: System
        self.officer: Api

    # Life

    def start(self) -> None:
        """Starts everything, opens a station in each reporting unit and enrolls the devices."""
        rabbitmq.provide(layout.read(os.environ))  # found or unpacked where `make up` would have it: fetched once
        self.parts = lifecycle.up(self.place, self.environ, seed=False, change=self._rewire)
        for name, value in system.settings(self.place, self.environ).items():
            self._environment.setenv(name, value)
        self._environment.setenv(layout.OFFSET, str(OFFSET))
        self.officer = Api.officer()
        stations = [self._station(county) for county in REPORTING_UNITS]
        for number in range(self._devices):
            station = stations[number % len(stations)]
            made = self.officer.call(
                "POST", f"/stations/stations/{station['id']}/devices", {"label": f"tablet {number}"}, creates=True
            )
            self._keys.append(made["key"])
            self.ledger.counties[made["id"]] = station["county"]
        self.say(f"up, {self._devices} devices")

    def _station(self, county: str) -> Any:
        body = {
            "county": county,
            "name": f"station {county}",
            "address": "Road 1",
            "facilities": ["water", "rest"],
            "opens": "00:00",
            "closes": "00:00",
        }
        station = self.officer.call("POST", "/stations/stations", body, creates=True)
        self.officer.call("POST", f"/stations/stations/{station['id']}/open", {"reason": "test"})
        return station

    def end(self) -> None:
        """Stops everything."""
        self.stop_fleet()
        if self._client is not None:
            self._client.close()
        lifecycle.down(self.place)
        self.wires.close()
        self.ledger.close()
        self._environment.undo()

    def _rewire(self, parts: System) -> System:
        """A database that can be told to fail, and wires between the parts where they are asked for."""
        return replace(parts, programs=tuple(self._change(self._rewired(program)) for program in parts.programs))

    def _rewired(self, program: Program) -> Program:
        environment = dict(program.environment)
        if program.name == "mongod":
            return replace(program, command=(*program.command, "--setParameter", "enableTestCommands=1"))
        if not self.wired:
            return program
        ports = self.place.ports
        if program.stage == Stage.PROCESSES:
            wire = self.wires.add(f"{program.name}-mongod", ports["mongod"])
            environment["ESTATION_MONGODB_URL"] = f"mongodb://127.0.0.1:{wire.port}/?directConnection=true"
            if program.name.startswith(("relay", "aggregator")):
                wire = self.wires.add(f"{program.name}-rabbitmq", ports["rabbitmq"])
                url = environment["ESTATION_RABBITMQ_URL"]
                environment["ESTATION_RABBITMQ_URL"] = url.replace(f":{ports['rabbitmq']}/", f":{wire.port}/")
        if program.name == "caddy":
            wire = self.wires.add("edge-stations", ports["stations"])
            environment["ESTATION_STATIONS_UPSTREAM"] = f"127.0.0.1:{wire.port}"
            self.wires.add("devices-edge", ports["edge"])
        return replace(program, environment=environment)

    # The front line

    @property
    def edge(self) -> str:
        """Where devices send to."""
        port = self.wires["devices-edge"].port if self.wired else self.place.ports["edge"]
        return f"http://127.0.0.1:{port}"

    def start_fleet(self, habits: Habits = HABITS, *, edge: str = "") -> None:
        """Devices and clerks begin to post, to the edge unless told."""
        self._stop = threading.Event()
        self._fleet = [
            Device(
                key,
                self.ledger,
                random.Random(f"{self.seed} {len(self.timeline)} {key}"),
                habits,
                self._stop,
                self.edge,
            )
            for key in self._keys
        ]
        self._clerks = [_Clerk(key, self.ledger, self._stop, self.edge) for key in self._keys[:3]]
        for thread in (*self._fleet, *self._clerks):
            thread.start()

    def stop_fleet(self) -> None:
        """They stop, and get rid of what they hold."""
        self._stop.set()
        for thread in (*self._fleet, *self._clerks):
            thread.join()
        unsent = sum(device.unsent for device in self._fleet)
        unsent += sum(clerk.unsent for clerk in self._clerks)
        self._fleet, self._clerks = [], []
        if unsent:
            self.fail([f"{unsent} rows or reports could not be sent after all faults were healed"])

    def await_traffic(self, requests_: int, seconds: float = 60) -> None:
        """Returns when so many more posts were acknowledged."""
        if not self.ledger.await_requests(requests_, seconds):
            self.fail([f"fewer than {requests_} posts were acknowledged within {seconds} s"])

    def post(self, key: str, rows: Sequence[Mapping[str, Any]], tries: int = 1) -> list[dict[str, Any]]:
        """One batch by one device, straight to the edge; the results."""
        for attempt in range(tries):
            answer = requests.post(
                f"http://127.0.0.1:{self.place.ports['edge']}/api/v1/stations/checkins",
                json={"items": list(rows)},
                headers={"Authorization": f"Bearer {key}"},
                timeout=30,
            )
            if answer.ok:
                return list(answer.json()["results"])
            if answer.status_code != requests.codes.too_many_requests or attempt == tries - 1:
                raise AssertionError(answer.text)
            time.sleep(float(answer.headers["Retry-After"]))
        raise AssertionError("not reached")

    def keys(self) -> Mapping[str, str]:
        """Device -> its key."""
        return dict(zip(self.ledger.counties, self._keys, strict=True))

    # Hands

    def state(self, name: str) -> ProcessState:
        """How a program is."""
        return self.supervisor.states()[name]

    def signal(self, name: str, number: signal.Signals) -> int:
        """Sends a signal to a program and its children; its pid."""
        pid = self.state(name).pid
        assert pid, f"{name} does not run"
        os.killpg(os.getpgid(pid), number)
        return pid

    def kill(self, name: str) -> int:
        """Kill -9; the pid that it had."""
        pid = self.signal(name, signal.SIGKILL)
        self.say(f"kill -9 {name}")
        return pid

    @contextmanager
    def hung(self, name: str) -> Iterator[None]:
        """SIGSTOP: the connections stand, nothing moves."""
        group = os.getpgid(self.signal(name, signal.SIGSTOP))
        self.say(f"{name} hangs")
        try:
            yield
        finally:
            with suppress(ProcessLookupError):  # killed meanwhile
                os.killpg(group, signal.SIGCONT)
            self.say(f"{name} goes on, or is dead")

    def pause(self, seconds: float) -> None:
        """Lets a fault last; nothing is awaited."""
        time.sleep(seconds)

    @contextmanager
    def away(self, name: str) -> Iterator[None]:
        """Stopped, and started again at the end."""
        program = next(program for program in self.parts.programs if program.name == name)
        self.supervisor._call("stopProcess", f"{program.stage.name.lower()}:{name}", True)
        self.say(f"{name} is away")
        try:
            yield
        finally:
            self.supervisor.start(program)
            self.say(f"{name} is started")

    def failing(self, database_role: str, **data: Any) -> "_FailPoint":
        """A fail point for commands of one of our roles (``stations-service``), while it is open."""
        return _FailPoint(self, database_role, data)

    def await_healed(self, name: str, old_pid: int) -> None:
        """Returns when another process serves in the place of one that died, and all is well."""
        until(lambda: self.state(name).running and self.state(name).pid != old_pid, f"{name} is back", WELL_SECONDS)
        self.await_well()
        self.say(f"{name} is back, all is well")

    def await_well(self) -> None:
        """Returns when every process says that it serves."""
        checks = system.checks(self.place, self.parts.broker, self.parts.mongodb_url)

        def well() -> bool:
            return all(state.running and not checks[name]() for name, state in self.supervisor.states().items())

        try:
            until(well, "all is well", WELL_SECONDS)
        except AssertionError:
            problems = {name: checks[name]() for name in checks}
            self.fail([f"{name} does not get well: {problem}" for name, problem in problems.items() if problem])

    @contextmanager
    def doubled(self, name: str) -> Iterator["subprocess.Popen[bytes]"]:
        """A second process of the same program, started by mistake."""
        program = next(program for program in self.parts.programs if program.name == name)
        port = free_port()
        environ = {**os.environ, **program.environment, "ESTATION_OPS_PORT": str(port)}
        with (self.folder / f"second-{name}.log").open("ab") as log:
            second = subprocess.Popen(program.command, cwd=PROJECT, env=environ, stdout=log, stderr=log)
        self.say(f"a second {name}")
        try:
            until(lambda: listens(port), f"the second {name} has started")
            yield second
        finally:
            second.terminate()
            second.wait(60)
            self.say(f"the second {name} is stopped")

    def restart(self, name: str) -> int:
        """SIGTERM, as an operator's restart sends it; returns when a new process serves. The old one's pid."""
        pid = self.state(name).pid
        os.kill(pid, signal.SIGTERM)
        self.say(f"SIGTERM {name}")
        self.await_healed(name, pid)
        return pid

    def command(self, *words: str) -> str:
        """The output of an ``estation`` command, which must succeed."""
        done = subprocess.run(
            [sys.executable, "-m", "deploy.cli", *words], cwd=PROJECT, env=self.environ, capture_output=True, text=True
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def broker_command(self, *words: str) -> str:
        """The output of rabbitmqctl on the node."""
        node = next(program for program in self.parts.programs if program.name == "rabbitmq")
        tool = str(Path(node.command[0]).with_name("rabbitmqctl"))
        done = subprocess.run([tool, *words], env={**os.environ, **node.environment}, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    # Sight

    def say(self, what: str) -> None:
        """A line of the timeline."""
        self.timeline.append(f"{time.monotonic() - self._began:8.2f} s  {what}")

    def database(self, service: str) -> Database[Document]:
        """A service's database, by no wire."""
        if self._client is None:
            self._client = MongoClient(self.parts.mongodb_url, readConcernLevel="majority")
        return self._client["estation_" + service]

    def samples(self, process: str) -> dict[str, float]:
        """The metrics of one process, by sample as it is written."""
        text = requests.get(f"http://127.0.0.1:{self.place.ports[f'{process}-ops']}/metrics", timeout=10).text
        lines = (line.rsplit(" ", 1) for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, value in lines}

    def log(self, process: str) -> list[dict[str, Any]]:
        """Its log lines."""
        text = (self.place.log / f"{process}.log").read_text(encoding="utf-8", errors="replace")
        return [json.loads(line) for line in text.splitlines() if line.startswith("{")]

    def depth(self, queue: str) -> int:
        """Messages that wait in a queue."""
        with closing(pika.BlockingConnection(pika.URLParameters(os.environ["ESTATION_RABBITMQ_URL"]))) as connection:
            return int(connection.channel().queue_declare(queue, passive=True).method.message_count)

    def mailbox(self, consumer: str) -> Mailbox:
        """A consumer's queues from outside."""
        own = self.parts.broker
        broker = Broker(own.host, own.port, own.api, own.vhost, {}, Management(own.api))
        return Mailbox(broker, consumer, consumer)

    def queues(self) -> dict[str, int]:
        """Every queue that is not empty."""
        management = Management(self.parts.broker.api)
        names = management.depths(self.parts.broker.vhost)
        return {name: depth for name in names if (depth := self.depth(name))}

    def drain(self) -> float:
        """Waits until nothing is under way any more; the seconds it took."""
        started = time.monotonic()
        stations, metrics = self.database("stations"), self.database("metrics")
        parked = {catalogue.UNROUTED, *map(catalogue.dead, CATALOGUE.consumers)}

        def published() -> bool:
            return not any(stations[source.collection].count_documents({"open": True}) for source in SOURCES)

        def consumed() -> bool:
            return not self.queues().keys() - parked

        try:
            until(published, "every event is published", DRAIN_SECONDS)
            until(consumed, "every queue is empty", DRAIN_SECONDS)
            at = metrics.command("hello")["localTime"]
            until(
                lambda: ((metrics["state"].find_one({"_id": "applied"}) or {}).get("current_at") or at) > at,
                "the aggregator has seen its inbox empty",
                DRAIN_SECONDS,
            )
        except AssertionError as error:
            self.say(f"stuck: {error}")
            self.fail([str(error), f"queues: {self.queues()}", *self.differences()])
        seconds = time.monotonic() - started
        self.say(f"drained in {seconds:.1f} s")
        return seconds

    def settle(self) -> float:
        """Stops the fleet, drains, and compares ledger and system; the seconds of the drain."""
        self.stop_fleet()
        seconds = self.drain()
        differences = self.differences()
        if differences:
            self.fail(differences)
        return seconds

    def differences(self) -> list[str]:
        """Where acknowledged, stored, logged and rolled up do not agree; nothing if they do."""
        ledger, found = self.ledger, list[str]()
        found += [f"answered twice, and not alike: {id_}" for id_ in ledger.contradictions[:SHOWN_IDS]]
        refused = {what: count for what, count in ledger.faults.items() if what.startswith("4") and what != "429"}
        found += [f"refused without a fault: {what} ({n})" for what, n in {**ledger.refused, **refused}.items()]
        found += self._stored() + self._logged() + self._rolled_up()
        parked = {queue: depth for queue, depth in self.queues().items() if queue != catalogue.inbox("metrics")}
        found += [f"{depth} messages lie in {queue}" for queue, depth in parked.items()]
        return found

    def _stored(self) -> list[str]:
        stations = self.database("stations")
        fields = {"device": 1, "county": 1, "people": 1, "status": 1, "day": 1}
        stored = {
            row["_id"]: (row["device"], row["county"], row["people"], row["status"], row["day"])
            for row in stations["checkins"].find({}, fields)
        }
        told = {
            id_: (row.device, row.county, row.people, row.status, row.day)
            for id_, row in self.ledger.acknowledged.items()
        }
        found = _compare("acknowledged", told, "stored", stored)
        reported = {row["_id"]: None for row in stations["faults"].find({}, {"_id": 1})}
        return found + _compare("reports acknowledged", dict.fromkeys(self.ledger.reports.values()), "stored", reported)

    def _logged(self) -> list[str]:
        stations, metrics = self.database("stations"), self.database("metrics")
        types = {"accepted": "stations.checkin_recorded.v1", "quarantined": "stations.checkin_quarantined.v1"}
        told = {id_: types[row.status] for id_, row in self.ledger.acknowledged.items()}
        logged = {
            row["_id"]: row["event"]["type"]
            for row in metrics["events"].find({"event.type": {"$in": list(types.values())}}, {"event.type": 1})
        }
        found = _compare("acknowledged", told, "logged", logged)
        emitted = sum(
            document["seq"] for source in SOURCES for document in stations[source.collection].find({}, {"seq": 1})
        )
        count = metrics["events"].count_documents({})
        if count != emitted:
            found.append(f"{emitted} events were emitted by stations, {count} are in the log")
        last = metrics["events"].find_one({}, {"n": 1}, sort=[("n", -1)])
        if last and last["n"] != count:
            found.append(f"{count} events in the log, the last has the number {last['n']}")
        return found

    def _rolled_up(self) -> list[str]:
        metrics = self.database("metrics")
        measures = ["stations.checkins", "stations.checkin_records"]
        rolled = {
            (row["measure"], row["county"], row["day"]): row["value"]
            for row in metrics["rollups"].find({"measure": {"$in": measures}})
            if row["value"]
        }
        found = _compare("acknowledged sum", self.ledger.sums(), "rolled up", rolled)
        waiting = sum(row["value"] for row in metrics["rollups"].find({"measure": "stations.quarantined"}))
        told = sum(row.status == "quarantined" for row in self.ledger.acknowledged.values())
        if waiting != told:
            found.append(f"{told} rows were answered with quarantined, {waiting} are counted so")
        report = rebuild.check(metrics)
        return found + [f"log and roll-ups differ: {one}" for one in report.differences[:SHOWN_IDS]]

    def fail(self, problems: Sequence[str]) -> None:
        """Fails with what one needs to understand it: seed, timeline, what differs."""
        pytest.fail("\n".join([f"seed {self.seed}", *self.timeline, "", *problems]), pytrace=False)

    def summary(self) -> str:
        """One line about what was acknowledged."""
        statuses = [row.status for row in self.ledger.acknowledged.values()]
        faults = sum(self.ledger.faults.values())
        return (
            f"{len(statuses)} check-ins acknowledged in {self.ledger.requests} posts "
            f"({statuses.count('quarantined')} wait), {len(self.ledger.reports)} reports, "
            f"{faults} posts failed and were sent again"
        )


class _FailPoint:
    def __init__(self, rig: Rig, role: str, data: dict[str, Any]) -> None:
        self._rig, self._admin = rig, rig.database("stations").client.admin
        self._mode = data.pop("mode", "alwaysOn")
        self._data = {"appName": f"estation-{role}", **data}

    def __enter__(self) -> None:
        self._admin.command("configureFailPoint", "failCommand", mode=self._mode, data=self._data)
        self._rig.say(f"fail point {self._data}")

    def __exit__(self, *_exc: object) -> None:
        self._admin.command("configureFailPoint", "failCommand", mode="off")
        self._rig.say("fail point off")


class _Clerk(threading.Thread):
    """Reports faults with an Idempotency-Key, again and again until each is acknowledged."""

    def __init__(self, key: str, ledger: Recorder, stop: threading.Event, edge: str) -> None:
        super().__init__(daemon=True)
        self._key, self._ledger, self._stopping, self._edge = key, ledger, stop, edge
        self.unsent = 0

    def run(self) -> None:
        """Works until told to stop; the report in hand is sent first."""
        while not self._stopping.wait(0.5):
            idempotency_key = uuid.uuid4().hex
            deadline = None
            while not self._report(idempotency_key):
                if self._stopping.is_set():
                    deadline = deadline or time.monotonic() + 60
                    if time.monotonic() > deadline:
                        self.unsent += 1
                        return
                time.sleep(0.3)

    def _report(self, idempotency_key: str) -> bool:
        try:
            answer = requests.post(
                self._edge + "/api/v1/stations/faults",
                json={"kind": "water"},
                headers={"Authorization": f"Bearer {self._key}", "Idempotency-Key": idempotency_key},
                timeout=15,
            )
        except requests.RequestException:
            return False
        if answer.status_code == requests.codes.created:
            self._ledger.report(idempotency_key, answer.json()["id"])
            return True
        if answer.status_code < 500 and answer.status_code != requests.codes.too_many_requests:
            self._ledger.refuse(f"fault report {answer.status_code}")
        return False


def _compare(left: str, one: Mapping[Any, Any], right: str, other: Mapping[Any, Any]) -> list[str]:
    """What differs between two records of the same, the first few of each kind by name."""
    lost = [key for key in one if key not in other]
    extra = [key for key in other if key not in one]
    unlike = [key for key in one if key in other and one[key] != other[key]]
    found = []
    for what, keys in ((f"{left}, not {right}", lost), (f"{right}, not {left}", extra), ("unlike", unlike)):
        if keys:
            found.append(f"{len(keys)} {what}:")
            found += [f"    {key} {one.get(key, '')} {other.get(key, '')}" for key in keys[:SHOWN_IDS]]
    return found
