"""Documents whose events ride in them: state and event in one atomic write, found again by the relay.

Every document written here has ``rev`` (raised by each write), ``seq`` (events emitted so far), ``out`` (events not
yet published), ``open`` (whether there are any), ``recorded_at`` (of the last write), ``audit`` and ``unsealed``
(kernel/audit.py, which says what may be deleted). Only documents with ``open: false`` may expire or be deleted.
"""

import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any, Final, TypeVar

from marshmallow import RAISE
from pymongo import ReturnDocument
from pymongo.client_session import ClientSession
from pymongo.collection import Collection
from pymongo.errors import DuplicateKeyError

from contracts import envelope
from contracts.envelope import Event
from contracts.events import EventData
from services.kernel import clock, ids
from services.kernel.errors import Conflict, Stale
from services.kernel.mongo import Document

T = TypeVar("T")
IDEMPOTENCY_HOURS: Final = 24
INDEX: Final = "outbox"
STALE_TRIES: Final = 12


@dataclass(frozen=True, slots=True)
class Emit:
    """An event to ride in a write; ``at`` is when the fact happened, the time of the write unless told."""

    schema: type[EventData]
    data: Mapping[str, Any]
    at: datetime | None = None


@dataclass(frozen=True, slots=True)
class Write:
    """What every write carries besides its content."""

    at: datetime
    trace: str
    audit: Document
    emit: Sequence[Emit] = ()


@dataclass(frozen=True, slots=True)
class Idempotency:
    """An Idempotency-Key, scoped to principal and route, and the hash of the body it came with."""

    key: str
    body: str


def embedded(document: Document) -> list[Event]:
    """The events that ride in a document, in wire shape."""
    return [
        envelope.event(
            id=out["id"],
            type=out["type"],
            subject=document["_id"],
            seq=out["seq"],
            county=out["county"],
            time=out["time"],
            recordedtime=out["recorded"],
            traceparent=out["trace"],
            data=out["data"],
        )
        for out in document["out"]
    ]


@dataclass(frozen=True, slots=True)
class Source:
    """A collection the relay reads: which fields it needs and how a document becomes its pending events."""

    collection: str
    events_of: Callable[[Document], list[Event]] = embedded
    fields: Sequence[str] = field(default=("out",))


def ensure_index(collection: Collection[Document]) -> None:
    """The relay's way to pending documents, oldest first; covers nothing once they are published."""
    collection.create_index([("recorded_at", 1)], name=INDEX, partialFilterExpression={"open": True})


def ensure_idempotency_index(collection: Collection[Document]) -> None:
    """At most one document a key."""
    collection.create_index(
        [("idempotency.key", 1)],
        name="idempotency",
        unique=True,
        partialFilterExpression={"idempotency.key": {"$exists": True}},
    )


def insert(
    collection: Collection[Document],
    document: Document,
    write: Write,
    *,
    idempotency: Idempotency | None = None,
    session: ClientSession | None = None,
) -> tuple[Document, bool]:
    """Creates a document with its events; returns it and whether it is new.

    An answer that was given before under the same Idempotency-Key is found again for 24 hours.

    Raises:
        Conflict: idempotency_key_reused with another body.
        DuplicateKeyError: another unique index than the idempotency key's refused it.
    """
    whole = {
        **document,
        "rev": 1,
        "seq": len(write.emit),
        "out": _embed(write, document["county"], 0),
        "open": bool(write.emit),
        "created_at": write.at,
        "recorded_at": write.at,
        "audit": [write.audit],
        "unsealed": True,
    }
    if idempotency is None:
        collection.insert_one(whole, session=session)
        return whole, True
    whole["idempotency"] = {"key": idempotency.key, "body": idempotency.body, "at": write.at}
    if session is not None:  # here a refused insert would end the whole transaction
        earlier = answered(collection, idempotency, write.at, session)
        if earlier is not None:
            return earlier, False
    while True:
        try:
            collection.insert_one(whole, session=session)
        except DuplicateKeyError as error:
            if session is not None or "idempotency.key" not in ((error.details or {}).get("keyPattern") or {}):
                raise
        else:
            return whole, True
        earlier = answered(collection, idempotency, write.at, None)
        if earlier is not None:
            return earlier, False


def answered(
    collection: Collection[Document], idempotency: Idempotency, at: datetime, session: ClientSession | None
) -> Document | None:
    """What was created under the key in the last 24 hours; a key that is older is taken from its document.

    Raises:
        Conflict: idempotency_key_reused with another body.
    """
    earlier = collection.find_one({"idempotency.key": idempotency.key}, session=session)
    if earlier is None:
        return None
    if earlier["idempotency"]["at"] < at - timedelta(hours=IDEMPOTENCY_HOURS):
        taken = {"_id": earlier["_id"], "idempotency.key": idempotency.key}
        collection.update_one(taken, {"$unset": {"idempotency": ""}}, session=session)
        return None
    if earlier["idempotency"]["body"] != idempotency.body:
        raise Conflict("idempotency_key_reused")
    return earlier


def update(
    collection: Collection[Document],
    current: Document,
    write: Write,
    *,
    changes: Mapping[str, Any],
    session: ClientSession | None = None,
) -> Document:
    """Changes a document under its revision, with its events; returns the new document.

    Raises:
        Stale: somebody else wrote it since ``current`` was read.
    """
    order: Document = {
        "$set": {**changes, "recorded_at": write.at, "unsealed": True},
        "$inc": {"rev": 1, "seq": len(write.emit)},
        "$push": {"audit": write.audit},
    }
    if write.emit:
        order["$set"]["open"] = True
        order["$push"]["out"] = {"$each": _embed(write, current["county"], current["seq"])}
    found = collection.find_one_and_update(
        {"_id": current["_id"], "rev": current["rev"]},
        order,
        return_document=ReturnDocument.AFTER,
        session=session,
    )
    if found is None:
        raise Stale
    return found


def settle(attempt: Callable[[], T]) -> T:
    """Runs load-decide-write again while somebody else is faster; the pauses grow and are jittered.

    Raises:
        Stale: the document stayed contended for all tries.
    """
    for count in range(1, STALE_TRIES):
        try:
            return attempt()
        except Stale:
            time.sleep(random.uniform(0, 0.002 * 2 ** min(count, 6)))  # noqa: S311 (jitter)
    return attempt()


def mark_published(collection: Collection[Document], published: Mapping[str, int]) -> int:
    """Closes documents whose events up to the given ``seq`` are confirmed; those that gained events stay open.

    Waits for the majority like every write: the next read is of what a majority has, and would find them open again.
    """
    by_seq: dict[int, list[str]] = {}
    for id_, seq in published.items():
        by_seq.setdefault(seq, []).append(id_)
    return sum(
        collection.update_many(
            {"_id": {"$in": group}, "seq": seq}, {"$set": {"open": False, "sent": seq, "out": []}}
        ).modified_count
        for seq, group in by_seq.items()
    )


def _embed(write: Write, county: str, seq: int) -> list[Document]:
    return [_one(emit, write, county, seq + number) for number, emit in enumerate(write.emit, start=1)]


def _one(emit: Emit, write: Write, county: str, seq: int) -> Document:
    problems = emit.schema(unknown=RAISE).validate(emit.data)
    if problems:
        raise AssertionError(f"{emit.schema.type} would break its contract: {sorted(map(str, problems))}")
    return {
        "id": ids.new(),
        "type": emit.schema.type,
        "seq": seq,
        "county": county,
        "time": clock.rfc3339(emit.at or write.at),
        "recorded": clock.rfc3339(write.at),
        "trace": write.trace,
        "data": dict(emit.data),
    }
