"""The broker dies and comes back while the consumer runs; its own parts, so that no other test is disturbed."""

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.kernel import retry
from tests import probe
from tests.builders import event
from tests.kernel import ProbeWorld, call
from tests.mailbox import Mailbox
from tests.parts import Parts, started, until


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Parts]:
    with started(tmp_path_factory.mktemp("outage")) as parts:
        yield parts
        parts.kill("rabbitmq")  # nothing of it is kept


def note(**data: int) -> dict[str, Any]:
    return event("probe.note_written.v1", {"failures": 0, **data})


def test_a_broker_that_dies_costs_no_event_and_repeats_no_effect(own: Parts, tmp_path: Path) -> None:
    with contextlib.closing(ProbeWorld(own, tmp_path)) as world:
        database, mail = world.database, Mailbox(world.broker, probe.NAME, probe.NAME)
        process = world.service().start()
        earlier, cut, waiting = note(failures=1000), note(after_ms=1000), [note(before_ms=200) for _ in range(30)]
        with mail.pausing(20):
            mail.send(earlier)
            mail.await_parked(earlier["id"])
            mail.send(cut, *waiting)
            until(lambda: database["effects"].find_one({"event": cut["id"]}), "an effect that is not yet settled")
            own.kill("rabbitmq")
            until(lambda: call(process.ops_port, "GET", "/readyz").body == b"broker\n", "it says what it lacks")
            late = world.service().start(ready=False)
            until(lambda: call(late.ops_port, "GET", "/readyz").body == b"broker\n", "another starts all the same")
            assert call(late.http_port, "GET", f"{probe.BASE}/hello").status == 200
            assert late.stop() == 0
            own.start("rabbitmq")
            own.await_ready("rabbitmq")
            process.await_ready()
            later = note(failures=1000)
            mail.send(later)
            (letter,) = mail.await_parked(later["id"])
        assert letter.reason == "RuntimeError"
        ids = [one["id"] for one in (cut, *waiting)]
        until(lambda: database["effects"].count_documents({"event": {"$in": ids}}) >= 31, "all take effect")
        until(lambda: database["tries"].find_one({"_id": cut["id"], "count": 2}), "the cut one is given again")
        assert database["effects"].count_documents({"event": {"$in": ids}}) == 31
        assert process.stop() == 0


def test_a_database_that_dies_costs_an_event_none_of_its_tries(own: Parts, tmp_path: Path) -> None:
    with contextlib.closing(ProbeWorld(own, tmp_path)) as world:
        database, mail = world.database, Mailbox(world.broker, probe.NAME, probe.NAME)
        process = world.service().start()
        last_try = note()
        own.kill("mongod")
        with mail.pausing(20):
            mail.send(last_try, **{retry.ATTEMPT: len(retry.PAUSES)})
            retried = {"service": probe.NAME, "outcome": "retried"}
            until(lambda: (process.metric("estation_consumed_events_total", **retried) or 0) >= 2, "it pauses", 60)
            own.start("mongod")
            own.await_ready("mongod")
            until(lambda: database["effects"].count_documents({"event": last_try["id"]}) == 1, "it takes effect", 60)
        assert mail.take(f"{probe.NAME}.dead") == []
        assert process.stop() == 0
