"""The erasure ledger: who has been erased, kept outside the databases and their backups, replayed after a restore."""

import fcntl
import json
import os
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import BinaryIO, NamedTuple, Protocol

from services.kernel import clock
from services.kernel.masterkeys import sync_folder


class LedgerUnreadable(Exception):
    """The ledger is missing or damaged; without it nobody knows who must stay erased."""


class Erasure(NamedTuple):
    """One row: whose key was destroyed, and when."""

    subject: str
    at: datetime


class ErasureLedger(Protocol):
    """What a ledger does, wherever it lies."""

    def append(self, erasure: Erasure) -> None:
        """Returns when the row can no longer be lost."""

    def all(self) -> Iterator[Erasure]:
        """Every row, oldest first.

        Raises:
            LedgerUnreadable: the ledger is missing or damaged.
        """


class FileLedger:
    """The ledger of one service: a file of JSON lines that only grows.

    It must be there before it is used (:meth:`create`): a ledger that was looked for in the wrong place would be an
    empty one, and bring people back.
    """

    def __init__(self, path: Path) -> None:
        self._path = path

    def create(self) -> None:
        """Makes an empty ledger unless there is one (``estation migrate``)."""
        self._path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        os.close(os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600))
        sync_folder(self._path.parent)

    def append(self, erasure: Erasure) -> None:
        """Returns when the row is on disk; several processes may append.

        Raises:
            LedgerUnreadable: there is no ledger.
        """
        row = json.dumps({"subject": erasure.subject, "at": clock.rfc3339(erasure.at)})
        with self._open("r+b") as file:
            fcntl.flock(file, fcntl.LOCK_EX)
            _drop_unfinished_line(file)
            file.seek(0, os.SEEK_END)
            file.write(row.encode() + b"\n")
            file.flush()
            os.fsync(file.fileno())

    def all(self) -> Iterator[Erasure]:
        """Every row, oldest first; an unfinished last line was promised to nobody and is left out.

        Raises:
            LedgerUnreadable: the ledger is missing, or a line is damaged.
        """
        with self._open("rb") as file:
            for number, line in enumerate(file, start=1):
                if not line.endswith(b"\n"):
                    return
                try:
                    row = json.loads(line)
                    erasure = Erasure(str(row["subject"]), datetime.fromisoformat(row["at"]))
                except (ValueError, KeyError, TypeError):
                    raise LedgerUnreadable(f"line {number} of the erasure ledger is damaged") from None
                yield erasure

    def _open(self, mode: str) -> BinaryIO:
        try:
            return self._path.open(mode)  # type: ignore[return-value]  # both modes are binary
        except FileNotFoundError:
            raise LedgerUnreadable(
                "there is no erasure ledger here: bring it back; an empty one, as `estation migrate` makes for a new "
                "system, brings erased people back"
            ) from None


def _drop_unfinished_line(file: BinaryIO) -> None:
    """What a killed process had begun to write."""
    if not file.seek(0, os.SEEK_END):
        return
    file.seek(-1, os.SEEK_END)
    if file.read(1) != b"\n":
        file.seek(0)
        file.truncate(file.read().rfind(b"\n") + 1)
