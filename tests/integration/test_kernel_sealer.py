"""The audit chain on a real database: every row in one link whoever dies, and nothing tampered with goes unnamed.

``python -m tests.integration.test_kernel_sealer URL PREFIX`` seals without a lease and without end, to be killed.
"""

import contextlib
import json
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, Final

import pytest
from click.testing import CliRunner
from pymongo.database import Database
from pymongo.errors import OperationFailure

from deploy import audit_verify
from deploy.audit_verify import Report
from deploy.commands.audit import audit as command
from services.kernel import audit, ids, outbox
from services.kernel.audit import CHAIN, LOOKS
from services.kernel.audit_verifier import link_hash
from services.kernel.clock import Clock
from services.kernel.mongo import Document
from services.kernel.outbox import Write
from services.kernel.sealer import LINK_ROWS, Sealer, as_line, head, sealers
from services.kernel.settings import SettingError, Settings
from services.stations.store import AUDITED
from tests.builders import ID_NUMBER, NOON, officer, write
from tests.kernel import connected, failing
from tests.parts import PROJECT, Parts, World, free_port, until

NAME: Final = "stations"
APPNAME: Final = f"estation-{NAME}-test"
VERIFIER: Final = "audit_verifier.py"


@pytest.fixture
def known(parts: Parts) -> Settings:
    """Settings with databases of this test's own."""
    return Settings(mongodb_url=parts.mongodb_url, mongodb_prefix=f"tk_{ids.new()[-8:]}_")


@pytest.fixture
def database(known: Settings) -> Iterator[Database[Document]]:
    """An empty database of the stations service."""
    with connected(known, NAME, "test") as made:
        audit.ensure_indexes(made, AUDITED)
        yield made
        made.client.drop_database(made.name)


def sealer(database: Database[Document], holder: str = "test", *, now: Clock = lambda: NOON, **more: Any) -> Sealer:
    """A sealer of the stations service."""
    return Sealer(NAME, database, AUDITED, holder=holder, now=now, **more)


def seal_all(database: Database[Document]) -> int:
    """Seals until nothing waits; how many rows that were."""
    one, count = sealer(database), 0
    while sealed := one.seal():
        count += sealed
    return count


def verify(database: Database[Document], heads: Any = ()) -> Report:
    """Chain against documents."""
    return audit_verify.verify(NAME, database, AUDITED, heads)


def station(database: Database[Document], **changes: Any) -> Document:
    """A new station with its row, and one more for each change."""
    made, _ = outbox.insert(database["stations"], {"_id": ids.new(), "county": "370902", "name": "a"}, write())
    for name, value in changes.items():
        row = audit.row(
            officer(), f"station.{name}", at=NOON, reason="why", before={name: made.get(name)}, after={name: value}
        )
        made = outbox.update(database["stations"], made, Write(NOON, "", row), changes={name: value})
    return made


def checkin(**fields: Any) -> Document:
    """A check-in as the hot path inserts it."""
    return {
        "_id": ids.new(),
        "station": "s",
        "county": "370902",
        "people": 3,
        "status": "quarantined",
        "day": "2025-07-13",
        "reasons": ["device_clock_off"],
        "captured_at": NOON,
        "received_at": NOON,
        "recorded_at": NOON,
        "rev": 1,
        "seq": 1,
        "open": True,
        "unsealed": True,
        **fields,
    }


def approve(database: Database[Document], document: Document) -> Document:
    """An officer's act on a check-in."""
    before, after = {"status": document["status"]}, {"status": "approved", "happened_at": NOON}
    row = audit.row(officer(), "checkin.approve", at=NOON, before=before, after=after)
    return outbox.update(database["checkins"], document, Write(NOON, "", row), changes=after)


def links(database: Database[Document]) -> list[Document]:
    """The chain."""
    return list(database[CHAIN].find().sort("_id", 1))


def sealed_rows(database: Database[Document]) -> list[str]:
    """The ids of the rows in the chain, in order."""
    return [row["id"] for link in links(database) for row in link["rows"]]


# Sealing


def test_rows_are_chained_once_in_order_and_their_documents_know_the_link(database: Database[Document]) -> None:
    first = station(database, name="b")
    assert seal_all(database) == 2
    second = station(database)
    later = outbox.update(database["stations"], first, write(), changes={"name": "c"})
    assert seal_all(database) == 2
    assert seal_all(database) == 0
    one, two = links(database)
    assert (one["_id"], two["_id"], two["prev"]) == (1, 2, one["hash"])
    assert [row["id"] for row in one["rows"]] == [row["id"] for row in first["audit"]]
    assert {row["id"] for row in two["rows"]} == {later["audit"][2]["id"], second["audit"][0]["id"]}
    assert one["rows"][1]["row"] == first["audit"][1]
    kept = database["stations"].find_one({"_id": first["_id"]})
    assert kept is not None
    assert (kept["sealed"], kept["unsealed"], kept["rev"]) == ([1, 1, 2], False, later["rev"])
    report = verify(database)
    assert (report.rows, report.links, report.waiting, report.findings) == (4, 2, 0, [])


def test_a_row_written_while_its_document_is_sealed_waits_for_the_next_link(database: Database[Document]) -> None:
    made = station(database)
    one = sealer(database)
    overtaken = list(one._waiting())
    outbox.update(database["stations"], made, write(), changes={"name": "b"})
    one._waiting = lambda: iter(overtaken)  # type: ignore[method-assign]  # what was read before that write
    assert one.seal() == 1
    assert database["stations"].count_documents({"unsealed": True}) == 1
    assert verify(database).waiting == 1
    assert seal_all(database) == 1
    assert verify(database).findings == []


def test_many_checkins_share_a_link_and_keep_their_acts_apart(database: Database[Document]) -> None:
    database["checkins"].insert_many([checkin() for _ in range(LINK_ROWS + 10)])
    assert seal_all(database) == LINK_ROWS + 10
    assert [len(link["rows"]) for link in links(database)] == [LINK_ROWS, 10]
    approve(database, database["checkins"].find_one() or {})
    assert verify(database).waiting == 1
    assert seal_all(database) == 1
    report = verify(database)
    assert (report.rows, report.waiting, report.findings) == (LINK_ROWS + 11, 0, [])


def test_a_sealer_that_died_between_link_and_note_leaves_nothing_double(
    parts: Parts, database: Database[Document]
) -> None:
    station(database, name="b")
    with failing(parts.mongodb_url, APPNAME, "update", times=1, errorCode=8), pytest.raises(OperationFailure):
        sealer(database).seal()
    assert len(links(database)) == 1
    assert database["stations"].count_documents({"unsealed": True}) == 1
    assert verify(database).findings == [], "a link that is not yet noted is no tampering"
    station(database)
    assert seal_all(database) == 1
    assert len(set(sealed_rows(database))) == len(sealed_rows(database)) == 3
    assert verify(database).findings == []


def test_of_two_sealers_that_read_the_same_one_makes_the_link(database: Database[Document]) -> None:
    one, two = sealer(database), sealer(database)
    made = station(database)
    read_by_both = list(one._waiting())
    assert one.seal() == 1
    # the second was paused between its reading and its writing
    two._waiting = lambda: iter(read_by_both)  # type: ignore[method-assign]
    two._database = _Blind(database)  # type: ignore[assignment]
    assert two.seal() == 0
    assert sealed_rows(database) == [made["audit"][0]["id"]]


class _Blind:
    """A database whose chain looked empty a moment ago."""

    def __init__(self, database: Database[Document]) -> None:
        self._database = database

    def __getitem__(self, name: str) -> Any:
        return self if name == CHAIN else self._database[name]

    def find_one(self, **_how: Any) -> None:
        return None

    def insert_one(self, link: Document) -> None:
        self._database[CHAIN].insert_one(link)


@pytest.mark.slow
def test_killed_and_doubled_sealers_make_one_unbroken_chain(known: Settings, database: Database[Document]) -> None:
    seed = random.randrange(10**6)
    print(f"seed {seed}")  # noqa: T201 (shown when the test fails)
    chance = random.Random(seed)
    stop, written = threading.Event(), [0, 0]

    def write_on(place: int) -> None:
        made = station(database)
        written[place] += 1
        while not stop.is_set():
            documents = [checkin() for _ in range(20)]
            database["checkins"].insert_many(documents)
            approve(database, documents[0])
            made = outbox.update(database["stations"], made, write(), changes={"name": "x"})
            written[place] += 22
            time.sleep(0.01)  # about 4,000 rows a second would only be more of the same

    writers = [threading.Thread(target=write_on, args=(place,)) for place in range(2)]
    for writer in writers:
        writer.start()
    kills = 0
    with contextlib.ExitStack() as running:
        sealers = [running.enter_context(_sealing(known)) for _ in range(2)]
        while kills < 12:
            reached = (head(NAME, database) or {"n": 0})["n"]
            until(lambda reached=reached: (head(NAME, database) or {"n": 0})["n"] > reached, "a link more", 60)  # type: ignore[misc]
            time.sleep(chance.uniform(0, 0.1))  # the random point of the kill
            victim = chance.randrange(len(sealers))
            sealers[victim].kill()
            sealers[victim] = running.enter_context(_sealing(known))
            kills += 1
    stop.set()
    for writer in writers:
        writer.join()
    seal_all(database)
    rows = sealed_rows(database)
    assert len(rows) == len(set(rows)) == sum(written)
    report = verify(database)
    assert (report.rows, report.waiting, report.findings) == (sum(written), 0, [])


@contextlib.contextmanager
def _sealing(known: Settings) -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen([sys.executable, "-m", __name__, known.mongodb_url, known.mongodb_prefix], cwd=PROJECT)
    yield process
    process.kill()
    process.wait(10)


def test_a_running_sealer_seals_soon_and_survives_a_fault(parts: Parts, database: Database[Document]) -> None:
    one = sealer(database)
    thread = threading.Thread(target=one.run)
    thread.start()
    until(lambda: database["leases"].find_one({"_id": "sealer"}), "the lease")
    started = time.monotonic()
    station(database)
    until(lambda: database[CHAIN].count_documents({}), "a link")
    assert time.monotonic() - started < 2, "a second, and another for a busy machine"
    with failing(parts.mongodb_url, APPNAME, "insert", times=2, errorCode=8):
        # not through this test's own client, whose inserts fail too
        database["stations"].update_many({}, {"$set": {"unsealed": True}, "$push": {"audit": write().audit}})
        until(lambda: database[CHAIN].count_documents({}) == 2, "a link after the fault")
    one.stop()
    thread.join(10)
    assert not thread.is_alive()
    assert (database["leases"].find_one({"_id": "sealer"}) or {})["holder"] is None


def test_the_process_seals_every_service_and_needs_no_broker(world: World, tmp_path: Path) -> None:
    told = world.settings(NAME)
    with connected(told, NAME, "test") as database, connected(told, audit.OPERATIONS, "test") as operations:
        audit.ensure_indexes(database, AUDITED)
        audit.ensure_indexes(operations, audit.OPERATED)
        nowhere = f"amqp://x:y@127.0.0.1:{free_port()}/z"
        process = world.process(
            "sealer", ESTATION_RABBITMQ_URL=nowhere, ESTATION_AUDIT_HEADS=str(tmp_path / "heads")
        ).start()
        station(database)
        audit.keep(operations["audit"], audit.row(officer(), "dlq.replay", at=NOON))
        for name, chained in ((NAME, database), (audit.OPERATIONS, operations)):
            until(lambda chained=chained: chained[CHAIN].count_documents({}), f"a link of {name}")  # type: ignore[misc]
        until(lambda: process.metric("estation_audit_unsealed_oldest_seconds", service=NAME) == 0, "nothing waits")
        assert process.metric("estation_audit_sealed_rows_total", service=NAME) == 1
        assert process.stop() == 0
        assert {lease["holder"] for lease in database["leases"].find({"_id": "sealer"})} == {None}
        assert audit_verify.verify(audit.OPERATIONS, operations, audit.OPERATED).findings == []


def test_what_somebody_made_of_a_document_does_not_stop_the_sealer(database: Database[Document]) -> None:
    broken = [station(database)["_id"] for _ in range(4)]
    stations = database["stations"]
    stations.update_one({"_id": broken[0]}, {"$set": {"audit": "gone"}})
    stations.update_one({"_id": broken[1]}, {"$set": {"audit": [7, {"changed": 3}]}})
    stations.update_one({"_id": broken[2]}, {"$set": {"sealed": "x"}})
    stations.update_one({"_id": broken[3]}, {"$set": {"sealed": [1, 2]}})
    good = station(database)
    seal_all(database)
    assert good["audit"][0]["id"] in sealed_rows(database)
    assert stations.count_documents({"unsealed": True}) == 0


def test_the_head_is_kept_once_a_day_also_by_a_new_process(database: Database[Document], tmp_path: Path) -> None:
    file, day = tmp_path / "heads" / f"{NAME}.jsonl", timedelta(days=1)
    sealer(database, heads=file.parent)._keep_head()
    assert not file.exists()
    station(database)
    seal_all(database)
    for moment in (NOON, NOON, NOON + day, NOON):
        sealer(database, heads=file.parent, now=lambda moment=moment: moment)._keep_head()  # type: ignore[misc]
    kept = [json.loads(line) for line in file.read_text().splitlines()]
    assert [line.pop("kept") for line in kept] == ["2025-07-16", "2025-07-17"]
    assert kept[0] == head(NAME, database)
    assert kept[0] == {"service": NAME, "n": 1, "hash": links(database)[0]["hash"], "at": "2025-07-16T04:00:00.000Z"}
    (tmp_path / "file").touch()
    sealer(database, heads=tmp_path / "file")._keep_head()  # cannot be written: said, and sealing goes on


# Looks at personal data


def test_a_look_is_kept_before_and_sealed_without_what_was_seen(database: Database[Document]) -> None:
    audit.look(
        database, officer("o9"), "person.show", at=NOON, subjects=["p1"], fields=["phone", "name"], reason="call"
    )
    assert seal_all(database) == 1
    kept = database[LOOKS.collection].find_one() or {}
    assert (kept["actor"], kept["action"], kept["subjects"], kept["fields"]) == (
        "o9",
        "person.show",
        ["p1"],
        ["name", "phone"],
    )
    assert verify(database).findings == []
    database[LOOKS.collection].update_one({}, {"$set": {"actor": "somebody else"}})
    assert verify(database).findings == [f"audit_looks/{kept['_id']} row {kept['_id']}: changed"]


# Tampering


class Case:
    """A sealed database, what left the house, and both ways to check it."""

    def __init__(self, known: Settings, database: Database[Document], folder: Path) -> None:
        self.known, self.database, self.folder = known, database, folder
        self.stations = [station(database, name="b", state="open", opens="07:30") for _ in range(3)]
        seal_all(database)
        documents = [checkin() for _ in range(20)]
        database["checkins"].insert_many(documents)
        seal_all(database)
        self.approved = approve(database, documents[3])
        self.checkins = documents
        seal_all(database)
        self.last = station(database)
        seal_all(database)
        self.heads = folder / "earlier" / NAME / "chain.jsonl"
        self.export("earlier")
        self.found(0)

    def estation(self, *arguments: str) -> tuple[int, str]:
        """``estation audit ...``: exit code and output."""
        environ = {
            "ESTATION_MONGODB_URL": self.known.mongodb_url,
            "ESTATION_MONGODB_PREFIX": self.known.mongodb_prefix,
        }
        done = CliRunner().invoke(command, list(arguments), env=environ)
        assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
        return done.exit_code, done.output

    def export(self, name: str) -> Path:
        """An export of now."""
        code, told = self.estation("export", NAME, "--to", str(self.folder / name))
        assert code == 0, told
        return self.folder / name / NAME

    def outsider(self, folder: Path, *head: str) -> tuple[int, str]:
        """The exported verifier, in a Python that knows nothing of ours."""
        done = subprocess.run(
            [sys.executable, "-I", "-S", VERIFIER, ".", *head], cwd=folder, capture_output=True, text=True
        )
        assert not done.stderr, done.stderr
        return done.returncode, done.stdout

    def found(self, code: int, *texts: str, head: str | None = None, outside: bool = True) -> None:
        """Both checks end with the code and say the texts."""
        heads = ("--head", head or str(self.heads))
        checks: list[Callable[[], tuple[int, str]]] = [lambda: self.estation("verify", NAME, *heads)]
        if outside:
            checks.append(lambda: self.outsider(self.export(ids.new()), *heads))
        for check in checks:
            got, told = check()
            assert got == code, told
            for text in texts:
                assert text in told


@pytest.fixture
def case(known: Settings, database: Database[Document], tmp_path: Path) -> Case:
    """Four links, 34 rows."""
    return Case(known, database, tmp_path)


def rows_of(document: Document) -> list[str]:
    """The ids of the rows that ride in a document."""
    return [row["id"] for row in document["audit"]]


@pytest.mark.parametrize(
    ("name", "value"),
    [("reason", "other"), ("at", NOON + timedelta(milliseconds=1)), ("actor", "x"), ("changed.name", ["a", "c"])],
)
def test_a_changed_row_is_found(case: Case, name: str, value: object) -> None:
    case.database["stations"].update_one({"_id": case.stations[1]["_id"]}, {"$set": {f"audit.1.{name}": value}})
    case.found(1, f"stations/{case.stations[1]['_id']} row {rows_of(case.stations[1])[1]}: changed", "1 problems")
    assert f"changed ({name.partition('.')[0]})" in case.estation("verify", NAME)[1]


@pytest.mark.parametrize(
    ("which", "order"),
    [
        (0, {"$set": {"people": 4}}),
        (0, {"$set": {"status": "voided"}}),
        (0, {"$set": {"captured_at": NOON + timedelta(milliseconds=1)}}),
        (0, {"$set": {"reasons": []}}),
        (0, {"$set": {"new": 1}}),
        (0, {"$unset": {"station": ""}}),
        (3, {"$set": {"status": "quarantined"}}),
        (3, {"$set": {"status": "voided"}}),
        (3, {"$set": {"happened_at": NOON - timedelta(days=40)}}),
        (3, {"$set": {"people": 4}}),
    ],
)
def test_any_changed_field_of_a_checkin_is_found(case: Case, which: int, order: Document) -> None:
    id_ = case.checkins[which]["_id"]
    case.database["checkins"].update_one({"_id": id_}, order)
    case.found(1, f"checkins/{id_} row {id_}: changed", "1 problems")


def test_a_removed_row_is_found(case: Case) -> None:
    one = case.stations[0]
    case.database["stations"].update_one({"_id": one["_id"]}, {"$pull": {"audit": {"id": rows_of(one)[1]}}})
    case.found(1, f"stations/{one['_id']} row {rows_of(one)[1]}: removed")


def test_a_removed_document_is_found(case: Case) -> None:
    one, two = case.stations[0], case.checkins[7]
    case.database["stations"].delete_one({"_id": one["_id"]})
    case.database["checkins"].delete_one({"_id": two["_id"]})
    expected = [f"stations/{one['_id']} row {id_}: removed" for id_ in rows_of(one)]
    case.found(1, *expected, f"checkins/{two['_id']} row {two['_id']}: removed", "5 problems")


def test_reordered_rows_are_found(case: Case) -> None:
    one = case.stations[2]
    first, second, *others = one["audit"]
    case.database["stations"].update_one({"_id": one["_id"]}, {"$set": {"audit": [second, first, *others]}})
    case.found(1, *(f"row {row['id']}: reordered" for row in (first, second)), "2 problems")


def test_a_cut_tail_is_found(case: Case) -> None:
    case.database[CHAIN].delete_one({"_id": 4})
    case.found(1, "link 4: cut off", f"row {rows_of(case.last)[0]}: cut off")
    code, told = case.estation("verify", NAME)  # the document itself still says so
    assert code == 1
    assert f"stations/{case.last['_id']} row at place 0: sealed in link 4, but the chain ends at 3: cut off" in told


def test_a_tail_cut_with_all_its_traces_is_found_by_a_head_from_outside(case: Case) -> None:
    kept = head(NAME, case.database) or {}
    case.database[CHAIN].delete_one({"_id": 4})
    case.database["stations"].delete_one({"_id": case.last["_id"]})
    assert case.estation("verify", NAME)[0] == 0, "from inside nothing can be seen"
    case.found(1, f"row {rows_of(case.last)[0]}: cut off")
    case.found(1, "link 4: cut off", head=f"4:{kept['hash']}")


def rewrite(database: Database[Document]) -> None:
    """What somebody with all rights over the database would do after changing a document."""
    prev, sources = "0" * 64, {source.collection: source for source in AUDITED}
    for link in links(database):
        link["prev"] = prev
        for row in link["rows"]:
            document = database[row["in"]].find_one({"_id": row["of"]}) or {}
            row["sha256"] = audit.digest(audit.rows(sources[row["in"]], document)[row["k"]].content)
        prev = link["hash"] = link_hash(as_line(link))
        database[CHAIN].replace_one({"_id": link["_id"]}, link)


def test_a_rewritten_chain_is_found_by_a_head_from_outside(case: Case, tmp_path: Path) -> None:
    heads = tmp_path / "heads.jsonl"
    kept = [{"service": NAME, "n": link["_id"], "hash": link["hash"]} for link in links(case.database)]
    heads.write_text("".join(json.dumps(line) + "\n" for line in kept[::2]))
    id_ = case.checkins[5]["_id"]
    case.database["checkins"].update_one({"_id": id_}, {"$set": {"people": 500}})
    rewrite(case.database)
    assert case.estation("verify", NAME)[0] == 0, "from inside nothing can be seen"
    case.found(1, "link 2: rewritten", f"checkins/{id_} row {id_}: rewritten", "2 problems")
    case.found(1, "link 3: rewritten: not what left the house; in doubt is all after link 1", head=str(heads))
    case.found(1, "link 4: rewritten", head=f"4:{kept[3]['hash']}")


def test_a_tampered_link_is_found(case: Case) -> None:
    case.database[CHAIN].update_one({"_id": 2}, {"$set": {"rows.4.sha256": "0" * 64}})
    id_, copied = links(case.database)[1]["rows"][4]["id"], links(case.database)[0]["rows"][2]["id"]
    case.found(1, "link 2: changed", f"row {id_}: changed")
    case.database[CHAIN].update_one({"_id": 1}, {"$set": {"rows.2.row.reason": "x"}})
    assert f"link 1: changed: its copy of row {copied}" in case.estation("verify", NAME)[1]
    case.database[CHAIN].update_one({"_id": 2}, {"$unset": {"rows.4.sha256": ""}})
    code, told = case.estation("verify", NAME)
    assert code == 1
    assert "link 2: changed: it cannot be read" in told
    code, told = case.estation("export", NAME, "--to", str(case.folder / "broken"))
    assert (code, "cannot be read" in told) == (1, True)


def test_a_removed_link_is_found_and_its_rows_are_named(case: Case) -> None:
    case.database[CHAIN].delete_one({"_id": 2})
    case.found(1, "link 3: does not follow from link 1")
    _code, told = case.estation("verify", NAME)
    for document in case.checkins:
        assert f"checkins/{document['_id']} row at place 0: says that link 2 holds it, which does not" in told


def test_rows_put_in_behind_our_back_are_found(case: Case) -> None:
    one, two = case.stations[0], case.stations[1]
    row = write().audit
    case.database["stations"].update_one({"_id": one["_id"]}, {"$push": {"audit": row}})
    case.database["stations"].update_one({"_id": two["_id"]}, {"$push": {"audit": row, "sealed": 2}})
    forged = checkin(unsealed=False)
    case.database["checkins"].insert_one(forged)
    case.found(
        1,
        f"stations/{one['_id']} row {row['id']}: added",
        f"stations/{two['_id']} row at place 4: says that link 2 holds it, which does not",
        f"checkins/{forged['_id']} row {forged['_id']}: added",
        outside=False,
    )


def test_a_row_that_was_sealed_twice_is_found(case: Case) -> None:
    id_ = case.checkins[0]["_id"]
    case.database["checkins"].update_one({"_id": id_}, {"$set": {"unsealed": True}, "$unset": {"sealed": ""}})
    station(case.database)
    assert seal_all(case.database) == 2
    station(case.database)
    assert seal_all(case.database) == 1
    case.found(1, f"checkins/{id_} row at place 0: does not say that link 2 holds it, which does", outside=False)


def test_what_waits_is_not_missing(case: Case) -> None:
    station(case.database)
    case.found(0, "0 problems")
    assert "34 rows in 4 links, 1 not yet sealed, 0 problems" in case.estation("verify", NAME)[1]


def test_a_document_that_had_to_lose_its_content_keeps_its_rows(case: Case) -> None:
    kept = case.database["stations"].find_one({"_id": case.last["_id"]}, {"audit": 1, "sealed": 1, "unsealed": 1}) or {}
    case.database["stations"].replace_one({"_id": case.last["_id"]}, kept)
    case.found(0, "0 problems")


def test_verifying_a_system_that_goes_on_finds_nothing(case: Case) -> None:
    stop = threading.Event()

    def go_on() -> None:
        one = sealer(case.database)
        while not stop.is_set():
            documents = [checkin() for _ in range(20)]
            case.database["checkins"].insert_many(documents)
            approve(case.database, documents[0])
            one.seal()

    thread = threading.Thread(target=go_on)
    thread.start()
    try:
        for _ in range(8):
            assert verify(case.database).findings == []
    finally:
        stop.set()
        thread.join()


def test_an_export_holds_no_personal_value(case: Case) -> None:
    row = audit.row(
        officer(), "note.write", at=NOON, before={"phone": None}, after={"phone": ID_NUMBER}, personal=("phone",)
    )
    outbox.insert(
        case.database["stations"], {"_id": ids.new(), "county": "370902", "phone": ID_NUMBER}, Write(NOON, "", row)
    )
    seal_all(case.database)
    folder = case.export("canary")
    for file in folder.iterdir():
        assert ID_NUMBER not in file.read_text()
    assert row["id"] in (folder / "chain.jsonl").read_text()


def test_the_command_says_heads_and_refuses_what_it_cannot_use(case: Case) -> None:
    code, told = case.estation("head")
    assert (code, json.loads(told)) == (0, head(NAME, case.database))
    assert case.estation("verify", "--head", "1:x")[0] == 2
    code, told = case.estation("verify", NAME, "--head", "nowhere.jsonl")
    assert (code, "neither N:HASH nor a file" in told) == (2, True)


if __name__ == "__main__":
    url, prefix = sys.argv[1:]
    with connected(Settings(mongodb_url=url, mongodb_prefix=prefix), NAME, "sealing") as opened:
        endless = sealer(opened)
        while True:
            endless.seal()


def test_in_production_the_heads_have_to_leave_the_house() -> None:
    with pytest.raises(SettingError, match="ESTATION_AUDIT_HEADS"):
        sealers(Settings(mode="production"), {"stations": AUDITED}, "test")
