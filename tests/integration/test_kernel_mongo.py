"""MongoDB: grouped inserts, transactions and leases on a real replica set that is told to fail."""

import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import bson
import pymongo
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import (
    AutoReconnect,
    BulkWriteError,
    DuplicateKeyError,
    OperationFailure,
    PyMongoError,
    ServerSelectionTimeoutError,
    WriteConcernError,
)

from services.kernel import ids, mongo
from services.kernel.mongo import Document, GroupCommit, Lease
from services.kernel.settings import Settings
from tests.kernel import connected, failing
from tests.parts import PROJECT, Parts, until

APPNAME = "estation-kernel-test"
SHARED = settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def database(parts: Parts) -> Iterator[Database[Document]]:
    """A database of this module's own."""
    with connected(Settings(mongodb_url=parts.mongodb_url, mongodb_prefix="tk_"), "kernel", "test") as made:
        yield made
        made.client.drop_database(made.name)


@pytest.fixture
def collection(database: Database[Document]) -> Collection[Document]:
    """An empty collection of a test's own."""
    return database.create_collection("c" + ids.new())


def test_a_connection_means_what_it_acknowledges(parts: Parts) -> None:
    with connected(Settings(mongodb_url=parts.mongodb_url), "kernel", "test") as database:
        assert database.write_concern.document == {"w": "majority", "j": True}
        assert database.read_concern.document == {"level": "majority"}
        assert database.client.options.retry_writes
        assert database.client.options.timeout == 5
        assert database.name == "estation_kernel"


def test_documents_and_their_service_share_one_client(parts: Parts) -> None:
    known = Settings(mongodb_url=parts.mongodb_url, mongodb_prefix="tk_")
    first = mongo.connect_documents(known, "kernel", "test")
    again = mongo.connect_documents(known, "kernel", "test")
    try:
        import mongoengine

        assert mongoengine.get_connection("kernel") is again.client
        assert again.write_concern.document == {"w": "majority", "j": True}
        assert again.name == "tk_kernel"
    finally:
        first.client.close()
        mongoengine.disconnect(alias="kernel")


@pytest.mark.parametrize(
    ("error", "away"),
    [
        (AutoReconnect(), True),
        (ServerSelectionTimeoutError(), True),
        (pymongo.errors.ExecutionTimeout("late", 50), True),
        (pymongo.errors.NotPrimaryError(), True),
        (DuplicateKeyError("x"), False),
        (OperationFailure("x", 13), False),
        (OSError(), False),
        (TimeoutError(), False),
    ],
)
def test_away_is_what_another_moment_may_mend(error: Exception, *, away: bool) -> None:
    assert mongo.is_away(error) is away


def test_an_answer_that_comes_too_late_counts_as_away(parts: Parts, collection: Collection[Document]) -> None:
    with (
        failing(parts.mongodb_url, APPNAME, "find", blockConnection=True, blockTimeMS=1000),
        pytest.raises(PyMongoError) as late,
        pymongo.timeout(0.1),
    ):
        collection.find_one()
    assert mongo.is_away(late.value)


# Transactions


def test_a_transaction_is_whole_or_nothing(database: Database[Document], collection: Collection[Document]) -> None:
    def work(session: ClientSession) -> str:
        collection.insert_one({"_id": 1}, session=session)
        assert collection.find_one({"_id": 1}) is None, "nobody else sees it yet"
        collection.insert_one({"_id": 2}, session=session)
        return "done"

    def broken(session: ClientSession) -> None:
        collection.insert_one({"_id": 3}, session=session)
        raise LookupError

    assert mongo.transaction(database, work) == "done"
    with pytest.raises(LookupError):
        mongo.transaction(database, broken)
    assert [found["_id"] for found in collection.find().sort("_id")] == [1, 2]


@pytest.mark.parametrize(
    ("command", "how"),
    [
        ("insert", {"errorCode": 112, "errorLabels": ["TransientTransactionError"]}),
        ("insert", {"closeConnection": True}),
        ("commitTransaction", {"closeConnection": True}),
        ("commitTransaction", {"errorCode": 64, "errorLabels": ["UnknownTransactionCommitResult"]}),
    ],
)
def test_a_passing_fault_in_a_transaction_costs_nothing(
    parts: Parts, database: Database[Document], collection: Collection[Document], command: str, how: dict[str, Any]
) -> None:
    calls = 0

    def work(session: ClientSession) -> None:
        nonlocal calls
        calls += 1
        collection.insert_one({"_id": calls}, session=session)

    with failing(parts.mongodb_url, APPNAME, command, times=1, **how):
        mongo.transaction(database, work)
    assert [found["_id"] for found in collection.find()] == [calls]
    assert calls == (2 if command == "insert" else 1)


def test_transactions_that_meet_take_turns(database: Database[Document], collection: Collection[Document]) -> None:
    collection.insert_one({"_id": "sum", "value": 0})
    meet = threading.Barrier(2)
    calls: list[int] = []

    def add(amount: int) -> None:
        def work(session: ClientSession) -> None:
            found = collection.find_one({"_id": "sum"}, session=session)
            assert found is not None
            if amount not in calls:
                calls.append(amount)
                meet.wait(10)
            collection.update_one({"_id": "sum"}, {"$set": {"value": found["value"] + amount}}, session=session)

        mongo.transaction(database, work)

    with ThreadPoolExecutor(2) as pool:
        list(pool.map(add, [1, 10]))
    assert collection.find_one() == {"_id": "sum", "value": 11}


KILLED = """
import sys, time
from services.kernel import mongo, settings
database = mongo.connect(settings.Settings(mongodb_url=sys.argv[1], mongodb_prefix="tk_"), "kernel", sys.argv[2])
with database.client.start_session() as session, session.start_transaction():
    database[sys.argv[3]].update_one({"_id": "row"}, {"$set": {"by": "dead"}}, session=session)
    print("inside", flush=True)
    time.sleep(60)
"""


def test_what_a_killed_process_left_open_is_ended_and_nothing_else(
    parts: Parts, database: Database[Document], collection: Collection[Document]
) -> None:
    collection.insert_many([{"_id": "row"}, {"_id": "other"}])
    arguments = [sys.executable, "-c", KILLED, parts.mongodb_url, "killed", collection.name]
    with subprocess.Popen(arguments, cwd=PROJECT, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"inside\n"
        process.kill()
    with database.client.start_session() as session, session.start_transaction():
        collection.update_one({"_id": "other"}, {"$set": {"by": "living"}}, session=session)
        until(lambda: mongo.end_orphans(database.client, "estation-kernel-killed"), "the orphan is found", 5)
        started = time.monotonic()
        collection.update_one({"_id": "row"}, {"$set": {"by": "next"}})
        assert time.monotonic() - started < 2, "its locks are gone"
    assert mongo.end_orphans(database.client, "estation-kernel-killed") == 0
    assert {found["_id"]: found["by"] for found in collection.find()} == {"row": "next", "other": "living"}


# Group commit


class Callers:
    """Threads that insert at the same time; their outcomes and errors, by their numbers."""

    def __init__(self, group: GroupCommit) -> None:
        self._group = group
        self.outcomes: dict[int, list[bool]] = {}
        self.errors: dict[int, BaseException] = {}

    def insert(self, number: int, documents: Sequence[Document]) -> None:
        """One caller."""
        try:
            with pymongo.timeout(2):  # the driver repeats what fails until then
                self.outcomes[number] = self._group.insert(documents)
        except (PyMongoError, bson.errors.BSONError, OverflowError) as error:
            self.errors[number] = error

    def run(self, batches: Sequence[Sequence[Document]], *, first: Callable[[], object] = lambda: None) -> None:
        """All callers; ``first`` is called when the first of them has begun."""
        threads = [
            threading.Thread(target=self.insert, args=(number, batch), daemon=True)
            for number, batch in enumerate(batches)
        ]
        for number, thread in enumerate(threads):
            thread.start()
            if number == 0:
                first()
        for thread in threads:
            thread.join(30)
        assert not any(thread.is_alive() for thread in threads), "nobody is left waiting"


def rows(*names: str, **fields: Any) -> list[Document]:
    """Documents of these ids."""
    return [{"_id": name, **fields} for name in names]


def together(parts: Parts, group: GroupCommit, batches: Sequence[Sequence[Document]]) -> Callers:
    """The callers after the first ride in one write: the first holds the only lane until all have come."""
    callers = Callers(group)
    with failing(parts.mongodb_url, APPNAME, "insert", times=1, blockConnection=True, blockTimeMS=400):
        callers.run(batches, first=lambda: until(lambda: group._free_lanes == 0, "the lane is taken"))
    return callers


@pytest.mark.parametrize("lanes", [1, 2])
def test_each_caller_learns_what_became_of_his_own(collection: Collection[Document], lanes: int) -> None:
    collection.insert_one({"_id": "old"})
    group = GroupCommit(collection, lanes=lanes)
    assert group.insert(rows("a", "old", "b", "a")) == [True, False, True, False]
    assert group.insert([]) == []
    assert group.insert(rows("a")) == [False]
    assert collection.count_documents({}) == 3


def test_callers_that_come_together_ride_in_one_write(parts: Parts, collection: Collection[Document]) -> None:
    writes = 0
    real = collection.insert_many

    class Counted:
        """The collection, counting its writes."""

        def insert_many(self, documents: Sequence[Document], *, ordered: bool) -> object:
            nonlocal writes
            writes += 1
            return real(documents, ordered=ordered)

    group = GroupCommit(Counted(), lanes=1)  # type: ignore[arg-type]  # what it needs of a collection
    batches = [rows("first"), *(rows(f"{n}-1", "shared", f"{n}-2") for n in range(10)), []]
    callers = together(parts, group, batches)
    assert writes == 2
    assert callers.errors == {}
    assert callers.outcomes[0] == [True]
    assert callers.outcomes[11] == []
    mine = [callers.outcomes[n] for n in range(1, 11)]
    assert all(first and last for first, _shared, last in mine)
    assert sum(shared for _first, shared, _last in mine) == 1, "one of them brought it"
    assert collection.count_documents({}) == 22


def test_a_write_has_a_largest_size(parts: Parts, collection: Collection[Document]) -> None:
    sizes: list[int] = []
    real = collection.insert_many

    class Measured:
        """The collection, measuring its writes."""

        def insert_many(self, documents: Sequence[Document], *, ordered: bool) -> object:
            sizes.append(len(documents))
            return real(documents, ordered=ordered)

    group = GroupCommit(Measured(), lanes=1, documents_max=5)  # type: ignore[arg-type]  # what it needs of one
    callers = together(parts, group, [rows("first"), *(rows(f"{n}a", f"{n}b") for n in range(5)), rows(*"uvwxyz")])
    assert all(all(outcome) for outcome in callers.outcomes.values())
    assert len(callers.outcomes) == 7
    assert sorted(sizes) == [1, 2, 4, 4, 6], "two by two, and one that is larger than the limit alone"


def unencodable() -> Document:
    """A document the driver cannot write."""
    return {"_id": "odd", "value": object()}


def clashing() -> Document:
    """A document that the database refuses: another unique index than that of ``_id``."""
    return {"_id": "clash", "number": 1}


@pytest.mark.parametrize("bad", [unencodable, clashing, lambda: {"_id": "big", "n": 2**70}])
def test_one_callers_bad_document_is_his_alone(
    parts: Parts, collection: Collection[Document], bad: Callable[[], Document]
) -> None:
    collection.create_index("number", unique=True, sparse=True)
    collection.insert_one({"_id": "taken", "number": 1})
    batches = [rows("first"), rows("a", "b"), [*rows("c"), bad()], rows("d", "taken"), [bad()]]
    callers = together(parts, GroupCommit(collection, lanes=1), batches)
    assert callers.errors.keys() == {2, 4}
    assert not any(mongo.is_away(error) for error in callers.errors.values())
    assert callers.outcomes == {0: [True], 1: [True, True], 3: [True, False]}
    assert {found["_id"] for found in collection.find()} >= {"first", "a", "b", "d", "taken"}


def test_an_outage_is_everybodys_and_the_next_call_works(parts: Parts, collection: Collection[Document]) -> None:
    group = GroupCommit(collection, lanes=2)
    batches = [rows(str(n)) for n in range(20)]
    with failing(parts.mongodb_url, APPNAME, "insert", closeConnection=True):
        callers = Callers(group)
        callers.run(batches)
    assert callers.outcomes == {}
    assert len(callers.errors) == 20
    assert all(mongo.is_away(error) for error in callers.errors.values())
    callers = Callers(group)
    callers.run(batches)
    assert sum(sum(outcome) for outcome in callers.outcomes.values()) == 20


def test_what_no_majority_acknowledged_is_nobodys_success(parts: Parts, collection: Collection[Document]) -> None:
    go = threading.Event()
    real = collection.insert_many

    class Gate:
        """The collection, whose first write waits."""

        def insert_many(self, documents: Sequence[Document], *, ordered: bool) -> object:
            assert go.wait(10)
            return real(documents, ordered=ordered)

    group = GroupCommit(Gate(), lanes=1)  # type: ignore[arg-type]  # what it needs of a collection
    callers = Callers(group)
    batches = [rows(str(n)) for n in range(6)]

    def let_go() -> None:
        until(lambda: group._free_lanes == 0, "the first has the lane")
        threading.Thread(target=release).start()

    def release() -> None:
        until(lambda: len(group._waiting) == 5, "the others wait")
        go.set()

    unsure = {"code": 64, "errmsg": "waiting timed out"}
    with failing(parts.mongodb_url, APPNAME, "insert", skip=1, writeConcernError=unsure):
        callers.run(batches, first=let_go)
    assert callers.outcomes == {0: [True]}
    assert callers.errors.keys() == {1, 2, 3, 4, 5}
    assert all(isinstance(error, BulkWriteError) for error in callers.errors.values())
    assert group.insert([document for batch in batches for document in batch]) == [False] * 6, "sent again: now it is"


def test_many_callers_with_overlapping_ids_never_lose_double_or_wait(collection: Collection[Document]) -> None:
    group = GroupCommit(collection, lanes=2, documents_max=40)

    @SHARED
    @given(st.lists(st.lists(st.integers(0, 60), max_size=12), min_size=2, max_size=24), st.sets(st.integers(0, 60)))
    def check(plan: list[list[int]], before: set[int]) -> None:
        collection.delete_many({})
        collection.insert_many([{"_id": -1}, *({"_id": id_} for id_ in before)])
        callers = Callers(group)
        callers.run([[{"_id": id_, "by": number} for id_ in batch] for number, batch in enumerate(plan)])
        assert callers.errors == {}
        brought = Counter(
            id_
            for number, batch in enumerate(plan)
            for id_, new in zip(batch, callers.outcomes[number], strict=True)
            if new
        )
        given_ids = {id_ for batch in plan for id_ in batch}
        assert brought == Counter(given_ids - before), "each new document has exactly one bringer"
        stored = {found["_id"]: found.get("by") for found in collection.find()}
        assert stored.keys() == {-1} | before | given_ids
        for number, batch in enumerate(plan):
            for id_, new in zip(batch, callers.outcomes[number], strict=True):
                assert not new or stored[id_] == number, "and it is the bringer's that is kept"

    check()
    assert group._free_lanes == 2


# Leases


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    """The one clock of a test."""
    return Clock()


@pytest.fixture
def contender(collection: Collection[Document], clock: Clock) -> Callable[[str], Lease]:
    """Makes contenders for one lease of ten seconds."""
    return lambda name: Lease(collection, "relay", name, ttl=10.0, monotonic=clock)


Contender = Callable[[str], Lease]


def test_the_first_holds_and_the_others_wait(contender: Contender, clock: Clock) -> None:
    one, two, three = contender("one"), contender("two"), contender("three")
    assert one.hold()
    for _ in range(12):
        clock.now += 3
        assert one.hold()
        assert not two.hold()
        assert not three.hold()


def test_two_challengers_take_over_one_at_a_time_and_only_after_the_time(contender: Contender, clock: Clock) -> None:
    dead, two, three = contender("dead"), contender("two"), contender("three")
    assert dead.hold()
    clock.now += 100
    assert not two.hold(), "it has only just begun to watch"
    clock.now += 5
    assert not three.hold()
    clock.now += 4.9
    assert not two.hold()
    clock.now += 0.2
    assert two.hold()
    clock.now += 5
    assert not three.hold(), "what it watched has changed hands"
    assert not dead.hold(), "it learns that it is over"
    assert two.hold()


def test_a_holder_that_cannot_reach_the_database_believes_for_a_while_only(
    parts: Parts, contender: Contender, clock: Clock
) -> None:
    one, two = contender("one"), contender("two")
    assert one.hold()
    with failing(parts.mongodb_url, APPNAME, "update", closeConnection=True):
        clock.now += 7.9
        with pymongo.timeout(0.5):
            assert one.hold()
        assert not two.hold()
        clock.now += 0.2
        with pymongo.timeout(0.5):
            assert not one.hold()
    assert not two.hold(), "the challenger still waits its time"


def test_freshly_renewed_it_asks_nobody(parts: Parts, contender: Contender, clock: Clock) -> None:
    one = contender("one")
    assert one.hold()
    with failing(parts.mongodb_url, APPNAME, "update", "find", "insert", closeConnection=True):
        clock.now += 3.3
        assert one.hold()


def test_release_hands_over_at_once(contender: Contender, clock: Clock) -> None:
    one, two = contender("one"), contender("two")
    assert one.hold()
    assert not two.hold()
    one.release()
    assert two.hold()
    one.release()
    clock.now += 4
    assert two.hold(), "who does not hold it cannot give it away"
    assert not one.hold()


@pytest.mark.parametrize("command", ["insert", "update"])
def test_a_holder_whose_answer_was_lost_goes_on_at_once(
    parts: Parts, contender: Contender, clock: Clock, command: str
) -> None:
    """The write took effect, its answer did not come: the lease is its own and nobody else's."""
    one, two = contender("one"), contender("two")
    if command == "update":
        assert one.hold()
        clock.now += 4
    lost: dict[str, Any] = {"writeConcernError": {"code": 64, "errmsg": "waiting timed out"}, "times": 1}
    with failing(parts.mongodb_url, APPNAME, command, **lost):
        if command == "insert":
            with pytest.raises(WriteConcernError):
                one.hold()
        else:
            assert one.hold(), "within its time it believes"
    clock.now += 4
    assert one.hold() or one.hold()
    assert not two.hold()


def test_only_one_of_many_gets_a_free_lease(collection: Collection[Document]) -> None:
    contenders = [Lease(collection, "relay", str(n)) for n in range(16)]
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda lease: lease.hold(), contenders)) == 1
    next(lease for lease in contenders if lease._beat).release()
    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(lambda lease: lease.hold(), contenders)) == 1


def test_two_never_hold_it_whatever_happens_when(collection: Collection[Document], clock: Clock) -> None:
    """Who gets it from a holder that did not release it gets it no earlier than that one stops to believe."""
    steps = st.tuples(st.sampled_from(["hold", "hold", "hold", "release"]), st.integers(0, 2), st.floats(0, 7))

    @settings(SHARED, max_examples=40)
    @given(st.lists(steps, max_size=40))
    def check(plan: list[tuple[str, int, float]]) -> None:
        collection.delete_many({})
        contenders = [Lease(collection, "relay", str(n), ttl=10.0, monotonic=clock) for n in range(3)]
        holder, believed = -1, clock.now
        for what, number, pause in plan:
            clock.now += pause
            if what == "release":
                contenders[number].release()
                holder = -1 if holder == number else holder
            elif contenders[number].hold():
                assert holder in {-1, number} or clock.now - believed >= 10.0 * 2 / 3 - 1e-6
                holder, believed = number, clock.now
            elif holder == number:
                holder = -1

    check()


def test_the_database_away_is_told_to_who_does_not_hold_it(parts: Parts, contender: Contender) -> None:
    with (
        failing(parts.mongodb_url, APPNAME, "find", closeConnection=True),
        pytest.raises(PyMongoError) as away,
        pymongo.timeout(0.5),
    ):
        contender("one").hold()
    assert mongo.is_away(away.value)
