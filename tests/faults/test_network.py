"""Bad networks and failing commands between any two parts; half of the answers lost: the same figures."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from tests.faults.conftest import Scale
from tests.faults.rig import Rig

WIRES = (
    "devices-edge",
    "edge-stations",
    "stations-mongod",
    "relay-stations-mongod",
    "relay-stations-rabbitmq",
    "aggregator-mongod",
    "aggregator-rabbitmq",
)


@contextmanager
def _fault(rig: Rig, wire: str, kind: str) -> Iterator[None]:
    rig.say(f"{wire}: {kind}")
    if kind == "slow":
        rig.wires[wire].delay = rig.dice.uniform(0.02, 0.2)
    elif kind == "lost answers":
        rig.wires[wire].lost_answers = 0.5 if wire == "devices-edge" else 0.1
    elif kind == "half-open":
        rig.wires.silence(wire, True)
    else:
        rig.wires[wire].refuses = True
        rig.wires.reset(wire)
    try:
        yield
    finally:
        rig.wires.mend()
        rig.say(f"{wire} is mended")


@pytest.mark.timeout(1800)
def test_bad_wires_lose_nothing_and_count_nothing_twice(wired_rig: Rig, scale: Scale) -> None:
    faults = [(wire, kind) for wire in WIRES for kind in ("slow", "lost answers", "half-open", "reset")]
    wired_rig.dice.shuffle(faults)
    faults = faults if scale.full else faults[:6]
    wired_rig.start_fleet()
    for wire, kind in faults:
        wired_rig.await_traffic(10)
        with _fault(wired_rig, wire, kind):
            wired_rig.pause(wired_rig.dice.uniform(1, 15 if scale.full else 3))
    wired_rig.await_well()
    wired_rig.settle()


@pytest.mark.timeout(900)
def test_half_of_the_answers_lost_counts_nothing_twice(wired_rig: Rig, scale: Scale) -> None:
    wired_rig.start_fleet()
    with _fault(wired_rig, "devices-edge", "lost answers"):
        wired_rig.await_traffic(scale.posts, seconds=300)
    wired_rig.settle()
    assert wired_rig.ledger.faults["ConnectionError"] > scale.posts / 4, "answers were really lost"


SHUTDOWN, STEPPED_DOWN, TIME_OUT = 91, 11602, 262
UNSURE = {"code": 64, "errmsg": "waiting for replication timed out"}
FAILURES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("stations-service", {"failCommands": ["insert"], "errorCode": SHUTDOWN}),
    ("stations-service", {"failCommands": ["insert"], "closeConnection": True}),
    (
        "stations-service",
        {"failCommands": ["insert"], "writeConcernError": UNSURE},
    ),
    ("stations-service", {"failCommands": ["find", "aggregate"], "errorCode": STEPPED_DOWN}),
    ("stations-service", {"failCommands": ["insert", "update"], "blockConnection": True, "blockTimeMS": 7000}),
    ("stations-relay", {"failCommands": ["update"], "closeConnection": True}),
    ("stations-relay", {"failCommands": ["update"], "writeConcernError": UNSURE}),
    ("stations-relay", {"failCommands": ["find", "findAndModify", "aggregate"], "errorCode": STEPPED_DOWN}),
    ("metrics-aggregator", {"failCommands": ["commitTransaction"], "errorCode": SHUTDOWN}),
    ("metrics-aggregator", {"failCommands": ["commitTransaction"], "closeConnection": True}),
    (
        "metrics-aggregator",
        {"failCommands": ["commitTransaction"], "writeConcernError": UNSURE},
    ),
    ("metrics-aggregator", {"failCommands": ["insert", "update", "findAndModify"], "errorCode": TIME_OUT}),
    ("metrics-aggregator", {"failCommands": ["commitTransaction"], "blockConnection": True, "blockTimeMS": 12000}),
)


@pytest.mark.timeout(1800)
def test_failing_commands_lose_nothing_and_count_nothing_twice(wired_rig: Rig, scale: Scale) -> None:
    modes: tuple[dict[str, Any], ...] = ({"times": 3}, {"activationProbability": 0.3})
    failures = [(role, mode, data) for role, data in FAILURES for mode in modes]
    wired_rig.dice.shuffle(failures)
    wired_rig.start_fleet()
    for role, mode, data in failures if scale.full else failures[:6]:
        wired_rig.await_traffic(10)
        with wired_rig.failing(role, mode=mode, **data):
            wired_rig.pause(wired_rig.dice.uniform(1, 10 if scale.full else 2))
    wired_rig.await_well()
    wired_rig.settle()
