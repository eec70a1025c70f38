"""The files of ``estation backup``: a database in one encrypted file that is whole and ours, or refused.

The file is age (https://age-encryption.org/v1), for the one key in ``ESTATION_BACKUP_KEY``; ``age -d -i KEY`` opens it
too. In it, BSON documents one after the other: a header; for each collection ``{"collection": name}``, its documents
and four zero bytes; at the end how many there were and their SHA-256 (docs/adr/0015).
"""

import hashlib
import io
import os
import re
import secrets
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import bson
import pyrage
from bson.codec_options import CodecOptions
from bson.errors import BSONError

from services.kernel.auth import DEMO_KEY_PREFIX
from services.kernel.masterkeys import sync_folder
from services.kernel.settings import SettingError

FORMAT: Final = "estation-backup/1"
SETTING: Final = "ESTATION_BACKUP_KEY"
DATA, KEYS = "data", "keys"
DAYS: Final = {DATA: 30, KEYS: 7}
"""How long a copy is kept, by what is in it (docs/adr/0008)."""
PART_DAYS: Final = 1
"""So long a run may take; what a killed one left unfinished goes after it."""
DOCUMENT_MAX: Final = 17 << 20
"""A BSON document of MongoDB has 16 MiB and a little."""
ANOTHER_FORMAT: Final = "not an archive of this format"
_END: Final = b"\0\0\0\0"
_MOMENT: Final = "%Y%m%dT%H%M%SZ"
_NAME: Final = re.compile(
    rf"(?P<service>[a-z]+)-(?P<kind>{DATA}|{KEYS})-(?P<moment>\d{{8}}T\d{{6}}Z)-[0-9a-f]{{8}}\.age"
)
_PART: Final = re.compile(rf"\.(?P<name>{_NAME.pattern})\.[0-9a-f]{{8}}\.part")
_NOT_FOR_OTHERS: Final = 0o027
_AWARE: Final[CodecOptions[dict[str, Any]]] = CodecOptions(tz_aware=True)


class Unusable(Exception):
    """The file is no archive, not whole, changed, or sealed with another key."""


class Contents(NamedTuple):
    """A collection in an archive: how many documents, and the SHA-256 of their bytes, in hex."""

    collection: str
    documents: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Header:
    """What an archive is of; ``snapshot``: all of it as it was at one moment."""

    service: str
    kind: str
    taken_at: datetime
    snapshot: bool


Sink = Callable[[str, bytes], object]
"""Takes a collection and a document of an archive; nothing may be believed before :func:`read` has returned."""


class BackupKey:
    """The key of the archives, in a file as ``age-keygen`` makes it: the first line seals, each of them opens."""

    def __init__(self, path: Path, *, production: bool) -> None:
        """Reads the file.

        Raises:
            SettingError: it is missing, open to others, malformed, or a demo key in production mode.
        """
        try:
            if path.stat().st_mode & _NOT_FOR_OTHERS:
                raise SettingError(SETTING, "the file is open to others: chmod 600 it")
            lines = path.read_text("utf-8").split("\n")
        except OSError:
            raise SettingError(SETTING, "the file cannot be read; `estation backup create-key` makes one") from None
        except ValueError:
            raise SettingError(SETTING, "malformed key") from None
        if production and any(line.startswith(f"# {DEMO_KEY_PREFIX}") for line in lines):
            raise SettingError(SETTING, "the file holds a demo key, which production mode refuses")
        try:
            self.identities = [
                pyrage.x25519.Identity.from_str(line.strip()) for line in lines if line.strip() and line[0] != "#"
            ]
        except pyrage.IdentityError:
            raise SettingError(SETTING, "malformed key") from None
        if not self.identities:
            raise SettingError(SETTING, "the file holds no key")


def create_key(path: Path, *, demo: bool) -> None:
    """Makes a file with a fresh backup key; ``demo``: one that production refuses.

    Raises:
        FileExistsError: there is one; archives open with it.
    """
    if path.exists():
        raise FileExistsError(path)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    mark = f"# {DEMO_KEY_PREFIX}key: production refuses it\n" if demo else ""
    with whole_file(path) as file:
        file.write(f"{mark}{pyrage.x25519.Identity.generate()}\n".encode())


def write(
    path: Path, header: Header, collections: Iterable[tuple[str, Iterable[bytes]]], key: BackupKey
) -> list[Contents]:
    """Seals a database's documents into a file; it is there, whole and on disk, or it is not; what is in it.

    Raises:
        OSError: it cannot be written.
    """
    contents: list[Contents] = []
    source = _Source(_plain(header, collections, contents))
    with whole_file(path) as file:
        try:
            pyrage.encrypt_io(source, file, [key.identities[0].to_public()])  # type: ignore[arg-type]  # with write
        except (pyrage.EncryptError, OSError):
            if source.problem is not None:
                raise source.problem from None
            raise
    return contents


def read(
    file: BinaryIO, key: BackupKey, sink: Sink = lambda _collection, _document: None
) -> tuple[Header, list[Contents]]:
    """Opens an archive from its beginning to its end; what it is of and what is in it.

    Raises:
        Unusable: it is no archive, not whole, changed, or sealed with another key.
    """
    file.seek(0)
    parser = _Parser(sink)
    try:
        pyrage.decrypt_io(file, parser, key.identities)  # type: ignore[arg-type]  # with read
    except pyrage.DecryptError as error:
        raise Unusable(f"not sealed with this key, or not an archive ({error})") from None
    except OSError as error:
        raise Unusable(f"cut or changed ({error})") from None
    return parser.result()


@contextmanager
def whole_file(path: Path) -> Iterator[BinaryIO]:
    """A file that takes its name when the block ends well, on disk and readable by its owner alone.

    One that takes another's place keeps that one's owner and mode: root may change a file of a service.
    """
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "wb") as file:
            if path.exists():
                was = path.stat()
                os.fchown(descriptor, was.st_uid, was.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(was.st_mode))
            yield file
            file.flush()
            os.fsync(descriptor)
        new.replace(path)
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


class Found(NamedTuple):
    """An archive in its folder, as its name says."""

    path: Path
    service: str
    kind: str
    taken_at: datetime

    def too_old(self, now: datetime) -> bool:
        """Whether it has to go."""
        return now - self.taken_at > timedelta(days=DAYS[self.kind])


def name(header: Header) -> str:
    """A new archive's name."""
    moment = header.taken_at.astimezone(UTC).strftime(_MOMENT)
    return f"{header.service}-{header.kind}-{moment}-{secrets.token_hex(4)}.age"


def found(folder: Path, kind: str) -> list[Found]:
    """The archives in a folder, by service, the oldest first."""
    named = [(path, _NAME.fullmatch(path.name)) for path in (folder.iterdir() if folder.is_dir() else ())]
    known = [Found(path, match["service"], match["kind"], _moment(match)) for path, match in named if match]
    return sorted(
        (one for one in known if one.kind == kind), key=lambda one: (one.service, one.taken_at, one.path.name)
    )


def expire(folder: Path, kind: str, now: datetime, failed: Collection[str]) -> list[Path]:
    """Removes archives that are too old, and what killed runs left; returns which.

    ``failed``: services without a new archive just now; the newest one of each is kept, however old.
    """
    archives = found(folder, kind)
    newest = {one.service: one.path for one in archives}
    kept = {newest.get(service) for service in failed}
    gone = [one.path for one in archives if one.too_old(now) and one.path not in kept]
    for path in folder.iterdir() if folder.is_dir() else ():
        match = _PART.fullmatch(path.name)
        if match and match["kind"] == kind and now - _moment(match) > timedelta(days=PART_DAYS):
            gone.append(path)
    for path in gone:
        path.unlink()
    if gone:
        sync_folder(folder)
    return gone


def _moment(match: re.Match[str]) -> datetime:
    try:
        return datetime.strptime(match["moment"], _MOMENT).replace(tzinfo=UTC)
    except ValueError:  # no day of any calendar: it is kept, and seen in the list
        return datetime.max.replace(tzinfo=UTC)


def _plain(
    header: Header, collections: Iterable[tuple[str, Iterable[bytes]]], contents: list[Contents]
) -> Iterator[bytes]:
    said = {"service": header.service, "kind": header.kind, "taken_at": header.taken_at, "snapshot": header.snapshot}
    yield bson.encode({"format": FORMAT, **said})
    for collection, documents in collections:
        yield bson.encode({"collection": collection})
        count, digest = 0, hashlib.sha256()
        for document in documents:
            count += 1
            digest.update(document)
            yield document
        yield _END
        contents.append(Contents(collection, count, digest.hexdigest()))
    yield bson.encode({"contents": [one._asdict() for one in contents]})


class _Source(io.BufferedIOBase):
    """A file to read from, made of pieces; keeps the problem that the cipher's library would put into words."""

    def __init__(self, pieces: Iterator[bytes]) -> None:
        self._pieces, self._rest = pieces, memoryview(b"")
        self.problem: BaseException | None = None

    def read(self, size: int | None = -1, /) -> bytes:
        try:
            while not self._rest:
                self._rest = memoryview(next(self._pieces))
        except StopIteration:
            return b""
        except BaseException as problem:
            self.problem = problem
            raise
        end = len(self._rest) if size is None or size < 0 else size
        got, self._rest = bytes(self._rest[:end]), self._rest[end:]
        return got


class _Parser(io.BufferedIOBase):
    """A file to write an archive's plain text to; hands on its documents as they come."""

    def __init__(self, sink: Sink) -> None:
        self._sink, self._buffer = sink, bytearray()
        self._header: Header | None = None
        self._collection: str | None = None
        self._count, self._digest = 0, hashlib.sha256()
        self._contents: list[Contents] = []
        self._ended = False

    def write(self, data: Any, /) -> int:
        self._buffer += data
        start = 0
        while len(self._buffer) - start >= len(_END):
            said = int.from_bytes(self._buffer[start : start + len(_END)], "little")
            if said > DOCUMENT_MAX:
                raise Unusable(ANOTHER_FORMAT)
            end = start + max(said, len(_END))
            if len(self._buffer) < end:
                break
            self._take(bytes(self._buffer[start:end]))
            start = end
        del self._buffer[:start]
        return len(data)

    def result(self) -> tuple[Header, list[Contents]]:
        if self._header is None or not self._ended or self._buffer:
            raise Unusable("its end is missing")
        return self._header, self._contents

    def _take(self, frame: bytes) -> None:
        if self._collection is None:
            try:
                self._take_note(bson.decode(frame, _AWARE))
            except (BSONError, KeyError, TypeError):
                raise Unusable(ANOTHER_FORMAT) from None
        elif frame == _END:
            self._contents.append(Contents(self._collection, self._count, self._digest.hexdigest()))
            self._collection = None
        else:
            self._count += 1
            self._digest.update(frame)
            self._sink(self._collection, frame)

    def _take_note(self, note: dict[str, Any]) -> None:
        if self._ended:
            raise Unusable("something follows its end")
        if self._header is None:
            if note["format"] != FORMAT:
                raise Unusable(ANOTHER_FORMAT)
            self._header = Header(note["service"], note["kind"], note["taken_at"], note["snapshot"])
        elif "collection" in note:
            self._collection, self._count, self._digest = str(note["collection"]), 0, hashlib.sha256()
        elif note["contents"] == [one._asdict() for one in self._contents]:
            self._ended = True
        else:
            raise Unusable("its documents are not those that it lists")
