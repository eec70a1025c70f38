"""MongoDB: connections that mean what they acknowledge, transactions, grouped inserts, leases.

Every write is acknowledged by a majority and journalled; with ``w:1`` the death of a primary loses what was
acknowledged. Indexes are created by ``estation migrate`` only.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

import mongoengine
from pymongo import MongoClient, ReadPreference, WriteConcern
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.database import Database
from pymongo.errors import BulkWriteError, ConnectionFailure, DuplicateKeyError, OperationFailure, PyMongoError
from pymongo.read_concern import ReadConcern

from services.kernel.settings import Settings

Document = dict[str, Any]
T = TypeVar("T")
DUPLICATE_KEY: Final = 11000
INDEX_CONFLICTS: Final = (85, 86)
"""IndexOptionsConflict, IndexKeySpecsConflict."""

_OPTIONS: Final[dict[str, Any]] = {
    "w": "majority",
    "journal": True,
    "readConcernLevel": "majority",
    "retryWrites": True,
    "timeoutMS": 5000,
    "tz_aware": True,
    "uuidRepresentation": "standard",
    "maxPoolSize": 50,
}


def connect(settings: Settings, service: str, role: str) -> Database[Document]:
    """The service's own database; the connection is made on first use and mends itself."""
    client: MongoClient[Document] = MongoClient(settings.mongodb_url, appname=f"estation-{service}-{role}", **_OPTIONS)
    return client[settings.database(service)]


def connect_documents(settings: Settings, service: str, role: str) -> Database[Document]:
    """The same for a service with mongoengine documents (``meta = {"db_alias": service}``): one client for both."""
    mongoengine.disconnect(alias=service)
    name = settings.database(service)
    client: MongoClient[Document] = mongoengine.connect(
        db=name, alias=service, host=settings.mongodb_url, appname=f"estation-{service}-{role}", **_OPTIONS
    )
    return client[name]


def ensure_model_indexes(model: Any) -> None:
    """Creates the indexes of a mongoengine document (``estation migrate``).

    An index that an earlier version made under the same name with other options is in the way of the new one: then
    those that the document names are made anew.
    """
    try:
        model.ensure_indexes()
    except OperationFailure as error:
        if error.code not in INDEX_CONFLICTS:
            raise
        collection = model._get_collection()  # noqa: SLF001 (mongoengine's own way)
        known = collection.index_information()
        for spec in model._meta["index_specs"]:  # noqa: SLF001
            if spec.get("name") in known:
                collection.drop_index(spec["name"])
        model.ensure_indexes()


def is_away(error: BaseException) -> bool:
    """Whether the error says that the database cannot be reached or does not answer in time."""
    return isinstance(error, PyMongoError) and (isinstance(error, ConnectionFailure) or error.timeout)


def transaction(database: Database[Document], work: Callable[[ClientSession], T]) -> T:
    """Runs ``work`` in one transaction (snapshot reads, majority commit), again on a passing conflict.

    ``work`` must leave nothing behind outside the session: it may run several times.
    """
    with database.client.start_session() as session:
        return session.with_transaction(
            work,
            read_concern=ReadConcern("snapshot"),
            write_concern=WriteConcern("majority", j=True),
            read_preference=ReadPreference.PRIMARY,
        )


def end_orphans(client: MongoClient[Document], appname: str) -> int:
    """Ends idle transactions that a killed process of the same name left open, and says how many.

    Their locks would block the new process for up to a minute.
    """
    admin = client.get_database("admin", read_concern=ReadConcern("local"))  # $currentOp takes no other
    orphans = [
        {"id": operation["lsid"]["id"]}
        for operation in admin.aggregate(
            [
                {"$currentOp": {"allUsers": True, "idleSessions": True}},
                {"$match": {"appName": appname, "transaction": {"$exists": True}, "type": "idleSession"}},
            ]
        )
    ]
    if orphans:
        admin.command("killSessions", orphans, codec_options=client.codec_options)
    return len(orphans)


class _Rider:
    """One caller's documents in a group, and what became of them."""

    __slots__ = ("documents", "done", "error", "inserted", "wake")

    def __init__(self, documents: Sequence[Document]) -> None:
        self.documents = documents
        self.wake = threading.Event()
        self.done = False
        self.inserted: list[bool] = []
        self.error: BaseException | None = None

    def settle(self, inserted: list[bool], error: BaseException | None = None) -> None:
        self.inserted, self.error, self.done = inserted, error, True

    def outcome(self) -> list[bool]:
        if self.error is not None:
            raise self.error
        return self.inserted


class GroupCommit:
    """Inserts of concurrent callers share one write: who comes first leads, who comes meanwhile rides along.

    The promise to each caller stays its own: when :meth:`insert` returns, its documents are on a majority's
    journals, or were there before.
    """

    def __init__(self, collection: Collection[Document], *, lanes: int = 2, documents_max: int = 2000) -> None:
        """``lanes``: writes in flight at once; ``documents_max``: documents that ride in one write."""
        self._collection = collection
        self._documents_max = documents_max
        self._free_lanes = lanes
        self._waiting: deque[_Rider] = deque()
        self._lock = threading.Lock()

    def insert(self, documents: Sequence[Document]) -> list[bool]:
        """Inserts the documents; False stands for one whose ``_id`` was there already.

        Raises:
            pymongo.errors.PyMongoError: the outcome is unknown; the same ids may be sent again.
        """
        rider = _Rider(documents)
        with self._lock:
            leads = self._free_lanes > 0
            if leads:
                self._free_lanes -= 1
            else:
                self._waiting.append(rider)
        if not leads:
            rider.wake.wait()
        if not rider.done:
            self._lead(rider)
        return rider.outcome()

    def _lead(self, leader: _Rider) -> None:
        group, size = [leader], len(leader.documents)
        with self._lock:
            while self._waiting and size + len(self._waiting[0].documents) <= self._documents_max:
                group.append(self._waiting.popleft())
                size += len(group[-1].documents)
        try:
            self._write(group)
        finally:
            with self._lock:
                heir = self._waiting.popleft() if self._waiting else None
                if heir is None:
                    self._free_lanes += 1
            for rider in group[1:]:
                rider.wake.set()
            if heir is not None:
                heir.wake.set()  # woken undone: it leads the next group

    def _write(self, group: Sequence[_Rider]) -> None:
        documents = [document for rider in group for document in rider.documents]
        known: set[int] = set()
        broken: set[int] = set()
        error: BaseException | None = None
        try:
            if documents:
                self._collection.insert_many(documents, ordered=False)
        except BulkWriteError as failure:
            known, broken, error = *_faults(failure, len(documents)), failure
        except BaseException as failure:  # noqa: BLE001 (each rider raises it in its own caller)
            if len(group) > 1 and isinstance(failure, Exception) and not is_away(failure):
                # nothing was sent: one caller's unwritable document is not its neighbours' fault
                for rider in group:
                    self._write([rider])
                return
            broken, error = set(range(len(documents))), failure
        start = 0
        for rider in group:
            own = range(start, start + len(rider.documents))
            rider.settle([index not in known for index in own], None if broken.isdisjoint(own) else error)
            start = own.stop


def _faults(failure: BulkWriteError, count: int) -> tuple[set[int], set[int]]:
    """Indexes of the documents whose ``_id`` was there already, and of those whose outcome is bad or unknown."""
    details = failure.details or {}
    if details.get("writeConcernErrors"):
        return set(), set(range(count))
    errors = details.get("writeErrors", [])
    known = {
        error["index"] for error in errors if error["code"] == DUPLICATE_KEY and error.get("keyPattern") == {"_id": 1}
    }
    return known, {error["index"] for error in errors} - known


class Lease:
    """At most one holder of a name at a time, without trusting any clock of the day.

    The holder raises a counter; a challenger takes over when it has seen the same counter for ``ttl`` seconds of
    its own monotonic clock. The holder stops believing after 0.8 ``ttl`` without a renewal. What a lease guards
    must be harmless when done twice all the same: a paused process wakes up with an old belief.
    """

    def __init__(
        self,
        collection: Collection[Document],
        name: str,
        holder: str,
        *,
        ttl: float = 5.0,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        self._collection, self._name, self._holder, self._ttl = collection, name, holder, ttl
        self._monotonic = monotonic
        self._beat: int | None = None
        self._renewed = 0.0
        self._seen: tuple[Any, float] | None = None

    def hold(self) -> bool:
        """Takes or renews the lease; call it at least every third of ``ttl``. Cheap while freshly renewed."""
        now = self._monotonic()
        if self._beat is not None:
            if now - self._renewed < self._ttl / 3:
                return True
            return self._renew(self._beat, now)
        return self._take(now)

    def release(self) -> None:
        """Lets another take over at once; without it, it takes ``ttl``."""
        if self._beat is not None:
            self._collection.update_one(
                {"_id": self._name, "holder": self._holder, "beat": self._beat}, {"$set": {"holder": None}}
            )
            self._beat = None

    def _renew(self, beat: int, now: float) -> bool:
        try:
            if self._swap({"holder": self._holder, "beat": beat}, beat + 1):
                self._beat, self._renewed = beat + 1, now
                return True
        except PyMongoError:
            if self._monotonic() - self._renewed < self._ttl * 0.8:
                return True
        self._beat = None
        return False

    def _take(self, now: float) -> bool:
        found = self._collection.find_one({"_id": self._name})
        if found is None:
            try:
                self._collection.insert_one({"_id": self._name, "holder": self._holder, "beat": 1})
            except DuplicateKeyError:
                return False
            self._beat, self._renewed = 1, now
            return True
        state = (found["holder"], found["beat"])
        if self._seen is None or self._seen[0] != state:
            self._seen = (state, now)
        free = found["holder"] in (None, self._holder)  # our own: the answer to a write of ours was lost
        if not free and now - self._seen[1] < self._ttl:
            return False
        if self._swap({"holder": found["holder"], "beat": found["beat"]}, found["beat"] + 1):
            self._beat, self._renewed, self._seen = found["beat"] + 1, now, None
            return True
        return False

    def _swap(self, expected: Document, beat: int) -> bool:
        result = self._collection.update_one(
            {"_id": self._name, **expected}, {"$set": {"holder": self._holder, "beat": beat}}
        )
        return result.matched_count == 1
