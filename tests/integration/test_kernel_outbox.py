"""State and event in one write, found again by the relay; an answer given once under its key."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, OperationFailure

from contracts import envelope
from services.kernel import ids, mongo, outbox
from services.kernel.errors import Conflict, Stale
from services.kernel.mongo import Document
from services.kernel.outbox import Emit, Idempotency, embedded, insert, mark_published, settle, update
from services.kernel.settings import Settings
from tests.builders import NOON, officer, write
from tests.kernel import connected, failing
from tests.parts import Parts
from tests.probe import EVENTS, LevelSetV1, NoteWrittenV1

APPNAME = "estation-outbox-test"


@pytest.fixture(scope="module")
def database(parts: Parts) -> Iterator[Database[Document]]:
    """A database of this module's own."""
    with connected(Settings(mongodb_url=parts.mongodb_url, mongodb_prefix="tk_"), "outbox", "test") as made:
        yield made
        made.client.drop_database(made.name)


@pytest.fixture
def notes(database: Database[Document]) -> Collection[Document]:
    """An empty collection with the relay's index and that of the keys."""
    made = database.create_collection("c" + ids.new())
    outbox.ensure_index(made)
    outbox.ensure_idempotency_index(made)
    return made


def note(**fields: Any) -> Document:
    """A document to write."""
    return {"_id": ids.new(), "county": "370902", "title": "a", **fields}


def level(value: int) -> Emit:
    """An event that says a level."""
    return Emit(LevelSetV1, {"level": value})


def pending(notes: Collection[Document]) -> list[Document]:
    """What the relay would find, by the index it uses."""
    return list(notes.find({"open": True}).sort("recorded_at", 1).hint(outbox.INDEX))


def test_a_document_is_written_with_its_events_and_audit_row(notes: Collection[Document]) -> None:
    w = write(level(1), Emit(NoteWrittenV1, {"failures": 0}, at=NOON - timedelta(days=1)), by=officer("o1"))
    made, new = insert(notes, note(), w)
    assert new
    kept = notes.find_one({"_id": made["_id"]})
    assert kept == made
    assert (kept["rev"], kept["seq"], kept["open"]) == (1, 2, True)
    assert kept["created_at"] == kept["recorded_at"] == NOON
    assert [row["actor"] for row in kept["audit"]] == ["o1"]
    one, two = embedded(kept)
    assert (one["type"], one["seq"], one["time"], one["data"]) == (
        LevelSetV1.type,
        1,
        "2025-07-16T04:00:00.000Z",
        {"level": 1},
    )
    assert (two["seq"], two["time"], two["recordedtime"]) == (2, "2025-07-15T04:00:00.000Z", one["recordedtime"])
    assert one["id"] != two["id"]
    for out in (one, two):
        assert (out["subject"], out["county"], out["traceparent"]) == (kept["_id"], "370902", w.trace)
        EVENTS.check(envelope.check(out))
    assert pending(notes) == [kept]


def test_a_document_without_events_is_not_pending(notes: Collection[Document]) -> None:
    insert(notes, note(), write())
    assert pending(notes) == []


def test_a_change_raises_rev_and_seq_and_adds_its_events(notes: Collection[Document]) -> None:
    first, _ = insert(notes, note(), write(level(1)))
    second = update(notes, first, write(level(2), level(3), at=NOON + timedelta(hours=1)), changes={"title": "b"})
    assert (second["rev"], second["seq"], second["title"], len(second["audit"])) == (2, 3, "b", 2)
    assert [out["seq"] for out in embedded(second)] == [1, 2, 3]
    assert second["created_at"] == NOON
    assert second["recorded_at"] == NOON + timedelta(hours=1)
    third = update(notes, second, write(), changes={"title": "c"})
    assert (third["rev"], third["seq"], third["open"]) == (3, 3, True), "what is pending stays so"
    assert notes.find_one() == third


def test_who_read_an_older_version_changes_nothing(notes: Collection[Document]) -> None:
    first, _ = insert(notes, note(), write(level(1)))
    second = update(notes, first, write(level(2)), changes={"title": "b"})
    with pytest.raises(Stale):
        update(notes, first, write(level(3)), changes={"title": "c"})
    assert notes.find_one() == second


def test_a_write_that_fails_leaves_neither_state_nor_event(
    parts: Parts, database: Database[Document], notes: Collection[Document]
) -> None:
    first, _ = insert(notes, note(), write(level(1)))

    def work(session: ClientSession) -> None:
        update(notes, first, write(level(2)), changes={"title": "b"}, session=session)
        insert(notes, note(), write(level(3)), session=session)
        raise LookupError

    with pytest.raises(LookupError):
        mongo.transaction(database, work)
    with failing(parts.mongodb_url, APPNAME, "findAndModify", times=1, errorCode=8), pytest.raises(OperationFailure):
        update(notes, first, write(level(2)), changes={"title": "b"})
    assert list(notes.find()) == [first]


def test_of_many_that_change_one_document_all_get_their_turn(notes: Collection[Document]) -> None:
    made, _ = insert(notes, note(count=0), write(level(0)))

    def raise_by_one(number: int) -> None:
        def attempt() -> Document:
            current = notes.find_one({"_id": made["_id"]})
            assert current is not None
            return update(notes, current, write(level(number)), changes={"count": current["count"] + 1})

        settle(attempt)

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(raise_by_one, range(1, 41)))
    (kept,) = notes.find()
    assert (kept["count"], kept["rev"], kept["seq"]) == (40, 41, 41)
    assert [out["seq"] for out in embedded(kept)] == list(range(1, 42))
    assert sorted(out["data"]["level"] for out in kept["out"]) == list(range(41)), "no event is lost or doubled"


def test_contention_that_does_not_end_is_told() -> None:
    tries = 0

    def attempt() -> None:
        nonlocal tries
        tries += 1
        raise Stale

    with pytest.raises(Stale):
        settle(attempt)
    assert tries == outbox.STALE_TRIES


def test_settle_repeats_nothing_but_contention() -> None:
    tries = 0

    def attempt() -> None:
        nonlocal tries
        tries += 1
        raise Conflict

    with pytest.raises(Conflict):
        settle(attempt)
    assert tries == 1
    assert settle(lambda: "done") == "done"


@pytest.mark.parametrize(
    "data", [{}, {"level": "1"}, {"level": -1}, {"level": 1, "name": "张三"}, {"level": 1.5}, {"level": None}]
)
def test_an_event_that_breaks_its_contract_is_refused_before_anything_is_written(
    notes: Collection[Document], data: dict[str, Any]
) -> None:
    with pytest.raises(AssertionError, match=r"probe.level_set.v1 would break its contract") as refused:
        insert(notes, note(), write(Emit(LevelSetV1, data)))
    assert "张三" not in str(refused.value)
    assert notes.count_documents({}) == 0


# What the relay has published


def test_published_documents_are_closed_and_those_that_gained_events_are_not(notes: Collection[Document]) -> None:
    one, _ = insert(notes, note(), write(level(1)))
    two, _ = insert(notes, note(), write(level(1), level(2)))
    three, _ = insert(notes, note(), write(level(1)))
    read = {document["_id"]: document["seq"] for document in pending(notes)}
    gained = update(notes, two, write(level(3)), changes={})
    assert mark_published(notes, read) == 2
    assert [document["_id"] for document in pending(notes)] == [two["_id"]]
    assert [out["seq"] for out in pending(notes)[0]["out"]] == [1, 2, 3]
    closed = notes.find_one({"_id": one["_id"]})
    assert closed is not None
    assert (closed["open"], closed["sent"], closed["out"], closed["rev"]) == (False, 1, [], 1)
    assert mark_published(notes, {two["_id"]: gained["seq"]}) == 1
    again = update(notes, closed, write(level(9)), changes={})
    assert [out["seq"] for out in again["out"]] == [2], "sequence goes on where it was"
    assert again["open"]
    assert three["_id"] not in {document["_id"] for document in pending(notes)}


def test_marking_nothing_is_nothing(notes: Collection[Document]) -> None:
    assert mark_published(notes, {}) == 0
    assert mark_published(notes, {"unknown": 3}) == 0


# Idempotency-Key


KEY = Idempotency("key", "body")


def test_the_same_key_and_body_find_the_first_document_again(notes: Collection[Document]) -> None:
    first, new = insert(notes, note(title="first"), write(level(1)), idempotency=KEY)
    changed = update(notes, first, write(), changes={"title": "changed"})
    again, new_again = insert(notes, note(title="second"), write(level(1)), idempotency=KEY)
    assert (new, new_again) == (True, False)
    assert again == changed
    assert notes.count_documents({}) == 1


def test_the_same_key_with_another_body_is_a_conflict(notes: Collection[Document]) -> None:
    first, _ = insert(notes, note(), write(), idempotency=KEY)
    with pytest.raises(Conflict) as refused:
        insert(notes, note(), write(), idempotency=Idempotency("key", "other"))
    assert refused.value.code == "idempotency_key_reused"
    assert list(notes.find()) == [first]


@pytest.mark.parametrize("body", ["body", "other"])
def test_a_key_is_remembered_for_24_hours_and_not_longer(notes: Collection[Document], body: str) -> None:
    first, _ = insert(notes, note(), write(), idempotency=KEY)
    at_last = NOON + timedelta(hours=24)
    assert insert(notes, note(), write(at=at_last), idempotency=KEY) == (first, False)
    later = at_last + timedelta(milliseconds=1)
    second, new = insert(notes, note(), write(level(2), at=later), idempotency=Idempotency("key", body))
    assert new
    assert second["_id"] != first["_id"]
    assert notes.count_documents({}) == 2
    assert insert(notes, note(), write(at=later), idempotency=Idempotency("key", body)) == (second, False)


def test_of_two_requests_at_once_with_one_key_one_creates(notes: Collection[Document]) -> None:
    for number in range(20):
        key = Idempotency(f"key {number}", "body")
        with ThreadPoolExecutor(6) as pool:
            made = list(pool.map(lambda _: insert(notes, note(), write(level(1)), idempotency=key), range(6)))  # noqa: B023
        assert sum(new for _document, new in made) == 1
        assert len({document["_id"] for document, _new in made}) == 1
    assert notes.count_documents({}) == 20


def test_without_a_key_every_request_creates(notes: Collection[Document]) -> None:
    for _ in range(2):
        insert(notes, note(), write())
    assert notes.count_documents({}) == 2


def test_another_unique_index_is_not_taken_for_the_key(notes: Collection[Document]) -> None:
    notes.create_index("title", unique=True)
    insert(notes, note(title="a"), write(), idempotency=KEY)
    for key in (Idempotency("other", "body"), None):
        with pytest.raises(DuplicateKeyError):
            insert(notes, note(title="a"), write(), idempotency=key)


def test_in_a_transaction_a_key_works_as_well(database: Database[Document], notes: Collection[Document]) -> None:
    def work(session: ClientSession) -> tuple[Document, bool]:
        return insert(notes, note(), write(level(1)), idempotency=KEY, session=session)

    first, new = mongo.transaction(database, work)
    assert new
    assert mongo.transaction(database, work) == (first, False)
    with ThreadPoolExecutor(4) as pool:
        again = list(pool.map(lambda _: mongo.transaction(database, work), range(4)))
    assert again == [(first, False)] * 4
    notes.delete_many({})
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: mongo.transaction(database, work), range(4)))
    assert sorted(new for _document, new in made) == [False, False, False, True]
    assert notes.count_documents({}) == 1
