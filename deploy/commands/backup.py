"""``estation backup``: encrypted copies of what the services keep, and the way back.

Data and the persons' keys are copied apart: a key that is kept with its data erases nothing (docs/adr/0008, 0015).
Take the keys after the data: a key is made before the first value that it seals is written, so that every value in
the copy of the data has its key in the copy of the keys, unless its person was erased between the two. Neither holds
the erasure ledger or the master keys.
"""

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO, Final, NamedTuple

import bson
import click
import pymongo
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import OperationFailure, PyMongoError

from deploy import archives
from deploy.acts import noted
from deploy.archives import DATA, KEYS, BackupKey, Header, Unusable
from deploy.commands import erasures
from deploy.run import KEYED, SERVICES
from services.kernel import audit, clock, crypto, mongo, settings
from services.kernel.erasure import FileLedger, LedgerUnreadable
from services.kernel.masterkeys import KeyFile, Undecryptable
from services.kernel.mongo import Document
from services.kernel.settings import SettingError, Settings

NAMES: Final = {DATA: (*SERVICES, audit.OPERATIONS), KEYS: KEYED}
"""Whose databases are copied, by what is in the copy."""
BATCH_DOCUMENTS, BATCH_BYTES = 1000, 8 << 20
NO_SNAPSHOT: Final = (239, 246)
"""SnapshotTooOld: reading took longer than the server keeps the past (5 minutes).
SnapshotUnavailable: a collection was made, or its indexes changed, just now."""
SNAPSHOT_TRIES: Final = 2
STAGING: Final = "restoring."
"""Collections are restored under this and their name, and take their name when all of them are there."""
LONG_SECONDS: Final = 3600
"""Reading, counting and indexing a large collection take more than the few seconds that a request may."""
_RAW: Final[CodecOptions[RawBSONDocument]] = CodecOptions(document_class=RawBSONDocument)


@click.group()
def backup() -> None:
    """Encrypted copies of the databases, apart from those of the persons' keys."""


@backup.command("create-key")
def create_key() -> None:
    """Make the key of the archives; keep a copy of it apart from them."""
    known = settings.read()
    path = _place("ESTATION_BACKUP_KEY", known.backup_key, "this file")
    try:
        archives.create_key(path, demo=not known.production)
    except FileExistsError:
        raise click.ClickException(f"{path} is there; archives open with it") from None
    click.echo(f"{path}: without it no archive can be opened; keep a copy apart from them")


@backup.command()
def data() -> None:
    """Copy every service's database; then remove copies older than 30 days."""
    _run(DATA)


@backup.command()
def keys() -> None:
    """Copy the persons' keys, after the data; then remove copies older than 7 days."""
    _run(KEYS)


@backup.command("list")
def list_() -> None:
    """The archives that there are, oldest first."""
    known, now = settings.read(), clock.now()
    for kind, folder in _folders(known).items():
        for one in archives.found(folder, kind):
            late = "  has to go" if one.too_old(now) else ""
            click.echo(f"{one.path}  {clock.rfc3339(one.taken_at)}  {one.path.stat().st_size} bytes{late}")


@backup.command()
@click.argument("archive", type=click.Path(exists=True, dir_okay=False, path_type=Path))
@click.option("--service", type=click.Choice(NAMES[DATA]), help="Refuse an archive of any other")
@click.option("--replace", is_flag=True, help="In the place of what the database holds, which is lost")
def restore(archive: Path, service: str | None, replace: bool) -> None:
    """Put ARCHIVE back into its service's database, then erase again whom the erasure ledger names.

    Stop the service's processes before: what they write meanwhile is lost. Keys go first, then data.
    """
    known = settings.read()
    key = _key(known)
    try:
        with archive.open("rb") as file:
            _put_back(known, archive.name, file, key, service, replace=replace)
    except Unusable as error:
        raise click.ClickException(f"{archive}: {error}; nothing was changed") from error
    except PyMongoError as error:  # its words may hold a document
        what = f"the database went away or refused ({type(error).__name__})"
        raise click.ClickException(f"{archive}: not restored, {what}: run it again") from None


def _put_back(known: Settings, name: str, file: BinaryIO, key: BackupKey, wanted: str | None, *, replace: bool) -> None:
    header, contents = archives.read(file, key)
    service = header.service
    if service not in NAMES.get(header.kind, ()) or wanted not in {None, service}:
        raise Unusable(f"it holds the {header.kind} of {service}")
    archived = _archived(file, key) if header.kind == KEYS else _Archived(set(), set(), {})
    with _opened(known, service, header.kind, "restore") as database:
        _refuse_loss(database, header.kind, archived.persons, replace=replace)
        _refuse_short_ledger(known, service, database, archived.erased)
        _refuse_retired(known, service, archived.wrapped)
        about = {"service": service, "kind": header.kind, "archive": name, "replaced": replace}
        with noted("backup.restore", **about) as act:
            _restore(database, file, key, {one.collection: one.documents for one in contents})
            _ensure_indexes(known, service)
            total = sum(one.documents for one in contents)
            click.echo(f"{service}: {total} documents of {clock.rfc3339(header.taken_at)} are back in {database.name}")
            if service in KEYED:
                act["erased_again"] = erasures.erase_again(known, service)
                click.echo(f"{service}: {act['erased_again']} keys destroyed again")


def _run(kind: str) -> None:
    known = settings.read()
    key, folder = _key(known), _folders(known)[kind]
    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    except OSError as error:
        raise click.ClickException(str(error)) from error
    with noted(f"backup.{kind}") as act:
        made: list[str] = []
        failed: list[str] = []
        act |= {"made": made, "failed": failed}
        for service in NAMES[kind]:
            try:
                made.append(_copy(known, service, kind, folder, key))
            except (PyMongoError, OSError) as error:
                failed.append(service)
                click.echo(f"{service}: no copy: {error}", err=True)
        act["removed"] = [path.name for path in archives.expire(folder, kind, clock.now(), failed)]
        for gone in act["removed"]:
            click.echo(f"removed {gone}")
        if failed:
            raise click.ClickException(f"no copy of {', '.join(failed)}")


def _copy(known: Settings, service: str, kind: str, folder: Path, key: BackupKey) -> str:
    """Writes one archive; its name."""
    with _opened(known, service, kind, "backup") as database:
        for snapshot in (*[True] * SNAPSHOT_TRIES, False):
            header = Header(service, kind, clock.now(), snapshot)
            path = folder / archives.name(header)
            database.client.admin.command("ping")  # one that is away is not waited for so long
            try:
                with pymongo.timeout(LONG_SECONDS), database.client.start_session(snapshot=snapshot) as session:
                    contents = archives.write(path, header, _collections(database, session), key)
            except OperationFailure as error:
                if not snapshot or error.code not in NO_SNAPSHOT:
                    raise
            else:
                break
    total, how = sum(one.documents for one in contents), "one snapshot" if snapshot else "NOT one snapshot"
    click.echo(f"{service}: {total} documents of {len(contents)} collections, {how}: {path}")
    return path.name


def _collections(database: Database[Document], session: ClientSession) -> Iterator[tuple[str, Iterator[bytes]]]:
    # the session's moment is that of its first read, which has to be of a collection that is there
    for name in _names(database)[:1]:
        database[name].find_one({}, {"_id": 1}, session=session)
    # listed again: what was made between the list and the moment belongs to it
    for name in _names(database):
        found: Iterator[Any] = database.get_collection(name, codec_options=_RAW).find(session=session)
        yield name, (document.raw for document in found)


def _names(database: Database[Document]) -> list[str]:
    names: list[str] = database.list_collection_names(filter={"type": "collection"})
    return sorted(name for name in names if not name.startswith(("system.", STAGING)))


def _refuse_loss(database: Database[Document], kind: str, archived: set[Any], *, replace: bool) -> None:
    """Refuses to write over what is there, and, asked or not, over keys that the archive does not have."""
    held: Document = {"key": {"$exists": True}} if kind == KEYS else {}  # a row without a key is an erased person
    names = _names(database)
    with pymongo.timeout(LONG_SECONDS):
        full = [name for name in names if database[name].find_one(held, {"_id": 1}) is not None]
    if full and not replace:
        raise click.ClickException(f"{database.name} is not empty: --replace puts the archive in its place")
    if kind == KEYS:
        with pymongo.timeout(LONG_SECONDS):
            newer = sum(row["_id"] not in archived for row in database[crypto.COLLECTION].find(held, {"_id": 1}))
        if newer:
            raise click.ClickException(
                f"{newer} persons have keys here that the archive lacks: what they seal would be lost for good; "
                f"drop {database.name} yourself if that is meant"
            )


class _Archived(NamedTuple):
    """Whose keys an archive holds, who of them was erased, and one row for each master key that wraps any."""

    persons: set[str]
    erased: set[str]
    wrapped: dict[str, Document]


def _archived(file: BinaryIO, key: BackupKey) -> _Archived:
    found = _Archived(set(), set(), {})

    def add(_collection: str, document: bytes) -> None:
        row = bson.decode(document)
        found.persons.add(row["_id"])
        if "key" in row:
            found.wrapped.setdefault(row["kek"], row)
        else:
            found.erased.add(row["_id"])

    archives.read(file, key, add)
    return found


def _refuse_short_ledger(known: Settings, service: str, database: Database[Document], archived: set[str]) -> None:
    """Refuses a ledger that lacks erased persons: an empty or older one would bring people back."""
    if service not in KEYED:
        return
    try:
        noted_there = {erasure.subject for erasure in FileLedger(known.erasure_ledger(service)).all()}
    except LedgerUnreadable as error:
        raise click.ClickException(f"{service}: {error}; nothing was changed") from error
    rows = crypto.keys_database(known, service, database)[crypto.COLLECTION]
    with pymongo.timeout(LONG_SECONDS):
        here = {row["_id"] for row in rows.find({"key": {"$exists": False}}, {"_id": 1})}
    if lacking := len((here | archived) - noted_there):
        raise click.ClickException(
            f"{service}: the erasure ledger lacks {lacking} erased persons; bring the ledger back: an empty or older "
            "one brings erased people back; nothing was changed"
        )


def _refuse_retired(known: Settings, service: str, wrapped: dict[str, Document]) -> None:
    """Refuses keys that no master key in the file opens."""
    if wrapped:
        file = KeyFile(known.key_file(service), production=known.production)
        for id_, row in wrapped.items():
            try:
                file.unwrap(id_, row["key"], row["_id"])
            except Undecryptable:
                raise click.ClickException(
                    f"{service}: master key {id_}, which wraps keys in the archive, is not in the key file: "
                    "bring it back; nothing was changed"
                ) from None


def _restore(database: Database[Document], file: BinaryIO, key: BackupKey, counts: dict[str, int]) -> None:
    """Fills staging collections, and lets them take their places when all that was listed is there."""
    _drop_staging(database)
    try:
        loader = _Loader(database)
        archives.read(file, key, loader.add)
        loader.flush()
        with pymongo.timeout(LONG_SECONDS):
            for name, count in counts.items():
                if database[STAGING + name].count_documents({}) != count:
                    raise click.ClickException(
                        f"{database.name}.{name}: not all documents arrived; nothing was changed"
                    )
            for name in {*_names(database), *counts}:
                if counts.get(name):
                    database[STAGING + name].rename(name, dropTarget=True)
                else:
                    database.drop_collection(name)
    finally:
        _drop_staging(database)


def _drop_staging(database: Database[Document]) -> None:
    for name in database.list_collection_names():
        if name.startswith(STAGING):
            database.drop_collection(name)


class _Loader:
    """Inserts documents as they were, some at a time."""

    def __init__(self, database: Database[Document]) -> None:
        self._database = database
        self._collection, self._waiting, self._bytes = "", list[RawBSONDocument](), 0

    def add(self, collection: str, document: bytes) -> None:
        """Takes one document."""
        full = len(self._waiting) >= BATCH_DOCUMENTS or self._bytes >= BATCH_BYTES
        if full or collection != self._collection:
            self.flush()
        self._collection = collection
        self._waiting.append(RawBSONDocument(document))
        self._bytes += len(document)

    def flush(self) -> None:
        """Returns when all that was taken is on a majority."""
        if self._waiting:
            staging = self._database.get_collection(STAGING + self._collection, codec_options=_RAW)
            staging.insert_many(self._waiting, ordered=False)
        self._waiting, self._bytes = [], 0


def _ensure_indexes(known: Settings, service: str) -> None:
    """As ``estation migrate`` does."""
    with pymongo.timeout(LONG_SECONDS):
        database = mongo.connect_documents(known, service, "restore")
        with database.client:
            if service == audit.OPERATIONS:
                audit.ensure_indexes(database, audit.OPERATED)
                return
            importlib.import_module(f"services.{service}.store").ensure_indexes(database)
            if service in KEYED:
                importlib.import_module(f"services.{service}.vault").prepare(known, database)


@contextmanager
def _opened(known: Settings, service: str, kind: str, role: str) -> Iterator[Database[Document]]:
    database = mongo.connect(known, service, role)
    with database.client:
        yield crypto.keys_database(known, service, database) if kind == KEYS else database


def _folders(known: Settings) -> dict[str, Path]:
    """Where archives lie, by what is in them: two folders that no one copy of a folder can take together.

    Raises:
        SettingError: one is not given, or lies in the other, or what must be kept apart from copies lies in one.
    """
    data_folder = _place("ESTATION_DATA_BACKUPS", known.data_backups, "this folder")
    keys_folder = _place("ESTATION_KEY_BACKUPS", known.key_backups, "this folder")
    if data_folder.is_relative_to(keys_folder) or keys_folder.is_relative_to(data_folder):
        raise SettingError("ESTATION_KEY_BACKUPS", "must lie apart from ESTATION_DATA_BACKUPS, neither in the other")
    apart = {"BACKUP_KEY": known.backup_key, "KEYS": known.keys, "ERASURES": known.erasures}
    for name, said in apart.items():
        place = Path(said).resolve()
        if said and (place.is_relative_to(data_folder) or place.is_relative_to(keys_folder)):
            raise SettingError(f"ESTATION_{name}", "must not lie with the archives")
    return {DATA: data_folder, KEYS: keys_folder}


def _place(name: str, said: str, what: str) -> Path:
    if not said:
        raise SettingError(name, f"`estation backup` needs {what}")
    return Path(said).resolve()


def _key(known: Settings) -> BackupKey:
    return BackupKey(_place("ESTATION_BACKUP_KEY", known.backup_key, "this file"), production=known.production)
