"""Backups on a real database, and the files of keys: what comes back, what does not, what is refused."""

import json
import os
import re
import stat
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import bson
import pytest
from bson.codec_options import CodecOptions
from bson.raw_bson import RawBSONDocument
from click.testing import CliRunner, Result
from pymongo.database import Database

from deploy import archives
from deploy.archives import DATA, KEYS, BackupKey, Header
from deploy.commands import backup, keys
from services.kernel import auth, clock, crypto, mongo, settings
from services.kernel.auth import TokenVerifier
from services.kernel.erasure import FileLedger
from services.kernel.masterkeys import KeyFile, Undecryptable, retire_master_key, rotate_key_file
from services.kernel.mongo import Document
from services.people import tokens
from tests.builders import id_number
from tests.integration.test_people_erasure import NAME, NUMBER, PHONE, SECRETS, Everything, full, traces
from tests.integration.test_people_persons import Somebody
from tests.parts import PROJECT, World, outside
from tests.people import People

OTHER = "诸葛明"
BACKUP = (sys.executable, "-c", "from deploy.commands.backup import backup; backup()")
RAW: CodecOptions[RawBSONDocument] = CodecOptions(document_class=RawBSONDocument)


class House:
    """A running people service, and the folders and the key of its backups."""

    def __init__(self, people: People) -> None:
        self.people, self.folder = people, people.world.folder
        self.folders = {DATA: self.folder / "data-backups", KEYS: self.folder / "key-backups"}
        self.environ = {
            **people.world.environ("people"),
            **people.files,
            "ESTATION_DATA_BACKUPS": str(self.folders[DATA]),
            "ESTATION_KEY_BACKUPS": str(self.folders[KEYS]),
            "ESTATION_BACKUP_KEY": str(self.folder / "backup.key"),
        }
        self._newest: dict[tuple[str, str], Path] = {}

    def backup(self, *words: str, ok: bool = True, **environ: str) -> str:
        """``estation backup ...``."""
        known = {**outside(), **self.environ, **environ}
        done = subprocess.run([*BACKUP, *words], cwd=PROJECT, env=known, capture_output=True, text=True)
        said = done.stdout + done.stderr
        assert (done.returncode == 0) == ok, said
        assert "Traceback" not in said
        assert not any(one in said for one in (*SECRETS, OTHER, "AGE-SECRET"))
        if words[0] in {DATA, KEYS}:
            for service, path in re.findall(
                r"^(\w+): \d+ documents of \d+ collections, .*: (/.+)$", said, re.MULTILINE
            ):
                self._newest[words[0], service] = Path(path)
        return said

    def archive(self, kind: str, service: str = "people") -> Path:
        """The newest one."""
        return self._newest[kind, service]

    def plain(self, archive: Path) -> dict[str, list[bytes]]:
        """What is in an archive."""
        found: dict[str, list[bytes]] = {}
        with archive.open("rb") as file:
            key = BackupKey(self.folder / "backup.key", production=False)
            archives.read(file, key, lambda name, document: found.setdefault(name, []).append(document))
        return found

    def stored(self, kind: str) -> dict[str, list[bytes]]:
        """What is in a database, byte for byte; empty collections left out."""
        database = self.database(kind)
        names = sorted(database.list_collection_names())
        found = {name: database.get_collection(name, codec_options=RAW).find(sort=[("_id", 1)]) for name in names}
        return {name: rows for name, documents in found.items() if (rows := [one.raw for one in documents])}  # type: ignore[attr-defined]

    def database(self, kind: str) -> Database[Document]:
        """Of people's data or people's keys."""
        database = self.people.database
        return database if kind == DATA else crypto.keys_database(self.people.settings, "people", database)

    def acts(self) -> list[Document]:
        """What operators did, oldest first."""
        return list(self.people.database.client[self.people.world.prefix + "operations"]["audit"].find())


@pytest.fixture(scope="module")
def house(shared_world: World) -> Iterator[House]:
    """People with backups."""
    with People(shared_world) as people:
        made = House(people)
        made.backup("create-key")
        yield made


def test_whoever_was_erased_since_the_backup_is_erased_again_and_all_others_are_back(house: House) -> None:
    people = house.people
    me, bystander = full(people), Somebody(people)
    bystander.call("PUT", "/me/person", {"name": OTHER, "id_number": id_number(3), "phone": PHONE, "consent": True})
    people.session(bystander.id)
    left = [one for one in traces(people, me) if one != phone_index(house, bystander)]
    said = house.backup("data") + house.backup("keys")
    assert "one snapshot" in said
    assert "NOT one snapshot" not in said
    people.process.stop()
    before = {kind: house.stored(kind) for kind in (DATA, KEYS)}

    for kind, services in ((DATA, ("stations", "metrics", "people", "operations")), (KEYS, ("people",))):
        assert {one.service for one in archives.found(house.folders[kind], kind)} == set(services)
        for path in house.folders[kind].iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            sealed = path.read_bytes()
            assert not any(one.encode() in sealed for one in (*SECRETS, OTHER, me.id, bystander.id))
    copied = {kind: house.plain(house.archive(kind)) for kind in (DATA, KEYS)}
    for collections in copied.values():
        whole = b"".join(document for documents in collections.values() for document in documents)
        assert not any(one.encode() in whole for one in SECRETS), "sealed, even for who has the backup key"
    [key] = [bson.decode(row)["key"] for row in copied[KEYS]["subject_keys"] if bson.decode(row)["_id"] == me.id]
    assert not any(key in document for documents in copied[DATA].values() for document in documents)
    assert sorted(copied[DATA]["persons"]) == sorted(before[DATA]["persons"])

    people.erase(me.id)
    everything = Everything(people)
    assert everything.holding(*left) == set()
    for kind in (KEYS, DATA):
        assert "is not empty" in house.backup("restore", str(house.archive(kind)), ok=False)
    assert everything.holding(*left) == set()
    assert "people: 1 keys destroyed again\n" in house.backup("restore", str(house.archive(KEYS)), "--replace")
    assert "people: 0 keys destroyed again\n" in house.backup("restore", str(house.archive(DATA)), "--replace")
    assert everything.holding(*left) == set()
    now = house.stored(DATA)
    assert now.keys() - {"login_steps"} == before[DATA].keys() - {"login_steps"}
    for name in ("accounts", "persons", "sessions"):
        others = [row for row in before[DATA][name] if me.id.encode() not in row]
        assert others
        assert others == [row for row in now[name] if me.id.encode() not in row]
    assert "id_number_index" in people.database["persons"].index_information()
    people.process.start()
    assert bystander.call("GET", "/me/person").json["name"] == OTHER
    again = me.identify(NUMBER)
    assert (again.status, again.code) == (409, "person_erased")


def phone_index(house: House, somebody: Somebody) -> str:
    found: Any = house.people.database["persons"].find_one({"_id": somebody.id})
    return str(found["phone_index"])


def test_data_without_its_keys_opens_nothing_and_with_them_all_of_it(house: House) -> None:
    people = house.people
    me = Somebody(people)
    assert me.identify(id_number(40), NAME).status == 200
    house.backup("data")
    house.backup("keys")
    people.process.stop()
    client = people.database.client
    for kind in (DATA, KEYS):
        client.drop_database(house.database(kind).name)
    house.backup("restore", str(house.archive(DATA)), "--service", "people")
    person: Any = people.database["persons"].find_one({"_id": me.id})
    with pytest.raises(Undecryptable):
        people.vault.persons.open(person)
    house.backup("restore", str(house.archive(KEYS)))
    assert people.vault.persons.open(person)["name"] == NAME
    people.process.start()
    assert me.call("GET", "/me/person").json["name"] == NAME


def test_keys_that_the_archive_lacks_are_not_lost_with_it(house: House) -> None:
    house.backup("keys")
    newcomer = Somebody(house.people)
    assert newcomer.identify(id_number(41)).status == 200
    before = house.stored(KEYS)
    said = house.backup("restore", str(house.archive(KEYS)), "--replace", ok=False)
    assert "1 persons have keys here that the archive lacks" in said
    assert house.stored(KEYS) == before


@contextmanager
def without_keys(house: House) -> Iterator[None]:
    """A machine that has no keys yet; those of before are there again after it."""
    rows = house.database(KEYS)[crypto.COLLECTION]
    before = list(rows.find())
    house.people.process.stop()
    rows.database.client.drop_database(rows.database.name)
    try:
        yield
    finally:
        rows.database.client.drop_database(rows.database.name)
        rows.insert_many(before)
        house.people.process.start()


def test_a_ledger_that_lacks_erased_persons_brings_nobody_back(house: House) -> None:
    me = Somebody(house.people)
    assert me.identify(id_number(42)).status == 200
    house.people.erase(me.id)
    house.backup("data")
    house.backup("keys")
    ledger = house.people.settings.erasure_ledger("people")
    whole = ledger.read_bytes()
    with without_keys(house):
        ledger.unlink()
        said = house.backup("restore", str(house.archive(KEYS)), ok=False)
        assert "no erasure ledger here: bring it back" in said
        FileLedger(ledger).create()  # as somebody would who did not read on
        for lines in (b"", b"".join(whole.splitlines(keepends=True)[:-1])):
            ledger.write_bytes(lines)
            said = house.backup("restore", str(house.archive(KEYS)), ok=False)
            assert f"lacks {len(whole.splitlines()) - len(lines.splitlines())} erased persons" in said
            assert house.stored(KEYS) == {}
        ledger.write_bytes(whole)
        house.backup("restore", str(house.archive(KEYS)))
        before = house.stored(DATA), house.stored(KEYS)
        ledger.write_bytes(b"")
        for kind in (DATA, KEYS):
            said = house.backup("restore", str(house.archive(kind)), "--replace", ok=False)
            assert "bring the ledger back: an empty or older one brings erased people back" in said
        assert (house.stored(DATA), house.stored(KEYS)) == before
        ledger.write_bytes(whole)


def test_keys_under_a_master_key_that_was_retired_take_no_ones_place(house: House) -> None:
    me = Somebody(house.people)
    assert me.identify(id_number(43)).status == 200
    house.backup("keys")
    path = house.people.settings.key_file("people")
    was = path.read_bytes()
    old = json.loads(was)["current"]
    before = house.stored(KEYS)
    rotate_key_file(path)
    retire_master_key(path, old)
    said = house.backup("restore", str(house.archive(KEYS)), "--replace", ok=False)
    assert f"master key {old}, which wraps keys in the archive, is not in the key file" in said
    assert house.stored(KEYS) == before
    path.write_bytes(was)


def test_what_is_damaged_cut_reordered_or_foreign_is_refused_before_anything_changes(house: House) -> None:
    house.people.database["padding"].insert_many([{"_id": n, "filling": os.urandom(1000)} for n in range(300)])
    house.backup("data")
    house.people.process.stop()
    sealed = house.archive(DATA).read_bytes()
    start, chunk = sealed.index(b"\n", sealed.index(b"\n--- ") + 1) + 17, 65536 + 16
    changed = bytearray(sealed)
    changed[len(sealed) // 2] ^= 1
    first, second = sealed[start : start + chunk], sealed[start + chunk : start + 2 * chunk]
    archives.create_key(house.folder / "foreign.key", demo=False)
    foreign_key = BackupKey(house.folder / "foreign.key", production=True)
    foreign = house.folder / "foreign.age"
    archives.write(foreign, Header("people", DATA, clock.now(), snapshot=True), [("accounts", [])], foreign_key)
    unknown, ours = house.folder / "unknown.age", BackupKey(house.folder / "backup.key", production=False)
    archives.write(unknown, Header("nobody", DATA, clock.now(), snapshot=True), [], ours)
    bad = {
        "changed": bytes(changed),
        "cut": sealed[:-1],
        "cut between chunks": sealed[: start + 2 * chunk],
        "reordered": sealed[:start] + second + first + sealed[start + 2 * chunk :],
        "longer": sealed + b"\0",
        "foreign": foreign.read_bytes(),
        "of an unknown service": unknown.read_bytes(),
        "plain": b"".join(house.plain(house.archive(DATA))["padding"]),
    }
    acts, before = len(house.acts()), house.stored(DATA)
    path = house.folder / "bad.age"
    for what, content in bad.items():
        path.write_bytes(content)
        assert "nothing was changed" in house.backup("restore", str(path), "--replace", ok=False), what
        assert house.stored(DATA) == before, what
    stations = str(house.archive(DATA, "stations"))
    assert "holds the data of stations" in house.backup("restore", stations, "--service", "people", ok=False)
    ledger = house.people.settings.erasure_ledger("people")
    ledger.rename(ledger.with_suffix(".away"))
    assert "no erasure ledger" in house.backup("restore", str(house.archive(DATA)), "--replace", ok=False)
    ledger.with_suffix(".away").rename(ledger)
    assert house.stored(DATA) == before
    assert len(house.acts()) == acts
    house.people.process.start()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (("a", "b"), {"a": [0], "b": [0]}),
        (("a", "b", "made meanwhile"), {"a": [1], "b": [1], "made meanwhile": [1]}),  # refused once: a later moment
    ],
)
def test_an_archive_is_of_one_moment_whatever_is_written_meanwhile(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, written: tuple[str, ...], expected: dict[str, Any]
) -> None:
    database = house.people.database.client[house.people.world.prefix + "moment"]
    database.client.drop_database(database.name)
    for name in ("a", "b"):
        database[name].insert_one({"_id": 1, "balance": 0})
    names, lists = backup._names, list[str]()

    def somebody_writes(seen: Database[Document]) -> list[str]:
        lists.append("the collections")
        if len(lists) == 2:  # the moment has been
            for name in written:
                database[name].update_one({"_id": 1}, {"$inc": {"balance": 1}}, upsert=True)
        return names(seen)

    monkeypatch.setattr(backup, "_names", somebody_writes)
    key = BackupKey(house.folder / "backup.key", production=False)
    made = backup._copy(settings.read(house.environ), "moment", DATA, tmp_path, key)
    found = {name: [bson.decode(row)["balance"] for row in rows] for name, rows in house.plain(tmp_path / made).items()}
    assert found == expected
    with (tmp_path / made).open("rb") as file:
        assert archives.read(file, key)[0].snapshot


def test_a_large_collection_may_take_longer_than_a_request(
    house: House, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    limit = 2.0
    monkeypatch.setitem(mongo._OPTIONS, "timeoutMS", int(limit * 1000))
    known, key = settings.read(house.environ), BackupKey(house.folder / "backup.key", production=False)
    database = mongo.connect(known, "large", "restore")
    with database.client:
        database.client.drop_database(database.name)
        database[crypto.COLLECTION].insert_one({"_id": "somebody", "key": b"", "kek": ""})
        slow(house, "find", "large-backup", limit)
        made = backup._copy(known, "large", DATA, tmp_path, key)
        slow(house, "find", "large-restore", limit)
        backup._refuse_loss(database, KEYS, {"somebody"}, replace=True)
        slow(house, "aggregate", "large-restore", limit)  # which counts
        with (tmp_path / made).open("rb") as file:
            _header, contents = archives.read(file, key)
            backup._restore(database, file, key, {one.collection: one.documents for one in contents})
        assert database[crypto.COLLECTION].estimated_document_count() == 1


def slow(house: House, command: str, program: str, seconds: float) -> None:
    """Lets the real mongod take longer than so many seconds for the second such command, or for an only one."""
    blocked = {"failCommands": [command], "blockConnection": True, "blockTimeMS": int(seconds * 1100)}
    told = {"configureFailPoint": "failCommand", "data": {**blocked, "appName": f"estation-{program}"}}
    mode = {"skip": 1} if command == "find" else {"times": 1}
    house.people.database.client.admin.command({**told, "mode": mode})


def failing(house: House, command: str, code: int, role: str, mode: Any) -> None:
    """Lets the real mongod answer one command of ``estation backup`` with an error."""
    data = {"failCommands": [command], "errorCode": code, "appName": f"estation-people-{role}"}
    told = {"configureFailPoint": "failCommand", "mode": mode, **({"data": data} if mode != "off" else {})}
    house.people.database.client.admin.command(told)


def test_where_the_server_has_forgotten_the_moment_the_copy_says_so(house: House) -> None:
    failing(house, "find", backup.NO_SNAPSHOT[0], "backup", {"times": backup.SNAPSHOT_TRIES - 1})
    assert "NOT" not in house.backup("keys")
    failing(house, "find", backup.NO_SNAPSHOT[0], "backup", {"times": backup.SNAPSHOT_TRIES})
    assert "NOT one snapshot" in house.backup("keys")
    with house.archive(KEYS).open("rb") as file:
        header, _contents = archives.read(file, BackupKey(house.folder / "backup.key", production=False))
    assert not header.snapshot
    assert {name: sorted(rows) for name, rows in house.plain(house.archive(KEYS)).items()} == {
        name: sorted(rows) for name, rows in house.stored(KEYS).items()
    }


def test_a_run_without_a_copy_fails_keeps_the_newest_and_says_so_in_its_act(house: House) -> None:
    [*_older, newest] = archives.found(house.folders[KEYS], KEYS)
    aged = newest.path.with_name(archives.name(Header("people", KEYS, clock.now() - timedelta(days=8), snapshot=True)))
    for one in archives.found(house.folders[KEYS], KEYS):
        one.path.rename(aged)
    failing(house, "find", 13, "backup", {"times": 1})
    assert "no copy of people" in house.backup("keys", ok=False)
    assert list(house.folders[KEYS].iterdir()) == [aged]
    act = house.acts()[-1]["changed"]
    assert (act["result"][1], act["failed"][1], act["made"][1]) == ("failed", ["people"], [])
    house.backup("keys")
    assert not aged.exists()


def test_a_restore_that_the_database_refuses_half_way_changes_nothing_and_tells_nothing_of_anybody(
    house: House,
) -> None:
    house.backup("data")
    house.people.process.stop()
    before = house.stored(DATA)
    failing(house, "insert", 13, "restore", {"skip": 2})
    try:
        said = house.backup("restore", str(house.archive(DATA)), "--replace", ok=False)
    finally:
        failing(house, "insert", 0, "restore", "off")
    assert "not restored" in said
    assert house.stored(DATA) == before, "no staging is left either"
    assert house.acts()[-1]["changed"]["result"] == [None, "failed"]
    house.backup("restore", str(house.archive(DATA)), "--replace")
    house.people.process.start()


def test_each_run_removes_what_is_too_old_and_leaves_an_act(house: House) -> None:
    acts = len(house.acts())
    made: dict[str, dict[int, Path]] = {DATA: {}, KEYS: {}}
    for kind, days in ((DATA, (29, 31)), (KEYS, (6, 8))):
        for age in days:
            header = Header("people", kind, clock.now() - timedelta(days=age), snapshot=True)
            made[kind][age] = house.folders[kind] / archives.name(header)
            made[kind][age].touch(0o600)
    before = {kind: set(folder.iterdir()) for kind, folder in house.folders.items()}
    assert "has to go" in house.backup("list")
    for kind, old, new in ((DATA, 31, 4), (KEYS, 8, 1)):
        assert f"removed {made[kind][old].name}\n" in house.backup(kind)
        after = set(house.folders[kind].iterdir())
        assert before[kind] - after == {made[kind][old]}
        assert len(after - before[kind]) == new
    listed = house.backup("list")
    assert "has to go" not in listed
    assert len(listed.splitlines()) == sum(len(list(folder.iterdir())) for folder in house.folders.values())
    data, of_keys = house.acts()[acts:]
    assert [one["action"] for one in (data, of_keys)] == ["backup.data", "backup.keys"]
    assert {one["changed"]["result"][1] for one in (data, of_keys)} == {"done"}
    assert of_keys["changed"]["made"][1] == [house.archive(KEYS).name]
    assert of_keys["changed"]["removed"][1] == [made[KEYS][8].name]
    assert data["actor"].startswith("cli:")


def test_without_a_database_nothing_is_made_and_nothing_removed(house: House) -> None:
    before = set(house.folders[DATA].iterdir())
    away = "mongodb://127.0.0.1:1/?replicaSet=estation"
    assert "audit trail cannot be written" in house.backup("data", ok=False, ESTATION_MONGODB_URL=away)
    assert set(house.folders[DATA].iterdir()) == before


def test_data_and_keys_lie_apart_and_a_demo_key_seals_nothing_in_production(house: House) -> None:
    data = str(house.folders[DATA])
    for folder in (data, data + "/keys", str(house.folder), data + "/../data-backups"):
        assert "must lie apart" in house.backup("keys", ok=False, ESTATION_KEY_BACKUPS=folder)
    with_archives = house.folders[DATA] / "backup.key"
    archives.create_key(with_archives, demo=False)
    assert "must not lie with" in house.backup("data", ok=False, ESTATION_BACKUP_KEY=str(with_archives))
    with_archives.unlink()
    assert "must not lie with" in house.backup("data", ok=False, ESTATION_ERASURES=data)
    assert "ESTATION_KEY_BACKUPS" in house.backup("data", ok=False, ESTATION_KEY_BACKUPS="")
    production = {
        "ESTATION_MODE": "production",
        "ESTATION_ORIGIN": "https://e.example",
        "ESTATION_TOKEN_ISSUER": "https://e.example",
        "ESTATION_TOKEN_AUDIENCE": "e",
    }
    assert "demo key" in house.backup("data", ok=False, **production)
    assert "archives open with it" in house.backup("create-key", ok=False)


# The files of keys


def estation(environ: dict[str, str], *words: str, ok: bool = True) -> str:
    """``estation keys ...`` in this process."""
    done: Result = CliRunner().invoke(keys.keys, words, env={**dict.fromkeys(settings_named()), **environ})
    assert (done.exit_code == 0) == ok, done.output
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done.output


def settings_named() -> list[str]:
    return [name for name in os.environ if name.startswith("ESTATION_")]


@pytest.fixture
def environ(world: World, tmp_path: Path) -> dict[str, str]:
    """Settings of a house that has no keys yet."""
    places = {
        "ESTATION_KEYS": str(tmp_path / "secrets/keys"),
        "ESTATION_ERASURES": str(tmp_path / "erasures"),
        "ESTATION_SIGNING_KEYS": str(tmp_path / "secrets/signing.json"),
    }
    return {**world.environ("people"), **places}


def test_a_fresh_key_file_is_for_production_and_is_never_overwritten(environ: dict[str, str]) -> None:
    path = Path(environ["ESTATION_KEYS"]) / "people.json"
    assert "keep a copy" in estation(environ, "create", "people")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert KeyFile(path, production=True).federation_key
    before = path.read_bytes()
    assert "is there" in estation(environ, "create", "people", ok=False)
    assert path.read_bytes() == before
    path.unlink()
    estation(environ, "create", "people", "--no-federation")
    assert "federation" not in json.loads(path.read_bytes())


def made_earlier(path: Path, seconds: float) -> None:
    """Lets everything that a signing file notes be so much older."""
    document = json.loads(path.read_bytes())
    for times in (document["added"], document["replaced"]):
        for kid, at in times.items():
            times[kid] = clock.rfc3339(datetime.fromisoformat(at) - timedelta(seconds=seconds))
    path.write_text(json.dumps(document))
    moved = path.stat().st_mtime - seconds
    os.utime(path, (moved, moved))


def kids(path: Path) -> list[str]:
    return [key["kid"] for key in tokens.SigningKeys(path, production=True).public()["keys"]]


def test_signing_keys_change_without_a_token_that_is_refused(environ: dict[str, str], world: World) -> None:
    path = Path(environ["ESTATION_SIGNING_KEYS"])
    estation(environ, "signing", "create")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    [first] = kids(path)
    assert "is there" in estation(environ, "signing", "create", ok=False)
    estation(environ, "signing", "add")
    assert kids(path)[0] == first
    second = kids(path)[1]
    private = {part for key in json.loads(path.read_bytes())["keys"] for part in (key["d"],)}
    public = json.dumps(tokens.SigningKeys(path, production=True).public())
    assert not any(part in public for part in (*private, "added", "replaced"))
    jwks = world.folder / "published.json"
    jwks.write_text(public)
    verifier = TokenVerifier(settings.read({**environ, "ESTATION_JWKS": str(jwks)}))

    def token() -> str:
        account = {"_id": "somebody", "grants": [], "declared": ["worker"], "county": "370902"}
        known = settings.read(environ)
        signing = tokens.SigningKeys(path, production=True)
        return tokens.access_token(signing, known, account, {"_id": "login"}, "csrf", datetime.now(UTC))

    old = token()
    assert "not every service knows" in estation(environ, "signing", "use", second, ok=False)
    made_earlier(path, auth.KEYS_STALE_SECONDS - 30)
    left = re.search(r"wait (\d+) s", estation(environ, "signing", "use", second, ok=False))
    assert left is not None
    assert 0 < int(left[1]) < 31
    made_earlier(path, 31)
    assert "is the current key: " in estation(environ, "signing", "drop", first, ok=False)
    estation(environ, "signing", "use", second)
    assert "already" in estation(environ, "signing", "use", second, ok=False)
    assert {verifier.verify(one).id for one in (old, token())} == {"somebody"}
    assert "may still be good" in estation(environ, "signing", "drop", first, ok=False)
    assert "is the current key: " in estation(environ, "signing", "drop", second, ok=False)
    assert "is not in the file" in estation(environ, "signing", "drop", "nobody", ok=False)
    assert kids(path) == [first, second]
    made_earlier(path, auth.TOKEN_SECONDS + 1)
    estation(environ, "signing", "add")  # a later change of the file begins no new wait
    estation(environ, "signing", "drop", first)
    assert kids(path)[0] == second
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    database = mongo.connect(world.settings("people"), "operations", "test")
    with database.client:
        rows = list(database["audit"].find())
    assert [row["action"] for row in rows] == [f"keys.signing.{what}" for what in ("add", "use", "add", "drop")]
    assert not any(part in repr(rows) for part in private)


def test_somebody_whom_the_system_knows_by_number_alone_is_in_the_audit_trail(
    environ: dict[str, str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unknown(uid: int) -> None:
        raise KeyError(uid)

    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)
    estation(environ, "signing", "create")
    estation(environ, "signing", "add")
    database = mongo.connect(world.settings("people"), "operations", "test")
    with database.client:
        assert [row["actor"] for row in database["audit"].find()] == [f"cli:{os.getuid()}"]


def test_a_signing_file_made_by_hand_takes_part_and_haste_has_to_be_said(environ: dict[str, str]) -> None:
    path = Path(environ["ESTATION_SIGNING_KEYS"])
    path.parent.mkdir(parents=True)
    alone = tokens.new_key()
    path.write_text(json.dumps(alone))
    path.chmod(0o640)
    estation(environ, "signing", "add")
    first, second = kids(path)
    assert first == alone["kid"]
    estation(environ, "signing", "use", second, "--now")
    estation(environ, "signing", "drop", first, "--now")
    assert kids(path) == [second]
    assert stat.S_IMODE(path.stat().st_mode) == 0o640, "whoever could read it still can"


def test_rewrap_ends_only_when_a_whole_wait_passed_without_a_late_write(
    environ: dict[str, str], world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    estation(environ, "create", "people")
    known = settings.read(environ)
    database = mongo.connect(known, "people", "test")
    FileLedger(known.erasure_ledger("people")).create()
    path = known.key_file("people")
    aside = path.with_name("aside.json")
    aside.write_bytes(path.read_bytes())
    aside.chmod(0o600)
    slow = crypto.SubjectKeys(  # a writer that had the old master key in its hand
        crypto.keys_database(known, "people", database),
        KeyFile(aside, production=True),
        FileLedger(known.erasure_ledger("people")),
    )
    place = crypto.Place("persons", "name", "x")
    slow.encrypt("before", "x", place)
    waits: list[float] = []

    def writes_late(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) <= 3:
            slow.encrypt(f"late {len(waits)}", "x", place)

    monkeypatch.setattr("deploy.commands.keys.sleep", writes_late)
    old = json.loads(path.read_bytes())["current"]
    said = estation(environ, "rotate", "people", "--settle", "0.25")
    assert waits == [0.25] * 4
    current = json.loads(path.read_bytes())["current"]
    assert f"every person's key is under {current}" in said
    with database.client:
        assert slow.wrapped() == {current: 4}
        estation(environ, "retire", "people", old)
        acts = list(database.client[known.database("operations")]["audit"].find())
    assert [(row["action"], row["changed"]["result"][1]) for row in acts] == [
        ("keys.rotate", "done"),
        ("keys.retire", "done"),
    ]
    assert acts[1]["changed"]["key"] == [None, old]
    secrets = [*json.loads(path.read_bytes())["keys"].values(), *json.loads(aside.read_bytes())["keys"].values()]
    assert not any(secret in repr(acts) for secret in secrets)


def test_the_wait_outlasts_what_a_write_may_take() -> None:
    assert mongo._OPTIONS["timeoutMS"] / 1000 * 2 < keys.SETTLE_SECONDS
