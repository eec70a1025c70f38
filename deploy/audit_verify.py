"""The chain of audit rows against the documents they ride in: what does not agree, and an export for outsiders.

Both walk a database in pages and hold a page at a time. To find rows that no link holds, every (link, row) is added
up twice, from the links and from what the documents say of themselves, in ``BUCKETS`` sums; where two sums differ,
a second walk names the rows.
"""

import shutil
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from pymongo.collection import Collection as MongoCollection
from pymongo.database import Database

from services.kernel import audit, audit_verifier, sealer
from services.kernel.audit import CHAIN, Source
from services.kernel.mongo import Document

PAGE: Final = 1000
LINKS: Final = 10
"""Links of up to 1,000 rows that are read at a time."""
BUCKETS: Final = 4096
FINDINGS: Final = 1000

Place = tuple[int, str, str, int]
"""Link, collection, document, place in the document."""


@dataclass(slots=True)
class Report:
    """What was walked, and what is wrong, in lines of which the first ``FINDINGS`` are kept."""

    service: str
    links: int = 0
    rows: int = 0
    waiting: int = 0
    """Rows not yet sealed."""
    head: str = ""
    seconds: float = 0.0
    problems: int = 0
    findings: list[str] = field(default_factory=list)

    def add(self, problem: str) -> None:
        """Keeps a finding, if it is one."""
        self.problems += bool(problem)
        if problem and len(self.findings) < FINDINGS:
            self.findings.append(problem)


class UnreadableError(Exception):
    """A link that is none; says which."""


def verify(
    service: str,
    database: Database[Document],
    sources: Sequence[Source],
    heads: Iterable[dict[str, Any]] = (),
) -> Report:
    """Walks documents and chain while the system goes on; ``heads`` are what left the house, ascending."""
    started, report = time.monotonic(), Report(service)
    walk = audit_verifier.Walk(head for head in heads if head.get("service", service) == service)
    comparison = _Comparison(database, sources, report)
    try:
        comparison.read_documents()
        comparison.read_chain(walk)
        comparison.name_differences()
    except UnreadableError as error:
        report.add(str(error))
    report.head, report.seconds = f"{walk.n}:{walk.hash}", time.monotonic() - started
    return report


def export(database: Database[Document], sources: Sequence[Source], folder: Path) -> tuple[int, int]:
    """Writes the chain, its rows as they stand now, and the verifier into a folder; (links, rows).

    Raises:
        UnreadableError: a link is none.
    """
    folder.mkdir(parents=True, exist_ok=True)
    links = written = 0
    with ExitStack() as files:
        chain, out = (
            files.enter_context((folder / name).open("w", encoding="utf-8")) for name in ("chain.jsonl", "rows.jsonl")
        )
        for _link, line, rows in standing(database, sources):
            chain.write(audit_verifier.canonical(line) + "\n")
            for k, content in rows:
                out.write(audit_verifier.canonical({"k": k, "row": content}, audit.plain) + "\n")
            links, written = links + 1, written + len(rows)
    shutil.copyfile(audit_verifier.__file__, folder / "audit_verifier.py")
    return links, written


def standing(
    database: Database[Document], sources: Sequence[Source]
) -> Iterator[tuple[Document, dict[str, Any], list[tuple[int | None, Document | None]]]]:
    """Each link, as it is exported, and its rows as they stand in their documents: place and content, or None.

    Raises:
        UnreadableError: a link is none.
    """
    known = {source.collection: source for source in sources}
    for link in _pages(database[CHAIN], LINKS, 0):
        try:
            line = sealer.as_line(link)
        except (LookupError, TypeError):
            raise UnreadableError(f"link {link['_id']}: changed: it cannot be read") from None
        wanted: dict[str, set[str]] = defaultdict(set)
        for row in link["rows"]:
            wanted[row["in"]].add(row["of"])
        found: dict[tuple[str, str, str], tuple[int, Document]] = {}
        for collection, ids in wanted.items():
            for document in database[collection].find({"_id": {"$in": list(ids)}}):
                for row in audit.rows(known.get(collection, Source(collection)), document):
                    found[collection, document["_id"], row.id] = row.k, row.content
        yield link, line, [found.get((row["in"], row["of"], row["id"]), (None, None)) for row in link["rows"]]


class _Comparison:
    """The documents of one database against its chain."""

    def __init__(self, database: Database[Document], sources: Sequence[Source], report: Report) -> None:
        self._database, self._sources, self._report = database, sources, report
        self._end = self._last_number()
        self._settled = self._end - 1  # the documents of the last link may not know of it yet
        self._sums = [0] * BUCKETS

    def read_documents(self) -> None:
        """Adds up where documents say that their rows are sealed; what they say of later links must be so by now."""
        for source, document in self._documents():
            self._count_waiting(source, document)
            for place in _places(source, document):
                n = place[0]
                if n > self._end:  # sealed since we looked, or else
                    self._end = self._last_number()
                if n > self._end:
                    self._report.add(f"{_row(place)}: sealed in link {n}, but the chain ends at {self._end}: cut off")
                elif n <= self._settled:
                    bucket, value = _hashed(place)
                    self._sums[bucket] += value

    def read_chain(self, walk: audit_verifier.Walk) -> None:
        """Holds links against each other and the heads, and their rows against the documents."""
        for link, line, rows in standing(self._database, self._sources):
            for problem in walk.step(line):
                self._report.add(problem)
            for kept, place, (k, content) in zip(link["rows"], line["rows"], rows, strict=True):
                self._judge(link["_id"], kept, place, k, content)
                if link["_id"] <= self._settled:
                    bucket, value = _hashed((link["_id"], *place[:3]))
                    self._sums[bucket] -= value
            self._report.links += 1
            self._report.rows += len(rows)
        for problem in walk.end():
            self._report.add(problem)

    def _judge(self, n: int, kept: Document, place: list[Any], k: int | None, content: Document | None) -> None:
        """Holds a row against its digest, and where it is not the same against the link's copy."""
        problem = audit_verifier.judge(place, k, "" if content is None else audit.digest(content))
        copy = kept.get("row")
        if isinstance(copy, dict):
            if audit.digest(copy) != kept["sha256"]:
                self._report.add(f"link {n}: changed: its copy of row {kept['id']}")
            elif problem and content is not None:
                names = sorted(name for name in {*copy, *content} if copy.get(name) != content.get(name))
                problem = f"{problem} ({', '.join(names)})" if names else problem
        self._report.add(problem)

    def name_differences(self) -> None:
        """Names the rows in the sums that differ."""
        differing = {bucket for bucket, total in enumerate(self._sums) if total}
        if not differing:
            return

        def doubted(places: Iterable[Place]) -> Iterator[Place]:
            return (place for place in places if place[0] <= self._settled and _hashed(place)[0] in differing)

        told: Counter[Place] = Counter()
        held: Counter[Place] = Counter()
        for source, document in self._documents():
            told.update(doubted(_places(source, document)))
        for link in _pages(self._database[CHAIN], LINKS, 0):
            held.update(doubted((link["_id"], row["in"], row["of"], row["k"]) for row in link["rows"]))
        for place in sorted(told - held):
            self._report.add(f"{_row(place)}: says that link {place[0]} holds it, which does not")
        for place in sorted(held - told):
            if self._database[place[1]].find_one({"_id": place[2]}, {"_id": 1}):  # else it is named as removed
                self._report.add(f"{_row(place)}: does not say that link {place[0]} holds it, which does")

    def _count_waiting(self, source: Source, document: Document) -> None:
        waiting = audit.rows(source, document)[len(audit.sealed(document)) :]
        if document.get("unsealed") is True:
            self._report.waiting += len(waiting)
            return
        for row in waiting:
            self._report.add(
                f"{source.collection}/{document['_id']} row {row.id}: added: it neither waits nor is sealed"
            )

    def _documents(self) -> Iterator[tuple[Source, Document]]:
        fields = {"sealed": 1, "unsealed": 1, "audit.id": 1}
        for source in self._sources:
            for document in _pages(self._database[source.collection], PAGE, "", fields):
                yield source, document

    def _last_number(self) -> int:
        last = sealer.last_link(self._database)
        return last["_id"] if last else 0


def _places(source: Source, document: Document) -> Iterator[Place]:
    """Where a document says that its rows are sealed."""
    for k, n in enumerate(audit.sealed(document)):
        yield n, source.collection, document["_id"], k


def _row(place: Place) -> str:
    return f"{place[1]}/{place[2]} row at place {place[3]}"


def _hashed(place: Place) -> tuple[int, int]:
    value = int.from_bytes(blake2b("\0".join(map(str, place)).encode(), digest_size=16).digest())
    return value % BUCKETS, value


def _pages(
    collection: MongoCollection[Document], size: int, after: object, fields: Mapping[str, int] | None = None
) -> Iterator[Document]:
    """All documents in the order of their ids, a page a query: no cursor stays open over a long walk."""
    while True:
        page = list(collection.find({"_id": {"$gt": after}}, fields).sort("_id", 1).limit(size))
        yield from page
        if len(page) < size:
            return
        after = page[-1]["_id"]
