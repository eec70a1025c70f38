"""Who changed what, when and why: rows that ride in the changed document's own write, and rows of looks.

Fields that may hold personal data are named, their values are not kept. A document that gained rows says
``unsealed: true``; the sealer chains them (docs/adr/0009) and notes in ``sealed`` which link holds each of its rows.
An audited document is not deleted: what has to go is taken out of it, and its rows stay.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final, NamedTuple

from bson import json_util
from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from services.kernel import audit_verifier, clock, ids
from services.kernel.auth import Actor
from services.kernel.mongo import Document

CHAIN: Final = "audit_chain"
INDEX: Final = "unsealed"
TECHNICAL: Final = frozenset(
    "_id rev seq sent out open created_at recorded_at idempotency audit unsealed sealed".split()  # noqa: SIM905
)
"""What the kernel itself writes into a document: no part of its content."""


def row(
    actor: Actor,
    action: str,
    *,
    at: datetime,
    reason: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
    personal: Collection[str] = (),
) -> dict[str, Any]:
    """One audit row: actor, action (``station.suspend``), time, reason, and the fields that differ."""
    before, after = before or {}, after or {}
    changed = {
        name: None if name in personal else [before.get(name), after.get(name)]
        for name in sorted({*before, *after})
        if before.get(name) != after.get(name)
    }
    return {
        "id": ids.new(),
        "at": at,
        "actor": actor.id,
        "kind": actor.kind,
        "scope": actor.scope,
        "action": action,
        "reason": reason,
        "changed": changed,
    }


@dataclass(frozen=True, slots=True)
class Source:
    """A collection with audit rows; ``own``: its documents are rows themselves, apart from what rides in them.

    Of such a document every field counts but the ``TECHNICAL`` ones, as it was when it was inserted: a field that
    changes later must stand in the audit row of that change, and must not be personal.
    """

    collection: str
    own: bool = False


LOOKS: Final = Source("audit_looks", own=True)
OPERATIONS: Final = "operations"
"""The database of what operators do; its rows belong to no service."""
OPERATED: Final = (Source("audit", own=True),)


def look(
    database: Database[Document],
    actor: Actor,
    action: str,
    *,
    at: datetime,
    subjects: Sequence[str],
    fields: Collection[str],
    reason: str = "",
) -> None:
    """Notes that somebody is about to see personal data; returns once that is kept. Call it before showing anything.

    ``subjects``: ids of whom it is about, never names; ``fields``: the names of what is shown.
    """
    seen = {"subjects": list(subjects), "fields": sorted(fields)}
    keep(database[LOOKS.collection], {**row(actor, action, at=at, reason=reason), **seen})


def keep(collection: MongoCollection[Document], kept: Mapping[str, Any]) -> None:
    """Inserts a row that rides in no document."""
    collection.insert_one({"_id": kept["id"], **kept, "recorded_at": kept["at"], "unsealed": True})


def ensure_indexes(database: Database[Document], sources: Sequence[Source]) -> None:
    """The sealer's way to unsealed rows, oldest first; covers nothing once they are sealed."""
    for source in sources:
        database[source.collection].create_index(
            [("recorded_at", 1)], name=INDEX, partialFilterExpression={"unsealed": True}
        )


class Row(NamedTuple):
    """A row in its document: its place, from 0, its id and what it says."""

    k: int
    id: str
    content: Document


def rows(source: Source, document: Document) -> list[Row]:
    """The rows of a document in their order, its own first; bears a document that was tampered with."""
    riding = _riding(document)
    own = [Row(0, str(document["_id"]), _born(document, riding))] if source.own else []
    return own + [Row(k, str(one.get("id")), one) for k, one in enumerate(riding, len(own))]


def sealed(document: Document) -> list[int]:
    """The numbers of the links that hold the document's rows, in the rows' order; what is missing waits."""
    found = document.get("sealed")
    return [n if isinstance(n, int) else 0 for n in found] if isinstance(found, list) else []


def digest(content: Document) -> str:
    """SHA-256 of what a row says."""
    return audit_verifier.digest(content, plain)


def plain(value: object) -> object:
    """What stands in canonical JSON for a value that JSON does not know; total, or one row could stop the sealer."""
    return clock.rfc3339(value) if isinstance(value, datetime) else json_util.default(value)


def _riding(document: Document) -> list[Document]:
    found = document.get("audit")
    return [one if isinstance(one, dict) else {"not a row": one} for one in found] if isinstance(found, list) else []


def _born(document: Document, riding: Sequence[Document]) -> Document:
    """A document's content as it was inserted: what its rows say they changed, undone from the last to the first.

    A field whose value is not what the last row made of it comes out as no inserted document could have it.
    """
    content = {name: value for name, value in document.items() if name not in TECHNICAL}
    for name, before, after in _changes(riding):
        content[name] = before if content.get(name) == after else {"not what a row says": after}
    return {name: value for name, value in content.items() if value is not None}


def _changes(riding: Sequence[Document]) -> Iterator[tuple[str, Any, Any]]:
    for one in reversed(riding):
        changed = one.get("changed")
        for name, change in changed.items() if isinstance(changed, dict) else ():
            if isinstance(change, list) and len(change) == 2:  # noqa: PLR2004
                yield name, *change
