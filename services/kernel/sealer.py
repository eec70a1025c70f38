"""Audit rows -> chain: one link a round for all rows that wait, each row in exactly one link.

A round reads the last link, notes it in the documents whose rows it holds, reads what waits, and inserts the next
link under the next number. A link is inserted only after the one before was noted, and a number is taken once: so
nobody seals what a link holds already, whoever dies wherever and however many seal at a time. The lease only saves
work. A process of its own for all services: sealing is as much work as relaying, and needs no broker.
"""

import json
import os
import threading
import time
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from prometheus_client import Counter, Gauge
from pymongo import UpdateMany
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError, PyMongoError

from services.kernel import audit, clock, logging, mongo, telemetry
from services.kernel.audit import CHAIN, Source
from services.kernel.audit_verifier import NOTHING, canonical, link_hash
from services.kernel.mongo import Document, Lease
from services.kernel.settings import SettingError, Settings

LINK_ROWS: Final = 1000
LINK_BYTES: Final = 4 * 1024 * 1024
"""Of copied rows: a document of MongoDB may have 16 MiB."""
POLL_SECONDS: Final = 0.5
BACK_OFF_SECONDS: Final = 1.0
HEAD_LOOK_SECONDS: Final = 60.0

SEALED = Counter("estation_audit_sealed_rows", "Audit rows sealed", ["service"])
OLDEST = Gauge("estation_audit_unsealed_oldest_seconds", "Age of the oldest unsealed row's document", ["service"])
ACTIVE = Gauge("estation_audit_sealer_active", "1 while this process holds the sealer's lease", ["service"])
FAULTS = Counter("estation_audit_sealer_faults", "Rounds that failed and will be repeated", ["service"])


def last_link(database: Database[Document]) -> Document | None:
    """The chain's last link."""
    return database[CHAIN].find_one(sort=[("_id", -1)])


def as_line(link: Document) -> dict[str, Any]:
    """A link as it is hashed and exported.

    Raises:
        LookupError, TypeError: somebody made something else of it.
    """
    rows = [[row["in"], row["of"], row["k"], row["id"], row["sha256"]] for row in link["rows"]]
    return {"n": link["_id"], "prev": link["prev"], "at": audit.plain(link["at"]), "rows": rows, "hash": link["hash"]}


def head(service: str, database: Database[Document]) -> dict[str, Any] | None:
    """What leaves the house: service, number and hash of the last link, and when it was sealed. None before the first.

    Who keeps it can tell later whether the chain up to there is still the same.
    """
    link = last_link(database)
    if link is None:
        return None
    return {"service": service, "n": link["_id"], "hash": link["hash"], "at": audit.plain(link["at"])}


class Sealer:
    """Chains the audit rows of one database, while it holds the lease; notes the head once a day in a file."""

    def __init__(
        self,
        service: str,
        database: Database[Document],
        sources: Sequence[Source],
        *,
        holder: str,
        heads: Path | None = None,
        now: clock.Clock = clock.now,
    ) -> None:
        """``heads``: the folder of the daily heads, which others carry out of the house; None: nothing is noted."""
        self._service, self._database, self._sources, self._now = service, database, sources, now
        self._known = {source.collection: source for source in sources}
        self._lease = Lease(database["leases"], "sealer", holder)
        self._stop = threading.Event()
        self._noted: str | None = None
        self._heads = heads / f"{service}.jsonl" if heads else None
        self._head_due = 0.0

    def stop(self) -> None:
        """Ends :meth:`run` after the link in hand."""
        self._stop.set()

    def run(self) -> None:
        """Seals until stopped; survives the absence of the database."""
        while not self._stop.is_set():
            try:
                active = self._lease.hold()
                ACTIVE.labels(self._service).set(active)
                if active:
                    while self.seal() >= LINK_ROWS and not self._stop.is_set() and self._lease.hold():
                        pass
                    self._keep_head()
                self._stop.wait(POLL_SECONDS)
            except Exception as error:  # noqa: BLE001 (what waits stays waiting, and the next round finds it)
                FAULTS.labels(self._service).inc()
                ours = not isinstance(error, PyMongoError)
                logging.get().warning("sealer_fault", of=self._service, fault=type(error).__name__, exc_info=ours)
                self._stop.wait(BACK_OFF_SECONDS)
        try:
            self._lease.release()
        except PyMongoError:
            logging.get().warning("lease_not_released")

    def seal(self) -> int:
        """Makes the next link of what waits; returns how many rows it holds, 0 also where another was faster."""
        last = last_link(self._database)
        if last is not None and last["hash"] != self._noted:
            self._note(last)
        rows = list(self._waiting())
        if not rows:
            return 0
        link: Document = {
            "_id": last["_id"] + 1 if last else 1,
            "prev": last["hash"] if last else NOTHING,
            "at": self._now(),
            "rows": rows,
            "hash": "",
        }
        link["hash"] = link_hash(as_line(link))
        try:
            self._database[CHAIN].insert_one(link)
        except DuplicateKeyError:
            return 0
        self._note(link)
        SEALED.labels(self._service).inc(len(rows))
        return len(rows)

    def observe(self) -> None:
        """Sets the gauge of how long rows wait (an ops scrape asks for it)."""
        oldest = 0.0
        for source in self._sources:
            first = self._database[source.collection].find_one(
                {"unsealed": True}, {"recorded_at": 1}, sort=[("recorded_at", 1)], hint=audit.INDEX
            )
            if first:
                oldest = max(oldest, (self._now() - first["recorded_at"]).total_seconds())
        OLDEST.labels(self._service).set(oldest)

    def _waiting(self) -> Iterator[Document]:
        """Up to a link's worth of rows, as links hold them; rows that ride in documents with a copy."""
        count = size = 0
        for source in self._sources:
            collection = self._database[source.collection]
            found = collection.find({"unsealed": True}, None if source.own else {"audit": 1, "sealed": 1})
            for document in found.sort("recorded_at", 1).limit(LINK_ROWS - count).hint(audit.INDEX):
                fresh = audit.rows(source, document)[len(audit.sealed(document)) :]
                if not fresh:
                    collection.update_one({"_id": document["_id"]}, [{"$set": {"unsealed": _waits(source)}}])
                for row in fresh:
                    if count == LINK_ROWS or size > LINK_BYTES:
                        return
                    one = {
                        "in": source.collection,
                        "of": document["_id"],
                        "k": row.k,
                        "id": row.id,
                        "sha256": audit.digest(row.content),
                    }
                    if not (source.own and row.k == 0):
                        one["row"] = row.content
                        size += len(canonical(row.content, audit.plain))
                    yield one
                    count += 1
            if count == LINK_ROWS:
                return

    def _note(self, link: Document) -> None:
        """Writes the link's number beside each row it holds. Doing so again changes nothing."""
        n, places = link["_id"], defaultdict[tuple[str, str], list[int]](list)
        for row in link["rows"]:
            places[row["in"], row["of"]].append(row["k"])
        alike: dict[str, dict[tuple[int, int], list[str]]] = defaultdict(lambda: defaultdict(list))
        for (collection, id_), ks in places.items():
            alike[collection][ks[0], len(ks)].append(id_)
        for collection, groups in alike.items():
            source = self._known.get(collection, Source(collection))
            fresh = [_note_first(source, ids, [n] * count) for (first, count), ids in groups.items() if first == 0]
            done = self._database[collection].bulk_write(fresh, ordered=False).matched_count if fresh else 0
            if done < sum(map(len, groups.values())):
                order = [_note_any(source, ids, first, [n] * count) for (first, count), ids in groups.items()]
                self._database[collection].bulk_write(order, ordered=False)
        self._noted = link["hash"]

    def _keep_head(self) -> None:
        """Adds the head to the file of heads, once a day (Asia/Shanghai); looks every minute."""
        if self._heads is None or time.monotonic() < self._head_due:
            return
        self._head_due = time.monotonic() + HEAD_LOOK_SECONDS
        today, found = clock.day(self._now()), head(self._service, self._database)
        try:
            lines = self._heads.read_text("utf-8").splitlines() if self._heads.exists() else []
            if found is None or (lines and json.loads(lines[-1])["kept"] >= today):
                return
            self._heads.parent.mkdir(parents=True, exist_ok=True)
            with self._heads.open("a", encoding="utf-8") as file:
                file.write(json.dumps({**found, "kept": today}) + "\n")
                file.flush()
                os.fsync(file.fileno())
        except (OSError, ValueError, KeyError):
            logging.get().warning("audit_head_not_kept", of=self._service, folder=str(self._heads.parent))


class Sealers:
    """The sealers of all services and of what operators do, a thread each; the leases choose among processes."""

    def __init__(self, sealers: Sequence[Sealer]) -> None:
        self._sealers = sealers

    def run(self) -> None:
        """Seals until stopped."""
        threads = [threading.Thread(target=one.run, name="sealer") for one in self._sealers]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()

    def stop(self) -> None:
        """Ends them after the link in hand."""
        for one in self._sealers:
            one.stop()


def sealers(
    settings: Settings, audited: Mapping[str, Sequence[Source]], holder: str
) -> tuple[Sealers, Database[Document]]:
    """The sealers of services, by what each has audited; and a database by which their connection is asked.

    Raises:
        SettingError: production without a place for the heads: a chain that stays inside can be rewritten inside.
    """
    heads = Path(settings.audit_heads) if settings.audit_heads else None
    if heads is None and settings.production:
        raise SettingError("ESTATION_AUDIT_HEADS", "production needs a folder that others keep copies of")
    operations = mongo.connect(settings, audit.OPERATIONS, "sealer")
    made = [
        Sealer(service, operations.client[settings.database(service)], sources, holder=holder, heads=heads)
        for service, sources in {**audited, audit.OPERATIONS: audit.OPERATED}.items()
    ]
    for one in made:
        telemetry.before_scrape(one.observe)
    return Sealers(made), operations


def _array(field: str) -> Document:
    """A list in a document, also where somebody made something else of it."""
    return {"$cond": [{"$isArray": field}, field, []]}


def _note_first(source: Source, ids: list[str], numbers: list[int]) -> UpdateMany:
    """Notes the first link of documents that have gained no row meanwhile: all check-ins, in half the time."""
    return UpdateMany(
        {"_id": {"$in": ids}, "sealed": {"$exists": False}, f"audit.{len(numbers) - source.own}": {"$exists": False}},
        {"$set": {"sealed": numbers, "unsealed": False}},
    )


def _note_any(source: Source, ids: list[str], first: int, numbers: list[int]) -> UpdateMany:
    """Notes a link in documents that have not noted it yet; those that gained rows meanwhile go on waiting."""
    return UpdateMany(
        {"_id": {"$in": ids}, f"sealed.{first}": {"$exists": False}},
        [
            {"$set": {"sealed": {"$concatArrays": [_array("$sealed"), numbers]}}},
            {"$set": {"unsealed": _waits(source)}},
        ],
    )


def _waits(source: Source) -> Document:
    """Whether a document has more rows than links that hold them."""
    return {"$gt": [{"$add": [int(source.own), {"$size": _array("$audit")}]}, {"$size": _array("$sealed")}]}
