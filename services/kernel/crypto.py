"""Personal data at rest: sealed field by field under a key per person, found by keyed indexes, ended with its key.

    master key (file or key management service) > key of a person (database of its own) > fields in documents
                                     index key > one key a collection and field > blind indexes beside them

Whoever destroys a person's key erases every field that was sealed under it, in the database and in its backups.
What this protects from and what not: docs/adr/0008. Sources: RFC 5869 (HKDF), RFC 2104 (HMAC).
"""

import hmac
import threading
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Final, NamedTuple

from cachetools import TLRUCache
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from pymongo import ASCENDING, ReturnDocument, UpdateOne
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from services.kernel import clock
from services.kernel.erasure import Erasure, ErasureLedger
from services.kernel.errors import Gone
from services.kernel.masterkeys import KEY_BYTES, KeyManagement, Undecryptable, seal, unseal
from services.kernel.mongo import Document
from services.kernel.personal import IdentityNumber
from services.kernel.settings import Settings

CACHE_SECONDS: Final = 30.0
"""So long a process may still use a key that another one has destroyed."""
CACHED_KEYS_MAX: Final = 10_000
BLIND_BYTES: Final = 16
COLLECTION: Final = "subject_keys"
REPLAY_BATCH: Final = 1000


class Erased(Gone):
    """The person's key was destroyed: there is nothing to read, and nothing may be added."""

    default_code = "person_erased"


class Place(NamedTuple):
    """Where a sealed value lies; it cannot be read from anywhere else."""

    collection: str
    field: str
    id: str

    @property
    def aad(self) -> bytes:
        """What is authenticated with the value."""
        return f"{self.collection}|{self.field}|{self.id}".encode()


def keys_database(settings: Settings, service: str, database: Database[Document]) -> Database[Document]:
    """The database of a service's person keys, beside its own one: it is backed up apart and for less long."""
    return database.client[settings.database(service + "_keys")]


class SubjectKeys:
    """One key per person, wrapped by a master key; sealing and unsealing under it; its destruction.

    A destroyed key leaves a row without a key, so that nobody makes the person a new one. Other processes use a
    destroyed key for at most ``CACHE_SECONDS``.
    """

    def __init__(
        self,
        database: Database[Document],
        management: KeyManagement,
        ledger: ErasureLedger,
        *,
        now: clock.Clock = clock.now,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        """``database``: see :func:`keys_database`."""
        self._rows = database[COLLECTION]
        self._management, self._ledger, self._now, self._monotonic = management, ledger, now, monotonic
        self._lock = threading.Lock()
        self._cache: TLRUCache[str, tuple[AESGCM, float]] = TLRUCache(
            CACHED_KEYS_MAX, ttu=lambda _subject, entry, _now: entry[1], timer=monotonic
        )

    def ensure_indexes(self) -> None:
        """The way to keys under old master keys (``estation migrate``)."""
        self._rows.create_index([("kek", ASCENDING)], name="kek", sparse=True)

    def any(self) -> bool:
        """Whether anybody has or had a key."""
        return self._rows.find_one({}, {"_id": 1}) is not None

    def destroyed(self, subject: str) -> bool:
        """Whether a person's key was destroyed; asks the database, whatever this process still has at hand."""
        return self._rows.find_one({"_id": subject, "key": {"$exists": False}}, {"_id": 1}) is not None

    def wrapped(self) -> dict[str, int]:
        """How many keys each master key wraps."""
        groups: list[Document] = [
            {"$match": {"kek": {"$exists": True}}},
            {"$group": {"_id": "$kek", "count": {"$sum": 1}}},
        ]
        return {row["_id"]: int(row["count"]) for row in self._rows.aggregate(groups)}

    def encrypt(self, subject: str, value: str, place: Place) -> bytes:
        """Seals a value for its place; makes the person a key with the first one.

        Raises:
            Erased: the person's key was destroyed.
        """
        return seal(self._cipher(subject, create=True), value.encode(), place.aad)

    def decrypt(self, subject: str, token: bytes, place: Place) -> str:
        """The value again.

        Raises:
            Erased: the person's key was destroyed.
            Undecryptable: the token was changed, moved, or sealed for somebody else.
        """
        return unseal(self._cipher(subject, create=False), token, place.aad).decode()

    def prefetch(self, subjects: Collection[str]) -> None:
        """Fetches keys that are not at hand with one query, for a page of documents."""
        with self._lock:
            missing = {subject for subject in subjects if subject not in self._cache}
        if missing:
            read_at = self._monotonic()
            for row in self._rows.find({"_id": {"$in": list(missing)}, "key": {"$exists": True}}):
                self._keep(row, read_at)

    def shred(self, subject: str) -> None:
        """Destroys a person's key for good; the ledger knows of it before. Doing it again changes nothing."""
        row = self._rows.find_one({"_id": subject})
        if row is None or "key" in row:
            erasure = Erasure(subject, self._now())
            self._ledger.append(erasure)
            self._rows.update_one(*_destroyed(erasure), upsert=True)
        self._forget([subject])

    def replay(self, forget: Callable[[Sequence[str]], object]) -> int:
        """Erases again whoever a restored backup brought back; how many keys were destroyed.

        Runs before a process is ready. ``forget`` takes the erased, a batch at a time, and clears what the service's
        documents hold of them besides (:meth:`PersonalFields.forget`).

        Raises:
            LedgerUnreadable: the ledger is missing or damaged.
        """
        destroyed, rows = 0, self._ledger.all()
        while batch := {erasure.subject: erasure for erasure in islice(rows, REPLAY_BATCH)}:
            subjects = list(batch)
            gone = self._rows.find({"_id": {"$in": subjects}, "key": {"$exists": False}}, {"_id": 1})
            back = batch.keys() - {row["_id"] for row in gone}
            if back:
                destroyed += self._rows.count_documents({"_id": {"$in": list(back)}})
                self._rows.bulk_write([UpdateOne(*_destroyed(batch[one]), upsert=True) for one in back], ordered=False)
            self._forget(subjects)
            forget(subjects)
        return destroyed

    def rewrap(self, limit: int = 2000) -> int:
        """Wraps up to ``limit`` keys of older master keys under the current one; how many are left.

        May run again, elsewhere at the same time, and while the system works: the keys themselves stay the same, and
        one that was destroyed meanwhile stays so.

        Raises:
            Undecryptable: a master key that is still needed is not known.
        """
        old = {"kek": {"$exists": True, "$ne": self._management.current}}
        changes = []
        for row in self._rows.find(old).limit(limit):
            key = self._management.unwrap(row["kek"], row["key"], row["_id"])
            kek, wrapped = self._management.wrap(key, row["_id"])
            seen = {"_id": row["_id"], "kek": row["kek"], "key": row["key"]}
            changes.append(UpdateOne(seen, {"$set": {"kek": kek, "key": wrapped}}))
        if changes:
            self._rows.bulk_write(changes, ordered=False)
        return self._rows.count_documents(old)

    def _cipher(self, subject: str, *, create: bool) -> AESGCM:
        with self._lock:
            cached = self._cache.get(subject)
        if cached is not None:
            return cached[0]
        read_at = self._monotonic()
        row = self._rows.find_one({"_id": subject})
        if row is None and create:
            row = self._create(subject)
        if row is None:
            raise Undecryptable("the person has no key here")
        if "key" not in row:
            raise Erased
        return self._keep(row, read_at)

    def _create(self, subject: str) -> Document:
        """The person's row, whoever made it: on a majority when this returns, or what it seals could not be read."""
        kek, wrapped = self._management.wrap(AESGCM.generate_key(KEY_BYTES * 8), subject)
        return self._rows.find_one_and_update(
            {"_id": subject},
            {"$setOnInsert": {"key": wrapped, "kek": kek, "created_at": self._now()}},
            upsert=True,
            return_document=ReturnDocument.AFTER,
        )

    def _keep(self, row: Document, read_at: float) -> AESGCM:
        cipher = AESGCM(self._management.unwrap(row["kek"], row["key"], row["_id"]))
        with self._lock:
            self._cache[row["_id"]] = (cipher, read_at + CACHE_SECONDS)  # since it was read, however long that took
        return cipher

    def _forget(self, subjects: Collection[str]) -> None:
        with self._lock:
            for subject in subjects:
                self._cache.pop(subject, None)


def _destroyed(erasure: Erasure) -> tuple[Document, Document]:
    """The filter and the update, to upsert: a person who had no key yet shall not get one."""
    return (
        {"_id": erasure.subject},
        {"$unset": {"key": "", "kek": ""}, "$set": {"shredded_at": erasure.at}},
    )


class BlindIndex:
    """Finds equal values of one field without knowing them: HMAC-SHA256, cut to 128 bits, in hex.

    The key is the field's own, so that equal values of two fields, collections or services do not look equal.
    """

    def __init__(self, index_key: bytes, service: str, collection: str, field: str) -> None:
        info = f"estation/blind-index/v1|{service}|{collection}|{field}".encode()
        self._key = HKDF(SHA256(), KEY_BYTES, salt=None, info=info).derive(index_key)

    def of(self, value: str) -> str:
        """The index of a value in its normal form (:mod:`services.kernel.personal`)."""
        return hmac.digest(self._key, value.encode(), "sha256")[:BLIND_BYTES].hex()


def person_ref(federation_key: bytes, who: IdentityNumber) -> str:
    """The name by which services know a person: HMAC-SHA256 of the ID number, in hex; the people service makes it."""
    return hmac.digest(federation_key, who.number.encode(), "sha256").hex()


@dataclass(frozen=True, slots=True)
class Personal:
    """How one personal field is kept; ``index``: equal values can be found."""

    index: bool = False


class PersonalFields:
    """The personal fields of a collection, declared once.

    A value lies in its document as a token under the field's name, its blind index beside it as ``<field>_index``.
    """

    def __init__(
        self,
        service: str,
        collection: str,
        fields: Mapping[str, Personal],
        *,
        keys: SubjectKeys,
        index_key: bytes,
        subject: str = "subject",
    ) -> None:
        """``subject``: the field that names the person in a document.

        Raises:
            ValueError: a name holds the separator of :class:`Place`.
        """
        if any("|" in name for name in (service, collection, *fields)):
            raise ValueError("a name may not hold |")
        self._collection, self._fields, self._keys, self._subject = collection, tuple(fields), keys, subject
        self._indexes = {
            name: BlindIndex(index_key, service, collection, name) for name, how in fields.items() if how.index
        }

    def seal(self, subject: str, id_: str, values: Mapping[str, str | None]) -> Document:
        """The part of the document ``id_`` that holds these values, to insert or to ``$set``; None clears a field.

        Raises:
            Erased: the person's key was destroyed.
            KeyError: a field was not declared.
        """
        part: Document = {self._subject: subject}
        for name, value in values.items():
            if name not in self._fields:
                raise KeyError(name)
            place = Place(self._collection, name, id_)
            part[name] = None if value is None else self._keys.encrypt(subject, value, place)
            if name in self._indexes:
                part[_index(name)] = None if value is None else self._indexes[name].of(value)
        return part

    def open(self, document: Document) -> dict[str, str | None]:
        """The values of the fields a document has; None where there is none or the person was erased.

        Raises:
            Undecryptable: a token was changed, moved, or sealed for somebody else.
        """
        return {name: self._value(document, name) for name in self._fields if name in document}

    def open_all(self, documents: Sequence[Document]) -> list[dict[str, str | None]]:
        """The same for a page of documents, with one query for their keys."""
        self._keys.prefetch({document[self._subject] for document in documents})
        return [self.open(document) for document in documents]

    def where(self, field: str, value: str) -> Document:
        """The filter that finds documents by the value of an indexed field, in its normal form."""
        return {_index(field): self._indexes[field].of(value)}

    def ensure_indexes(self, collection: MongoCollection[Document]) -> None:
        """Creates the indexes that :meth:`where` and :meth:`forget` need (``estation migrate``)."""
        collection.create_index([(self._subject, ASCENDING)])
        for name in self._indexes:
            collection.create_index(
                [(_index(name), ASCENDING)],
                name=_index(name),
                partialFilterExpression={_index(name): {"$gt": ""}},
            )

    def forget(self, collection: MongoCollection[Document], subjects: Sequence[str]) -> int:
        """Clears the fields and blind indexes of these persons; in how many documents there was something."""
        held = [*self._fields, *map(_index, self._indexes)]
        return collection.update_many(
            {self._subject: {"$in": list(subjects)}, "$or": [{name: {"$ne": None}} for name in held]},
            {"$set": dict.fromkeys(held), "$inc": {"rev": 1}},
        ).modified_count

    def _value(self, document: Document, name: str) -> str | None:
        if document[name] is None:
            return None
        try:
            return self._keys.decrypt(
                document[self._subject], document[name], Place(self._collection, name, document["_id"])
            )
        except Erased:
            return None


def _index(name: str) -> str:
    return name + "_index"
