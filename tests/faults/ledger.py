"""The ledger outside the system: what was acknowledged, kept by those who were told, and what follows from it."""

import json
import threading
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from deploy.commands.simulate import Ledger
from services.kernel import clock, ids


@dataclass(frozen=True, slots=True)
class Row:
    """One acknowledged check-in."""

    device: str
    county: str
    people: int
    status: str
    day: str
    sent: Mapping[str, Any]
    """As the device sent it."""


class Recorder(Ledger):
    """Writes every acknowledged row to a file before anybody else learns of it, and keeps it to compare."""

    def __init__(self, path: Path) -> None:
        super().__init__()
        self.acknowledged: dict[str, Row] = {}
        """By the id that the system gives the row."""
        self.contradictions: list[str] = []
        """Rows that were answered twice, and not alike."""
        self.reports: dict[str, str] = {}
        """Acknowledged fault reports: Idempotency-Key -> id."""
        self.counties: dict[str, str] = {}
        """Where each device stands."""
        self.requests = 0
        self.refused: Counter[str] = Counter()
        """Answers that no fault excuses: 4xx but 429, and rows rejected."""
        self._file = path.open("a", encoding="utf-8")
        self._grown = threading.Condition(self.lock)

    def settle(self, device: str, sent: list[dict[str, Any]], results: list[dict[str, Any]]) -> None:
        with self._grown:
            self.requests += 1
            for row, result in zip(sent, results, strict=True):
                self._note(device, row, result)
            self._file.flush()
            self._grown.notify_all()

    def _note(self, device: str, sent: dict[str, Any], result: dict[str, Any]) -> None:
        if result["id"] != sent["id"] or not result["final"] or result["status"] not in ("accepted", "quarantined"):
            self.refused[f"{result['status']} {result['code']}"] += 1
            return
        id_ = ids.derived(device, sent["id"])
        day = clock.day(datetime.fromisoformat(sent["captured_at"]))
        row = Row(device, self.counties[device], sent["people"], result["status"], day, sent)
        if self.acknowledged.setdefault(id_, row) != row:
            self.contradictions.append(id_)
        self._file.write(json.dumps({"id": id_, **asdict(row)}) + "\n")

    def report(self, key: str, id_: str) -> None:
        """Notes an acknowledged fault report."""
        with self._grown:
            if self.reports.setdefault(key, id_) != id_:
                self.contradictions.append(key)
            self._file.write(json.dumps({"report": key, "id": id_}) + "\n")

    def refuse(self, what: str) -> None:
        """Notes an answer that no fault excuses."""
        with self._grown:
            self.refused[what] += 1

    def await_requests(self, count: int, seconds: float) -> bool:
        """Whether so many more posts were acknowledged in time."""
        with self._grown:
            wanted = self.requests + count
            return self._grown.wait_for(lambda: self.requests >= wanted, seconds)

    def sums(self) -> dict[tuple[str, str, str], int]:
        """What the rows add up to: (measure, county, day) -> value."""
        sums: Counter[tuple[str, str, str]] = Counter()
        for row in self.acknowledged.values():
            if row.status == "accepted":
                sums["stations.checkins", row.county, row.day] += row.people
                sums["stations.checkin_records", row.county, row.day] += 1
        return dict(sums)

    def close(self) -> None:
        """Closes the file."""
        self._file.close()
