"""Everything said three times, shuffled and in other company: not a digit changes."""

from typing import Any

import pytest

from contracts.envelope import Event
from services.kernel.amqp import Message, Publisher
from services.kernel.relay import pack
from tests.faults.conftest import Scale
from tests.faults.rig import Rig

TIMES = 3


def _figures(rig: Rig) -> list[dict[str, Any]]:
    metrics = rig.database("metrics")
    return [row for name in ("rollups", "totals") for row in metrics[name].find({}).sort("_id", 1)]


@pytest.mark.timeout(900)
def test_everything_replayed_three_times_and_shuffled_changes_no_digit(rig: Rig, scale: Scale) -> None:
    rig.start_fleet()
    rig.await_traffic(scale.posts, seconds=300)
    rig.settle()
    before, count = _figures(rig), rig.database("metrics")["events"].count_documents({})

    _send_rows_again(rig)
    events = _publish_events_again(rig)
    rig.settle()

    assert _figures(rig) == before
    assert rig.database("metrics")["events"].count_documents({}) == count
    assert events >= TIMES * count > 0


def _send_rows_again(rig: Rig) -> None:
    by_device: dict[str, list[Any]] = {}
    for row in rig.ledger.acknowledged.values():
        by_device.setdefault(row.device, []).append(row)
    keys = rig.keys()
    for device, rows in by_device.items():
        again = rows * TIMES
        rig.dice.shuffle(again)
        while again:
            size = rig.dice.randint(1, 300)
            batch, again = again[:size], again[size:]
            results = rig.post(keys[device], [row.sent for row in batch], tries=5)
            assert [result["status"] for result in results] == [row.status for row in batch], "the first answer again"
    rig.say(f"{TIMES} times every row, shuffled")


def _publish_events_again(rig: Rig) -> int:
    events: list[Event] = [row["event"] for row in rig.database("metrics")["events"].find({}, {"event": 1})] * TIMES
    rig.dice.shuffle(events)
    program = next(program for program in rig.parts.programs if program.name == "relay-stations")
    publisher = Publisher(program.environment["ESTATION_RABBITMQ_URL"], "test")
    messages: list[Message] = []
    left = list(events)
    while left:
        size = rig.dice.choice([1, 1, 2, 7, 100])
        some, left = left[:size], left[size:]
        messages += [message for message, _count in pack(some)]
    for start in range(0, len(messages), 500):
        assert all(publisher.publish(messages[start : start + 500]))
    publisher.close()
    rig.say(f"{TIMES} times every event, shuffled, in {len(messages)} messages")
    return len(events)
