"""The consumer on a real broker and database: applied once, tried a bounded number of times, parked with a reason."""

import contextlib
import gzip
import hashlib
import json
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest

from contracts import catalogue, envelope
from services.kernel import ids, telemetry
from services.kernel.topology import definitions
from tests import probe
from tests.builders import ID_NUMBER, event
from tests.kernel import ProbeWorld, call, new_key
from tests.mailbox import Mailbox
from tests.parts import Parts, Process, until

QUICK_MS = 20


class Consumer:
    """The probe's service with its mailbox and what it did."""

    def __init__(self, world: ProbeWorld) -> None:
        self.world, self.database = world, world.database
        self.mail = Mailbox(world.broker, probe.NAME, probe.NAME)
        self.process = world.service()

    def applied(self) -> float:
        return self.process.metric("estation_consumed_events_total", service=probe.NAME, outcome="applied") or 0

    def await_applied(self, count: float) -> None:
        until(lambda: self.applied() >= count, f"{count} deliveries applied")

    def effects(self, *given: dict[str, Any]) -> int:
        return self.database["effects"].count_documents({"event": {"$in": [one["id"] for one in given]}})

    def await_effects(self, *given: dict[str, Any], seconds: float = 30) -> None:
        until(lambda: self.effects(*given) >= len(given), f"{len(given)} effects", seconds)

    def tries(self, given: dict[str, Any]) -> int:
        found = self.database["tries"].find_one({"_id": given["id"]})
        return int(found["count"]) if found else 0

    def lines(self, message: str, process: Process | None = None) -> list[dict[str, Any]]:
        return [line for line in (process or self.process).lines() if line["event"] == message]


def note(**data: int) -> dict[str, Any]:
    return event("probe.note_written.v1", {"failures": 0, **data})


@pytest.fixture(scope="module")
def shared(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consumer]:
    """One running consumer with short pauses for the tests that leave it running."""
    with contextlib.closing(ProbeWorld(parts, tmp_path_factory.mktemp("consumer"))) as world:
        consumer = Consumer(world)
        consumer.process.start()
        with consumer.mail.pausing(QUICK_MS):
            yield consumer


@pytest.fixture
def fresh(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Consumer]:
    """A consumer of the test's own, not yet started."""
    with contextlib.closing(ProbeWorld(parts, tmp_path_factory.mktemp("consumer"))) as world:
        yield Consumer(world)


def test_a_replayed_event_takes_effect_once(shared: Consumer) -> None:
    given, before = note(), shared.applied()
    shared.mail.send(given, given, given)
    shared.mail.send_batch(given, given)
    shared.await_applied(before + 5)
    assert shared.tries(given) == 5
    assert shared.effects(given) == 1


def test_an_older_state_never_overwrites_a_newer_one(shared: Consumer) -> None:
    subject, before = ids.new(), shared.applied()
    for seq, level in ((3, 33), (1, 11), (4, 44), (2, 22), (3, 33)):
        shared.mail.send(event("probe.level_set.v1", {"level": level}, subject=subject, seq=seq))
    shared.await_applied(before + 5)
    seen = shared.database["levels_seen"].find_one({"_id": subject})
    assert seen == {"_id": subject, "seq": 4, "level": 44}


def test_what_fails_twice_is_applied_the_third_time(shared: Consumer) -> None:
    given = note(failures=2)
    shared.mail.send(given)
    shared.await_effects(given)
    assert shared.tries(given) == 3


def test_what_fails_always_is_parked_with_its_reason_while_its_neighbours_go_on(shared: Consumer) -> None:
    poison, neighbours = note(failures=1000), [note() for _ in range(10)]
    shared.mail.send(*neighbours[:5], poison, *neighbours[5:])
    (letter,) = shared.mail.await_parked(poison["id"])
    assert (letter.reason, letter.attempt) == ("RuntimeError", 4)
    assert envelope.load(letter.body, letter.content_type) == [poison]
    assert shared.tries(poison) == 4
    shared.await_effects(*neighbours)
    assert [shared.tries(one) for one in neighbours] == [1] * 10
    failed = [line for line in shared.lines("event_not_applied") if line["event_id"] == poison["id"]]
    assert [(line["attempt"], line["parked"]) for line in failed] == [(1, False), (2, False), (3, False), (4, True)]
    assert ID_NUMBER not in shared.process.log.read_text()
    assert shared.process.metric("estation_parked_events_total", reason="RuntimeError") == 1


def test_each_pause_is_longer_than_the_one_before(fresh: Consumer) -> None:
    fresh.process.start()
    given = note(failures=1000)
    for failed, pause in enumerate(("5s", "30s", "5m")):
        fresh.mail.send(given, **{"x-estation-attempt": failed})
        (letter,) = until(partial(fresh.mail.take, catalogue.wait(probe.NAME, pause)), f"a message that pauses {pause}")
        assert (letter.attempt, letter.reason) == (failed + 1, "RuntimeError")
    fresh.mail.send(given, **{"x-estation-attempt": 3})
    assert fresh.mail.await_parked(given["id"])[0].attempt == 4


UNREADABLE = {
    "no JSON": (f"<person>{ID_NUMBER}</person>".encode(), envelope.CONTENT_TYPE, "not_json"),
    "no UTF-8": (b'{"id":"\xff' + ID_NUMBER.encode(), envelope.CONTENT_TYPE, "not_json"),
    "nothing": (b"", envelope.CONTENT_TYPE, "not_json"),
    "no event": (f'["{ID_NUMBER}"]'.encode(), envelope.CONTENT_TYPE, "content_type_or_shape"),
    "another content type": (f'{{"person":"{ID_NUMBER}"}}'.encode(), "application/json", "content_type_or_shape"),
}


@pytest.mark.parametrize("kind", UNREADABLE)
def test_an_undecodable_body_is_parked_and_only_its_hash_is_logged(shared: Consumer, kind: str) -> None:
    body, content_type, reason = UNREADABLE[kind]
    digest = hashlib.sha256(body).hexdigest()
    shared.mail.post(body, content_type=content_type)
    (line,) = until(
        lambda: [line for line in shared.lines("message_malformed") if line["sha256"] == digest], "the hash logged"
    )
    assert (line["code"], line["size"]) == (reason, len(body))
    until(
        lambda: [one for one in shared.mail.await_parked() if (one.body, one.content_type) == (body, content_type)],
        "parked as it came",
    )
    assert ID_NUMBER not in shared.process.log.read_text()


def test_a_body_that_is_not_compressed_as_it_says_is_parked_too(shared: Consumer) -> None:
    given, broken = note(), gzip.compress(b"whole")[:-4]
    shared.mail.post(broken, compression="application/x-gzip")
    shared.mail.send(given)
    shared.await_effects(given)
    digest = hashlib.sha256(broken).hexdigest()
    until(lambda: [one for one in shared.lines("message_malformed") if one["sha256"] == digest], "parked")
    assert not shared.lines("inbox_waits_for_broker")


def without(given: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in given.items() if key != name}


MALFORMED = {
    "unknown version": (
        {**note(), "type": "probe.note_written.v2", "dataschema": f"{envelope.SCHEMA_BASE}probe.note_written.v2.json"},
        "unknown_type",
    ),
    "no id": (without(note(), "id"), "id"),
    "wrong data": ({**note(), "data": {"failures": "many"}}, "data.failures"),
    "unknown place": ({**note(), "county": "110000"}, "county"),
    "a foreign source": ({**note(), "source": "/services/stations"}, "source"),
}


@pytest.mark.parametrize("kind", MALFORMED)
def test_what_breaks_its_contract_is_parked_without_a_second_try(shared: Consumer, kind: str) -> None:
    bad, reason = MALFORMED[kind]
    good = note()
    shared.mail.send(bad)
    shared.mail.send_batch(good, bad)
    letters = shared.mail.await_parked(bad["subject"], count=2)
    assert [(letter.reason, letter.attempt) for letter in letters] == [(reason, 1)] * 2
    assert [envelope.load(letter.body, letter.content_type) for letter in letters] == [[bad]] * 2
    shared.await_effects(good)


def test_one_poison_event_of_a_batch_is_parked_alone(shared: Consumer) -> None:
    neighbours, poison = [note() for _ in range(99)], MALFORMED["wrong data"][0] | {"id": ids.new()}
    shared.mail.send_batch(*neighbours[:50], poison, *neighbours[50:])
    (letter,) = shared.mail.await_parked(poison["id"])
    assert envelope.load(letter.body, letter.content_type) == [poison]
    shared.await_effects(*neighbours)
    assert shared.effects(*neighbours) == 99
    assert {shared.tries(one) for one in neighbours} == {1}


def test_a_failing_event_of_a_batch_comes_back_alone(shared: Consumer) -> None:
    neighbours, failing = [note() for _ in range(4)], note(failures=1)
    shared.mail.send_batch(*neighbours[:2], failing, *neighbours[2:])
    shared.await_effects(*neighbours, failing)
    assert shared.tries(failing) == 2
    assert {shared.tries(one) for one in neighbours} == {1}


def test_an_event_without_a_trace_is_like_any_other(shared: Consumer) -> None:
    """The traceparent is an extension that a producer may leave out."""
    fine, failing = without(note(), "traceparent"), without(note(failures=1000), "traceparent")
    shared.mail.send_batch(failing, fine)
    (letter,) = shared.mail.await_parked(failing["id"])
    assert (letter.reason, shared.tries(failing)) == ("RuntimeError", 4)
    shared.await_effects(fine)
    assert shared.tries(fine) == 1


def test_an_error_of_the_database_is_a_failure_like_any_other(shared: Consumer) -> None:
    """Its code is a number. What the failed transaction began is undone, so that a replay takes effect."""
    given = note()
    shared.database.command("collMod", "effects", validator={"event": {"$ne": given["id"]}})
    try:
        shared.mail.send(given)
        (letter,) = shared.mail.await_parked(given["id"])
    finally:
        shared.database.command("collMod", "effects", validator={})
    assert (letter.reason, letter.attempt) == ("WriteError", 4)
    assert shared.tries(given) == 4
    shared.mail.send(given)
    shared.await_effects(given)


def test_no_nesting_keeps_a_message_from_being_parked(shared: Consumer) -> None:
    """Somewhere below Python's limit lies a depth that can be read and not be written again."""
    depths = range(850, 1001)
    bodies = []
    for depth in depths:
        whole = envelope.dump(note() | {"subject": f"depth {depth}"})
        bodies.append(whole.replace(b'"failures":0', b'"failures":0,"x":' + b"[" * depth + b"]" * depth))
    shared.mail.post(*bodies)
    letters = shared.mail.await_parked("depth ", count=len(depths))
    assert len(letters) == len(depths)
    assert all(letter.reason for letter in letters)
    assert not [line for line in shared.lines("message_not_settled") if "RecursionError" in line["error"]]


def test_lost_connections_are_made_anew(shared: Consumer) -> None:
    """The consuming one, and the one that publishes failures: neither loses or repeats what took effect."""
    before, after, failing = note(failures=1), [note() for _ in range(5)], note(failures=1000)
    shared.mail.send(before)
    shared.await_effects(before)
    shared.world.broker.management.call("DELETE", f"/connections/username/{probe.NAME}")
    until(lambda: shared.lines("inbox_waits_for_broker"), "the loss noticed")
    shared.mail.send(*after, failing)
    (letter,) = shared.mail.await_parked(failing["id"])
    assert letter.reason == "RuntimeError"
    shared.await_effects(*after)
    assert shared.effects(*after) == 5
    shared.process.await_ready()


def test_a_failure_that_cannot_be_put_away_is_not_lost(fresh: Consumer) -> None:
    """The broker returns what it has no queue for; then the event is given again, up to the delivery limit."""
    fresh.process.start()
    vhost, given, fine = fresh.world.broker.vhost, note(failures=1000), note()
    fresh.world.broker.management.call("DELETE", f"/bindings/{vhost}/e/probe.retry/q/probe.wait.5s/5s")
    fresh.mail.send(given)
    (letter,) = fresh.mail.await_parked(given["id"])
    assert letter.headers["x-death"][0]["reason"] == "delivery_limit"
    fresh.mail.send(fine)
    fresh.await_effects(fine)
    wanted = definitions(probe.EVENTS, vhost, fresh.world.broker.passwords)
    fresh.world.broker.management.apply(wanted)
    again = note(failures=1)
    with fresh.mail.pausing(QUICK_MS):
        fresh.mail.send(again)
        fresh.await_effects(again)


def test_a_requests_trace_reaches_the_consumers_log(shared: Consumer) -> None:
    shared.world.relay().start()
    trace = "5b8aa5a2d2c872e8321cf37308d69df2"
    answer = call(
        shared.process.http_port,
        "POST",
        f"{probe.BASE}/notes",
        {"title": "x"},
        token=shared.world.token(),
        traceparent=f"00-{trace}-051581bf3cb55c13-01",
        Idempotency_Key=new_key(),
    )
    assert answer.status == 201
    (line,) = until(lambda: [x for x in shared.lines("event_applied") if x["trace_id"] == trace], "the trace logged")
    assert shared.database["effects"].count_documents({"event": line["event_id"]}) == 1
    others = {one["trace_id"] for one in shared.lines("event_applied") if one["event_id"] != line["event_id"]}
    assert trace not in others  # bound to its own event's line only


def test_sigterm_finishes_what_is_under_way_and_acknowledges_it(fresh: Consumer) -> None:
    given = [note(before_ms=400) for _ in range(40)]
    fresh.process.start()
    fresh.mail.send(*given)
    until(lambda: fresh.database["effects"].count_documents({}) >= 5, "the first are finished")
    until(lambda: fresh.database["tries"].count_documents({}) > fresh.effects(*given), "others are under way")
    assert fresh.process.stop(20) == 0
    started = [one for one in given if fresh.tries(one)]
    assert 5 < len(started) < 40
    assert fresh.effects(*given) == len(started)  # none was cut
    assert fresh.world.broker.depth(catalogue.inbox(probe.NAME)) == 40 - len(started)  # none comes again
    fresh.world.service().start()
    fresh.await_effects(*given)
    assert {fresh.tries(one) for one in given} == {1}


def test_a_draining_consumer_says_that_it_is_not_ready(fresh: Consumer) -> None:
    process = fresh.process.start()
    given = note(before_ms=1500)
    fresh.mail.send(given)
    until(lambda: fresh.tries(given), "the handler is at work")
    assert process.popen is not None
    process.popen.terminate()
    until(lambda: readiness(process) == (503, "draining\n"), "not ready any more")
    assert process.popen.wait(10) == 0
    assert fresh.effects(given) == 1


def readiness(process: Process) -> tuple[int, str]:
    answer = call(process.ops_port, "GET", "/readyz")
    return answer.status, answer.body.decode()


@pytest.mark.parametrize("moment", ["before_ms", "after_ms"])
def test_kill_9_in_a_handler_leaves_one_effect(fresh: Consumer, moment: str) -> None:
    """Before its effect, and between the effect and the acknowledgement."""
    given = note(**{moment: 60_000})
    process = fresh.process.start()
    fresh.mail.send(given)
    until(lambda: fresh.effects(given) if moment == "after_ms" else fresh.tries(given), "the handler is at work")
    process.kill()
    assert fresh.effects(given) == (1 if moment == "after_ms" else 0)
    fresh.process = fresh.world.service().start()
    fresh.await_applied(1)
    assert fresh.tries(given) == 2
    assert fresh.effects(given) == 1
    assert not fresh.mail.take(catalogue.dead(probe.NAME))


def test_ids_in_lines_are_those_of_the_event(shared: Consumer) -> None:
    given = note()
    shared.mail.send(given)
    (line,) = until(lambda: [x for x in shared.lines("event_applied") if x["event_id"] == given["id"]], "a log line")
    assert line["trace_id"] == telemetry.trace_id(given["traceparent"])
    assert line["type"] == given["type"]
    assert json.dumps(given["data"]) not in json.dumps(line)
