"""Checks an exported audit chain, alone: Python 3.10 or later, this one file, nothing of E-Station's.

    python3 audit_verifier.py FOLDER [--head N:HASH | --head HEADS.jsonl]

FOLDER/chain.jsonl has a link a line: n, prev, at, hash, and for each row it seals
[collection, document, place in the document, row id, SHA-256 of the row]. FOLDER/rows.jsonl has those rows in the
same order, as they stand now: {"k": place, "row": row}, null where one is gone. SHA-256 is that of canonical JSON:
keys sorted, no blanks, UTF-8, numbers in the shortest form that reads back the same (RFC 8785, save exponents).
A link's hash is that of its n, prev, at and rows; prev is the hash of the link before it, 64 zeros for the first.
HEADS.jsonl has n and hash a line, ascending: what was noted daily, or the chain.jsonl of an earlier export.
"""

import argparse
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Iterator
from itertools import chain, repeat
from pathlib import Path
from typing import Any

NOTHING = "0" * 64  # before the first link


def canonical(value: object, default: Any = None) -> str:
    """The one text of a value; ``default`` says what stands for what JSON does not know."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, default=default)


def digest(value: object, default: Any = None) -> str:
    """SHA-256 of the canonical JSON, in hexadecimal."""
    return hashlib.sha256(canonical(value, default).encode()).hexdigest()


def link_hash(link: dict[str, Any]) -> str:
    """The hash that a link of this content must have."""
    return digest({name: link[name] for name in ("n", "prev", "at", "rows")})


def judge(place: list[Any], k: int | None, sha256: str) -> str:
    """What is wrong with a row whose digest is ``sha256`` and that stands at place ``k`` now (None: nowhere)."""
    if k == place[2] and sha256 == place[4]:
        return ""
    moved = f"reordered: sealed at place {place[2]}, stands at {k}"
    problem = "removed" if k is None else "changed" if sha256 != place[4] else moved
    return f"{place[0]}/{place[1]} row {place[3]}: {problem}"


class Walk:
    """Takes the links in order and says what does not fit, with each other and with heads from outside."""

    def __init__(self, heads: Iterable[dict[str, Any]] = ()) -> None:
        self.n, self.hash, self._agreed, self._doubted, self._heads = 0, NOTHING, 0, False, iter(heads)
        self._head = next(self._heads, None)

    def step(self, link: dict[str, Any]) -> Iterator[str]:
        """What is wrong with the next link."""
        if (link["n"], link["prev"]) != (self.n + 1, self.hash):
            yield f"link {link['n']}: does not follow from link {self.n}"
        if link_hash(link) != link["hash"]:
            yield f"link {link['n']}: changed: its hash is not that of its content"
        self.n, self.hash = link["n"], link["hash"]
        while (head := self._head) and head["n"] <= self.n:
            if (head["n"], head["hash"]) == (self.n, self.hash):
                self._agreed = self.n
            elif not self._doubted:
                yield f"link {head['n']}: rewritten: not what left the house; in doubt is all after link {self._agreed}"
                gone = (row for row in head.get("rows", []) if row not in link["rows"])
                yield from (f"{row[0]}/{row[1]} row {row[3]}: rewritten" for row in gone)
                self._doubted = True
            self._head = next(self._heads, None)

    def end(self) -> Iterator[str]:
        """What is missing after the last link."""
        for head in chain(filter(None, [self._head]), self._heads):
            yield f"link {head['n']}: cut off: it left the house, but the chain ends at link {self.n}"
            yield from (f"{row[0]}/{row[1]} row {row[3]}: cut off" for row in head.get("rows", []))


def heads(text: str) -> Iterator[dict[str, Any]]:
    """The heads of ``N:HASH`` or of a file."""
    n, _, hash_ = text.partition(":")
    with open(os.devnull if n.isdigit() else text, encoding="utf-8") as lines:  # noqa: PTH123
        yield from chain([{"n": int(n), "hash": hash_}] if n.isdigit() else [], map(json.loads, lines))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description="Checks an exported audit chain; exit code 1 where it does not hold.")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--head", help="N:HASH, or a file of heads that left the house")
    told = parser.parse_args()
    walk, found = Walk(heads(told.head) if told.head else ()), 0
    rows = chain(map(json.loads, (told.folder / "rows.jsonl").open(encoding="utf-8")), repeat({"k": None, "row": None}))
    for link in map(json.loads, (told.folder / "chain.jsonl").open(encoding="utf-8")):
        judged = (judge(place, row["k"], digest(row["row"])) for place, row in zip(link["rows"], rows, strict=False))
        found += sum(sys.stdout.write(f"{problem}\n") > 0 for problem in chain(walk.step(link), filter(None, judged)))
    found += sum(sys.stdout.write(f"{problem}\n") > 0 for problem in walk.end())
    sys.stdout.write(f"{walk.n} links, head {walk.n}:{walk.hash}, {found} problems\n")
    sys.exit(1 if found else 0)
