"""One event of a batch that cannot be applied: parked alone after its tries, replayed once when it can."""

import time
import uuid
from contextlib import nullcontext
from datetime import UTC, datetime

import pytest

from contracts import catalogue
from tests.faults.conftest import Scale
from tests.faults.rig import Rig
from tests.parts import until

POISON_PEOPLE = 499
NEIGHBOURS = 99


@pytest.mark.timeout(900)
def test_poison_is_parked_alone_after_its_tries_and_applied_once_when_replayed(rig: Rig, scale: Scale) -> None:
    metrics = rig.database("metrics")
    dead = catalogue.dead("metrics")
    metrics.command("collMod", "events", validator={"event.data.people": {"$ne": POISON_PEOPLE}})
    now = datetime.now(UTC).isoformat(timespec="milliseconds")
    people = [POISON_PEOPLE if number == NEIGHBOURS // 2 else 1 for number in range(NEIGHBOURS + 1)]
    rows = [{"id": str(uuid.uuid4()), "captured_at": now, "kind": "water", "people": count} for count in people]
    device, key = next(iter(rig.keys().items()))
    rig.ledger.settle(device, rows, rig.post(key, rows))
    [poison] = [id_ for id_, row in rig.ledger.acknowledged.items() if row.people == POISON_PEOPLE]
    neighbours = {id_ for id_, row in rig.ledger.acknowledged.items() if row.sent in rows} - {poison}

    until(
        lambda: metrics["events"].count_documents({"_id": {"$in": list(neighbours)}}) == NEIGHBOURS,
        "its neighbours count",
    )
    rig.say("99 neighbours count")
    started = time.monotonic()
    with nullcontext() if scale.full else rig.mailbox("metrics").pausing(200):
        until(lambda: rig.depth(dead) == 1, "it is parked", 500)
    rig.say(f"parked after {time.monotonic() - started:.0f} s")
    shown = rig.command("dlq", "show", "metrics")
    assert poison in shown
    assert "tries 4" in shown
    assert any(reason in shown for reason in ("WriteError", "BulkWriteError", "OperationFailure"))
    assert metrics["events"].count_documents({"_id": poison}) == 0

    metrics.command("collMod", "events", validator={})
    assert "1 given back" in rig.command("dlq", "replay", "metrics", "--id", poison)
    until(lambda: metrics["events"].count_documents({"_id": poison}) == 1, "it counts")
    rig.say("replayed")
    rig.settle()
