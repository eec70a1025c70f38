"""Personal data on a real database: sealed, found, erased for good, re-wrapped while everybody works."""

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import bson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymongo import MongoClient, monitoring
from pymongo.database import Database

from services.kernel import crypto, ids
from services.kernel.crypto import Erased, Personal, PersonalFields, Place, SubjectKeys, keys_database
from services.kernel.erasure import Erasure, FileLedger, LedgerUnreadable
from services.kernel.masterkeys import KeyFile, Undecryptable, create_key_file, rotate_key_file
from services.kernel.mongo import Document
from tests.builders import NOON
from tests.kernel import connected
from tests.parts import Parts, World

SERVICE = "people"
NAME, PHONE, PLACE = "欧阳娜娜", "+8613800138000", Place("accounts", "name", "1")
FIELDS = {"name": Personal(index=True), "phone": Personal(index=True), "address": Personal()}


@dataclass
class Vault:
    """A service's databases, key file and ledger, and as many processes over them as a test likes."""

    folder: Path
    data: Database[Document]
    rows: Database[Document]
    now: list[float] = field(default_factory=lambda: [1000.0])
    """The monotonic clock of every process."""

    def __post_init__(self) -> None:
        create_key_file(self.key_path, demo=True, federation=False)
        self.ledger.create()

    @property
    def key_path(self) -> Path:
        """The key file."""
        return self.folder / "keys.json"

    @property
    def ledger(self) -> FileLedger:
        """The erasure ledger."""
        return FileLedger(self.folder / "ledger.jsonl")

    def file(self) -> KeyFile:
        """The keys as a process reads them."""
        return KeyFile(self.key_path, production=False)

    def process(self, management: KeyFile | None = None, **more: Any) -> SubjectKeys:
        """The keys as one process has them, with a cache of its own."""
        return SubjectKeys(
            self.rows, management or self.file(), self.ledger, now=lambda: NOON, monotonic=lambda: self.now[0], **more
        )

    def fields(self, keys: SubjectKeys | None = None, *, service: str = SERVICE) -> PersonalFields:
        """The personal fields of the accounts."""
        return PersonalFields(service, "accounts", FIELDS, keys=keys or self.process(), index_key=self.file().index_key)

    def sealed(self, subject: str, **values: str | None) -> Document:
        """A document with a person's values."""
        id_ = ids.new()
        document = {"_id": id_, "rev": 1, **self.fields().seal(subject, id_, values)}
        self.data["accounts"].insert_one(document)
        return document

    def row(self, subject: str) -> Document | None:
        """What the database has of a key."""
        return self.rows[crypto.COLLECTION].find_one({"_id": subject})


@pytest.fixture(scope="module")
def home(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    world = World(parts, Path(tmp_path_factory.mktemp("crypto")))
    yield world
    world.close()


@pytest.fixture
def vault(home: World, tmp_path: Path) -> Iterator[Vault]:
    settings = home.settings("stations")
    with connected(settings, SERVICE, "test") as database:
        found = Vault(tmp_path, database, keys_database(settings, SERVICE, database))
        found.process().ensure_indexes()
        found.fields().ensure_indexes(database["accounts"])
        yield found
        database["accounts"].drop()
        found.rows[crypto.COLLECTION].drop()


def bytes_of(*databases: Database[Document]) -> bytes:
    """A dump of whole databases."""
    return b"".join(
        bson.encode(document)
        for database in databases
        for name in sorted(database.list_collection_names())
        for document in database[name].find()
    )


class TestSealing:
    """Values under the key of their person."""

    def test_what_was_sealed_opens_in_any_process(self, vault: Vault) -> None:
        keys, other = vault.process(), vault.process()

        @given(st.text(), st.sampled_from(["person-1", "person-2", "人"]))
        def opens(value: str, subject: str) -> None:
            token = keys.encrypt(subject, value, PLACE)
            assert keys.decrypt(subject, token, PLACE) == other.decrypt(subject, token, PLACE) == value

        opens()
        assert vault.rows[crypto.COLLECTION].count_documents({}) == 3

    @pytest.mark.parametrize(
        "place", [Place("accounts", "name", "2"), Place("accounts", "x", "1"), Place("x", "name", "1")]
    )
    def test_a_token_that_was_moved_does_not_open(self, vault: Vault, place: Place) -> None:
        keys = vault.process()
        token = keys.encrypt("person-1", NAME, PLACE)
        with pytest.raises(Undecryptable):
            keys.decrypt("person-1", token, place)

    def test_a_token_of_somebody_else_does_not_open(self, vault: Vault) -> None:
        keys = vault.process()
        token = keys.encrypt("person-1", NAME, PLACE)
        keys.encrypt("person-2", NAME, PLACE)
        with pytest.raises(Undecryptable):
            keys.decrypt("person-2", token, PLACE)
        with pytest.raises(Undecryptable):
            keys.decrypt("person-3", token, PLACE)
        assert vault.row("person-3") is None, "reading makes no keys"

    def test_a_key_that_was_moved_to_somebody_else_does_not_unwrap(self, vault: Vault) -> None:
        for subject in ("person-1", "person-2"):
            vault.process().encrypt(subject, NAME, PLACE)
        first = vault.row("person-1")
        assert first
        vault.rows[crypto.COLLECTION].update_one({"_id": "person-2"}, {"$set": {"key": first["key"]}})
        with pytest.raises(Undecryptable):
            vault.process().encrypt("person-2", NAME, PLACE)

    def test_of_many_first_values_at_once_every_one_opens(self, vault: Vault) -> None:
        for subject in (ids.new() for _ in range(10)):
            processes = [vault.process() for _ in range(8)]
            together = threading.Barrier(len(processes))

            def first(keys: SubjectKeys, subject: str = subject, together: threading.Barrier = together) -> bytes:
                together.wait()
                return keys.encrypt(subject, NAME, PLACE)

            with ThreadPoolExecutor(len(processes)) as pool:
                tokens = list(pool.map(first, processes))
            reader = vault.process()
            assert {reader.decrypt(subject, token, PLACE) for token in tokens} == {NAME}

    def test_the_databases_hold_neither_value_nor_key(self, vault: Vault) -> None:
        document = vault.sealed("person-1", name=NAME, phone=PHONE, address="岱宗大街一号")
        dump = bytes_of(vault.data, vault.rows)
        row = vault.row("person-1")
        assert row
        assert document["name"] in dump
        assert row["key"] in dump
        assert vault.file().unwrap(row["kek"], row["key"], "person-1") not in dump
        for value in (NAME, PHONE, PHONE[3:], "岱宗大街"):
            assert value.encode() not in dump


class TestErasing:
    """A key that is destroyed takes everything with it."""

    def test_nothing_opens_any_more_and_nothing_is_added(self, vault: Vault) -> None:
        keys = vault.process()
        token = keys.encrypt("person-1", NAME, PLACE)
        keys.shred("person-1")
        for process in (keys, vault.process()):
            with pytest.raises(Erased):
                process.decrypt("person-1", token, PLACE)
            with pytest.raises(Erased):
                process.encrypt("person-1", NAME, PLACE)
        assert vault.row("person-1") == {"_id": "person-1", "created_at": NOON, "shredded_at": NOON}
        assert list(vault.ledger.all()) == [Erasure("person-1", NOON)]

    def test_other_processes_forget_the_key_in_time(self, vault: Vault) -> None:
        keys, other = vault.process(), vault.process()
        token = keys.encrypt("person-1", NAME, PLACE)
        assert other.decrypt("person-1", token, PLACE) == NAME
        keys.shred("person-1")
        vault.now[0] += crypto.CACHE_SECONDS - 0.1
        assert other.decrypt("person-1", token, PLACE) == NAME, "this is what the cache is for"
        vault.now[0] += 0.1
        with pytest.raises(Erased):
            other.decrypt("person-1", token, PLACE)
        assert crypto.CACHE_SECONDS <= 60

    def test_using_a_key_does_not_keep_it(self, vault: Vault) -> None:
        keys, other = vault.process(), vault.process()
        token = keys.encrypt("person-1", NAME, PLACE)
        other.decrypt("person-1", token, PLACE)
        keys.shred("person-1")
        for _ in range(10):
            vault.now[0] += crypto.CACHE_SECONDS / 10
            try:
                other.encrypt("person-1", NAME, PLACE)
                other.prefetch(["person-1"])
            except Erased:
                break
        else:
            pytest.fail("the key was used for ever")

    def test_a_key_that_came_slowly_is_not_kept_longer(self, vault: Vault) -> None:
        class Slow(KeyFile):
            """Unwraps as long as a key is kept."""

            def unwrap(self, key_id: str, wrapped: bytes, context: str) -> bytes:
                vault.now[0] += crypto.CACHE_SECONDS
                return super().unwrap(key_id, wrapped, context)

        keys = vault.process()
        token = keys.encrypt("person-1", NAME, PLACE)
        slow = vault.process(Slow(vault.key_path, production=False))
        assert slow.decrypt("person-1", token, PLACE) == NAME
        keys.shred("person-1")
        with pytest.raises(Erased):
            slow.decrypt("person-1", token, PLACE)

    def test_it_may_be_done_again(self, vault: Vault) -> None:
        for _ in range(3):
            vault.process().shred("person-1")
        assert len(list(vault.ledger.all())) == 1

    def test_who_had_no_key_yet_gets_none(self, vault: Vault) -> None:
        vault.process().shred("person-1")
        with pytest.raises(Erased):
            vault.process().encrypt("person-1", NAME, PLACE)

    def test_without_a_ledger_nothing_is_destroyed(self, vault: Vault) -> None:
        keys = vault.process()
        token = keys.encrypt("person-1", NAME, PLACE)
        vault.ledger._path.unlink()
        with pytest.raises(LedgerUnreadable):
            keys.shred("person-1")
        assert vault.process().decrypt("person-1", token, PLACE) == NAME
        with pytest.raises(LedgerUnreadable):
            keys.replay(list)

    def test_what_was_written_down_only_is_finished_by_a_replay(self, vault: Vault) -> None:
        """As after a kill between the two."""
        token = vault.process().encrypt("person-1", NAME, PLACE)
        vault.ledger.append(Erasure("person-1", NOON))
        assert vault.process().replay(list) == 1
        with pytest.raises(Erased):
            vault.process().decrypt("person-1", token, PLACE)


def backup(*databases: Database[Document]) -> Callable[[], None]:
    """Copies whole databases; what it returns puts them back as they were."""
    copies = {
        (database, name): [bson.encode(document) for document in database[name].find()]
        for database in databases
        for name in database.list_collection_names()
    }

    def restore() -> None:
        for database in databases:
            for name in database.list_collection_names():
                database[name].delete_many({})
        for (database, name), documents in copies.items():
            if documents:
                database[name].insert_many([bson.decode(document) for document in documents])

    return restore


class TestRestoring:
    """A restored backup brings nobody back."""

    def test_a_restored_older_backup_is_erased_again(self, vault: Vault) -> None:
        people = {subject: vault.sealed(subject, name=NAME, phone=PHONE) for subject in ("stays", "leaves", "left")}
        restore = backup(vault.data, vault.rows)
        vault.sealed("came later", name=NAME)
        for subject in ("left", "leaves", "came later"):
            vault.process().shred(subject)
            vault.fields().forget(vault.data["accounts"], [subject])
        restore()

        def opened(subject: str) -> dict[str, str | None]:
            document = vault.data["accounts"].find_one({"_id": people[subject]["_id"]})
            assert document
            return vault.fields().open(document)

        assert opened("leaves") == {"name": NAME, "phone": PHONE}, "the backup brought the person back"
        keys, accounts = vault.process(), vault.data["accounts"]
        assert keys.decrypt("left", people["left"]["name"], Place("accounts", "name", people["left"]["_id"])) == NAME
        assert keys.replay(lambda subjects: vault.fields(keys).forget(accounts, subjects)) == 2

        assert opened("stays") == {"name": NAME, "phone": PHONE}
        nothing = {"name": None, "phone": None, "address": None}
        assert opened("leaves") == opened("left") == nothing
        with pytest.raises(Erased):
            keys.decrypt("left", people["left"]["name"], Place("accounts", "name", people["left"]["_id"]))
        with pytest.raises(Erased):
            vault.process().encrypt("came later", NAME, PLACE)
        dump = bytes_of(vault.data, vault.rows)
        stays = people["stays"]
        for subject in ("leaves", "left"):
            assert vault.row(subject) == {"_id": subject, "created_at": NOON, "shredded_at": NOON}
            assert people[subject]["name"] not in dump
            assert people[subject]["phone"] not in dump
        assert dump.count(stays["name_index"].encode()) == 1, "the same name of three people: one is still found"
        assert accounts.count_documents({}) == 3, "counts stay"

    def test_a_second_replay_finds_nothing_to_do(self, vault: Vault) -> None:
        vault.sealed("person-1", name=NAME)
        vault.process().shred("person-1")
        cleared: list[int] = []

        def forget(subjects: Sequence[str]) -> None:
            cleared.append(vault.fields().forget(vault.data["accounts"], subjects))

        assert [vault.process().replay(forget) for _ in range(3)] == [0, 0, 0]
        assert cleared == [1, 0, 0]

    def test_a_long_ledger_is_replayed_to_its_end(self, vault: Vault, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(crypto, "REPLAY_BATCH", 7)
        keys = vault.process()
        subjects = [f"person-{number}" for number in range(50)]
        for subject in subjects:
            keys.encrypt(subject, NAME, PLACE)
        for subject in [*subjects[:40], *subjects[:10]]:
            vault.ledger.append(Erasure(subject, NOON))
        batches: list[str] = []
        assert keys.replay(batches.extend) == 40
        assert set(batches) == set(subjects[:40])
        rows = vault.rows[crypto.COLLECTION]
        assert {row["_id"] for row in rows.find({"key": {"$exists": True}})} == set(subjects[40:])
        with pytest.raises(Erased):
            keys.encrypt(subjects[0], NAME, PLACE)


class TestRewrapping:
    """The master key changes while everybody works."""

    def test_nobody_notices_a_new_master_key(self, vault: Vault) -> None:
        subjects = [f"person-{number}" for number in range(300)]
        keys = vault.process()
        tokens = {subject: keys.encrypt(subject, subject, PLACE) for subject in subjects}
        old, stop, done = vault.file().current, threading.Event(), [0] * 4
        started = threading.Barrier(5)

        def works(worker: int) -> None:
            started.wait()
            while not stop.is_set() or done[worker] < 300:
                keys = vault.process()  # an empty cache: every key is read and unwrapped
                for subject in subjects[worker::4]:
                    assert keys.decrypt(subject, tokens[subject], PLACE) == subject
                    new = f"{subject}/{worker}/{done[worker]}"
                    tokens[new] = keys.encrypt(new, new, PLACE)
                    assert keys.decrypt(new, tokens[new], PLACE) == new
                    done[worker] += 1

        with ThreadPoolExecutor(4) as pool:
            workers = [pool.submit(works, worker) for worker in range(4)]
            started.wait()
            current = rotate_key_file(vault.key_path)
            counts: list[int] = []
            try:
                while not counts or counts[-1]:
                    counts.append(vault.process().rewrap(50))
            finally:
                stop.set()
            for worker in workers:
                worker.result()
        while vault.process().rewrap():  # whoever wrapped in the very moment of the change
            pass
        assert len(counts) >= 300 / 50
        assert min(done) >= 300
        assert vault.rows[crypto.COLLECTION].distinct("kek") == [current]
        self.retire(vault, old)
        keys = vault.process()
        for subject, token in tokens.items():
            assert keys.decrypt(subject, token, PLACE) == subject

    def test_it_ends_and_may_run_again_and_twice_at_once(self, vault: Vault) -> None:
        keys = vault.process()
        for number in range(10):
            keys.encrypt(f"person-{number}", NAME, PLACE)
        rotate_key_file(vault.key_path)
        with ThreadPoolExecutor(4) as pool:
            left = list(pool.map(lambda _: vault.process().rewrap(10), range(4)))
        assert min(left) == 0
        assert [vault.process().rewrap(4) for _ in range(2)] == [0, 0]
        rotate_key_file(vault.key_path)
        assert [vault.process().rewrap(4) for _ in range(4)] == [6, 2, 0, 0]

    def test_a_key_that_is_destroyed_meanwhile_stays_destroyed(self, vault: Vault) -> None:
        class Interrupted(KeyFile):
            """The person leaves while the key is in hand."""

            def wrap(self, plain: bytes, context: str) -> tuple[str, bytes]:
                vault.process().shred(context)
                return super().wrap(plain, context)

        vault.process().encrypt("person-1", NAME, PLACE)
        rotate_key_file(vault.key_path)
        assert vault.process(Interrupted(vault.key_path, production=False)).rewrap() == 0
        found = vault.row("person-1")
        assert found
        assert set(found) == {"_id", "created_at", "shredded_at"}

    def test_a_master_key_that_is_missing_is_named_and_nothing_is_lost(self, vault: Vault) -> None:
        token = vault.process().encrypt("person-1", NAME, PLACE)
        old, whole = vault.file().current, vault.key_path.read_bytes()
        rotate_key_file(vault.key_path)
        self.retire(vault, old)
        for act in (lambda: vault.process().rewrap(), lambda: vault.process().decrypt("person-1", token, PLACE)):
            with pytest.raises(Undecryptable, match=old):
                act()
        vault.key_path.write_bytes(whole)
        assert vault.process().decrypt("person-1", token, PLACE) == NAME

    @staticmethod
    def retire(vault: Vault, id_: str) -> None:
        """Takes a master key out of the file, as an operator does."""
        document = json.loads(vault.key_path.read_text())
        del document["keys"][id_]
        vault.key_path.write_text(json.dumps(document))


class TestFields:
    """What a service declares once."""

    def test_a_document_is_found_by_the_value_of_a_field(self, vault: Vault) -> None:
        wanted = vault.sealed("person-1", name=NAME, phone=PHONE)
        vault.sealed("person-2", name=NAME, phone="+8613900139000")
        accounts, fields = vault.data["accounts"], vault.fields()
        assert [one["_id"] for one in accounts.find(fields.where("phone", PHONE))] == [wanted["_id"]]
        assert accounts.count_documents(fields.where("name", NAME)) == 2
        assert accounts.count_documents(fields.where("name", PHONE)) == 0
        assert accounts.count_documents(vault.fields(service="care").where("phone", PHONE)) == 0
        plan = accounts.find(fields.where("phone", PHONE)).explain()["queryPlanner"]["winningPlan"]
        assert plan["inputStage"]["indexName"] == "phone_index"
        theirs = accounts.find({"subject": "person-1"}).explain()["queryPlanner"]["winningPlan"]
        assert theirs["inputStage"]["indexName"] == "subject_1", "so that a person is forgotten quickly"
        with pytest.raises(KeyError):
            fields.where("address", "岱宗大街一号")

    def test_a_part_inserts_changes_and_clears(self, vault: Vault) -> None:
        document = vault.sealed("person-1", name=NAME, phone=PHONE)
        accounts, fields = vault.data["accounts"], vault.fields()
        part = fields.seal("person-1", document["_id"], {"phone": None, "address": "x"})
        assert set(part) == {"subject", "phone", "phone_index", "address"}
        accounts.update_one({"_id": document["_id"]}, {"$set": part})
        found = accounts.find_one({"_id": document["_id"]})
        assert found
        assert fields.open(found) == {"name": NAME, "phone": None, "address": "x"}
        assert accounts.count_documents(fields.where("phone", PHONE)) == 0

    def test_a_field_that_was_not_declared_is_refused(self, vault: Vault) -> None:
        with pytest.raises(KeyError):
            vault.fields().seal("person-1", "1", {"nickname": "x"})

    def test_a_document_with_another_documents_token_does_not_open(self, vault: Vault) -> None:
        mine, other = (vault.sealed("person-1", name=name) for name in (NAME, "张三"))
        with pytest.raises(Undecryptable):
            vault.fields().open({**mine, "name": other["name"]})

    def test_a_page_costs_one_query_and_shows_who_was_erased_as_nothing(self, vault: Vault, parts: Parts) -> None:
        documents = [vault.sealed(f"person-{number}", name=f"{NAME}{number}") for number in range(20)]
        vault.process().shred("person-7")
        seen: list[str] = []

        class Listener(monitoring.CommandListener):
            """Notes every command."""

            def started(self, event: monitoring.CommandStartedEvent) -> None:
                seen.append(event.command_name)

            def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
                """Nothing to note."""

            def failed(self, event: monitoring.CommandFailedEvent) -> None:
                """Nothing to note."""

        with MongoClient[Document](parts.mongodb_url, event_listeners=[Listener()]) as client:
            keys = SubjectKeys(client[vault.rows.name], vault.file(), vault.ledger)
            opened = vault.fields(keys).open_all(documents)
            assert opened == [{"name": None if n == 7 else f"{NAME}{n}"} for n in range(20)]
            assert seen.count("find") == 2, "one for the page, one for whoever was erased"
            vault.fields(keys).open_all([one for one in documents if one["subject"] != "person-7"])
            assert seen.count("find") == 2, "now all are at hand"

    def test_a_document_may_name_its_person_otherwise(self, vault: Vault) -> None:
        keys = vault.process()
        fields = PersonalFields(
            SERVICE, "children", {"name": Personal()}, keys=keys, index_key=bytes(32), subject="child"
        )
        part = fields.seal("person-1", "1", {"name": NAME})
        assert fields.open({"_id": "1", **part}) == {"name": NAME}
        assert part["child"] == "person-1"

    @pytest.mark.parametrize("names", [("a|b", "c", "d"), ("a", "b|c", "d"), ("a", "b", "c|d")])
    def test_names_cannot_run_into_one_another(self, vault: Vault, names: tuple[str, str, str]) -> None:
        service, collection, name = names
        with pytest.raises(ValueError, match=r"\|"):
            PersonalFields(service, collection, {name: Personal()}, keys=vault.process(), index_key=bytes(32))
