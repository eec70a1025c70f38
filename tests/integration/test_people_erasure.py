"""Erasure over the services, on a real broker: nothing of the person is left anywhere, counts stay, backups obey."""

import json
import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from typing import Any

import bson
import pytest
from pymongo import MongoClient

from services.kernel import clock, masterkeys, mongo, telemetry
from services.kernel.act import Act
from services.kernel.errors import Conflict, Gone
from services.kernel.mongo import Document
from services.metrics import store as metrics_store
from services.people import rules
from services.people.handlers import erasure, grants, logins, notices, persons
from services.people.store import Store
from tests.builders import id_number, officer
from tests.integration.stations_api import Stations
from tests.integration.test_people_persons import Somebody
from tests.parts import PROJECT, World, outside, until
from tests.people import People

NAME, PHONE, CHILD = "司马长风", "13805487777", "司马小雨"
NUMBER, CHILD_NUMBER = id_number(1), id_number(2, date(2018, 6, 1))
NO_TRACE = telemetry.continued(None)
SECRETS = (NAME, PHONE, CHILD, NUMBER, CHILD_NUMBER)


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    """People with its relay, beside metrics' aggregator."""
    with People(shared_world) as running:
        shared_world.process("relay", "people").start()
        database = mongo.connect(shared_world.settings("metrics"), "metrics", "test")
        metrics_store.ensure_indexes(database)
        database.client.close()
        shared_world.process("aggregator").start()
        yield running


@pytest.fixture(scope="module")
def stations(people: People) -> Iterator[Stations]:
    """Stations with its relay."""
    with Stations(people.world) as running:
        yield running


class Everything:
    """All databases of a world, read as bytes."""

    def __init__(self, people: People) -> None:
        self._client: MongoClient[Document] = people.database.client
        self._prefix = people.world.prefix

    def names(self) -> list[str]:
        """Of the world's databases."""
        return [name for name in self._client.list_database_names() if name.startswith(self._prefix)]

    def holding(self, *needles: str | bytes) -> set[str]:
        """Where one of the needles stands in a document."""
        wanted = [one.encode() if isinstance(one, str) else one for one in needles]
        return {
            f"{name}.{collection}"
            for name in self.names()
            for collection in self._client[name].list_collection_names()
            for document in self._client[name][collection].find()
            if any(one in bson.encode(document) for one in wanted)
        }

    def copy(self, name: str) -> dict[str, list[Document]]:
        """A database as a backup would have it."""
        database = self._client[name]
        return {one: list(database[one].find()) for one in database.list_collection_names()}

    def restore(self, name: str, copy: dict[str, list[Document]]) -> None:
        """Puts a copy in the place of what is there."""
        for collection, documents in copy.items():
            self._client[name][collection].delete_many({})
            if documents:
                self._client[name][collection].insert_many(documents)


def commands(people: People, *words: str, ok: bool = True) -> str:
    """``estation ...`` against this world."""
    environ = {**outside(), **people.world.environ("people"), **people.files}
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", *words], cwd=PROJECT, env=environ, capture_output=True, text=True
    )
    assert (done.returncode == 0) == ok, done.stdout + done.stderr
    return done.stdout + done.stderr


def full(people: People) -> Somebody:
    """Somebody of whom everything is known that may be."""
    me = Somebody(people)
    body = {"name": NAME, "id_number": NUMBER, "phone": PHONE, "consent": True}
    assert me.call("PUT", "/me/person", body).status == 200
    assert me.call("POST", "/me/consents/sms").status == 200
    child = {"name": CHILD, "id_number": CHILD_NUMBER, "consent": True}
    assert me.call("POST", "/children", child, Idempotency_Key="k" * 20).status == 201
    notices.tell(people.store, people.store.own_account(me.id), "role_granted", clock.now(), "", params={"role": "ops"})
    people.session(me.id)
    return me


def traces(people: People, me: Somebody) -> list[str | bytes]:
    """What would lead back to somebody: plain values, blind indexes, person_refs, hashes of logins."""
    person: Any = people.database["persons"].find_one({"_id": me.id})
    child: Any = people.database["children"].find_one({"account": me.id})
    account: Any = people.database["accounts"].find_one({"_id": me.id})
    kept = [person[name] for name in ("name_index", "id_number_index", "phone_index", "ref")]
    kept += [child["name_index"], child["id_number_index"], child["ref"], *account["logins"]]
    return [*SECRETS, *kept, *(bytes(person[name]) for name in ("name", "id_number", "phone")), bytes(child["name"])]


def accounts_counted(people: People) -> int:
    """The accounts as metrics counts them."""
    rows = people.database.client[people.world.prefix + "metrics"]["rollups"].find({"measure": "people.accounts"})
    return sum(row["value"] for row in rows)


def test_after_delete_me_nothing_of_the_person_is_in_any_database_and_a_restored_backup_is_shredded_again(
    people: People, stations: Stations
) -> None:
    del stations  # it has to run
    everything = Everything(people)
    me, bystander = full(people), Somebody(people)
    bystander.call("PUT", "/me/person", {"name": "诸葛明", "id_number": id_number(3), "phone": PHONE, "consent": True})
    left = traces(people, me)
    assert everything.holding(*SECRETS) == set(), "sealed from the beginning"
    assert everything.holding(*left) == {
        people.world.prefix + name for name in ("people.persons", "people.children", "people.accounts")
    }
    backup = {name: everything.copy(name) for name in everything.names() if "people" in name}
    counted = {name: people.database[name].count_documents({}) for name in ("accounts", "persons", "children")}
    until(lambda: accounts_counted(people) >= 2, "metrics has counted the accounts")
    before = accounts_counted(people)

    answer = me.call("DELETE", "/me")
    assert answer.status == 202, answer.text
    assert answer.json["held"] == [{"what": "audit_trail", "until": None}]
    receipt = answer.headers["Location"]
    until(lambda: people.browser().call("GET", receipt).json["state"] == "completed", "every service has confirmed", 60)
    assert people.browser().call("GET", receipt).json["waits"] == []
    phone_of_others = [one for one in left if one != phone_index(people, bystander)]
    assert everything.holding(*phone_of_others) == set()
    assert everything.holding(phone_index(people, bystander)) == {people.world.prefix + "people.persons"}
    assert {name: people.database[name].count_documents({}) for name in counted} == counted, "tombstones stay"
    until(lambda: accounts_counted(people) == before - 1, "metrics counts one account less")
    refused = me.identify(NUMBER)
    assert (refused.status, refused.code) == (409, "person_erased")
    assert bystander.call("GET", "/me/person").json["name"] == "诸葛明"

    for name, copy in backup.items():
        everything.restore(name, copy)
    assert everything.holding(*left) != set()
    assert me.call("GET", "/me/person").json["name"] == NAME, "the running service has the key at hand again"
    assert commands(people, "erasures", "replay") == "people: 1 keys destroyed again\n"
    assert everything.holding(*phone_of_others) == set()
    assert commands(people, "erasures", "replay") == "people: 0 keys destroyed again\n"
    assert f"people {me.id} " in commands(people, "erasures", "list")
    assert people.store.open_sessions(me.id) == []
    assert bystander.call("GET", "/me/person").json["name"] == "诸葛明"
    again = me.identify(NUMBER)
    assert (again.status, again.code) == (409, "person_erased")


def phone_index(people: People, somebody: Somebody) -> str:
    found: Any = people.database["persons"].find_one({"_id": somebody.id})
    return str(found["phone_index"])


@pytest.mark.parametrize("dies_after", ["the decision", "the sessions", "the key"])
def test_what_a_killed_process_began_is_finished(people: People, dies_after: str, monkeypatch: Any) -> None:
    me = full(people)
    people.database["persons"].update_one({"_id": me.id}, {"$set": {"ref": None}})  # the next one has the same number
    act = people.act(me.id)

    def dies(*_args: object, **_kwargs: object) -> None:
        raise KeyboardInterrupt

    vault = people.vault
    with monkeypatch.context() as patched:
        if dies_after == "the decision":
            patched.setattr(logins, "end_all_sessions", dies)
        elif dies_after == "the sessions":
            patched.setattr(vault, "shred", dies)
        else:
            patched.setattr(vault, "forget", dies)
        with pytest.raises(KeyboardInterrupt):
            erasure.erase(people.store, vault, act)
    until(lambda: people.store.erasure(me.id)["here"], "the service's timer has finished it")  # type: ignore[index]
    person: Any = people.database["persons"].find_one({"_id": me.id})
    assert {person[name] for name in ("name", "id_number", "phone", "name_index")} == {None}
    assert people.store.open_sessions(me.id) == []
    assert people.store.own_account(me.id)["logins"] == []


def test_what_is_written_while_somebody_is_erased_goes_too(people: People) -> None:
    me = Somebody(people)
    number = id_number(60)
    given = {"name": NAME, "id_number": number, "phone": "+86" + PHONE, "consent": True}
    keep = Store.keep_person

    def erased_meanwhile(store: Store, document: Document, write: Any) -> Document:
        people.erase(me.id)
        return keep(store, document, write)

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(Store, "keep_person", erased_meanwhile)
        with pytest.raises(Conflict, match="person_erased"):
            persons.keep_own(people.store, people.vault, people.act(me.id), given)
    kept: Any = people.database["persons"].find_one({"_id": me.id})
    assert {kept[name] for name in ("name", "name_index", "id_number_index", "phone_index", "ref")} == {None}
    assert Somebody(people).identify(number).status == 200, "the number is free again"


def test_an_erasure_that_was_confirmed_before_it_was_done_here_is_completed(people: People) -> None:
    me = Somebody(people)
    people.erase(me.id)
    people.database["erasures"].update_one({"_id": me.id}, {"$set": {"waits": [], "state": rules.REQUESTED}})
    until(lambda: people.store.erasure(me.id)["state"] == rules.COMPLETED, "the timer completes it")  # type: ignore[index]


def test_no_login_role_or_form_brings_an_erased_account_back(people: People) -> None:
    me = Somebody(people)
    [login] = people.store.own_account(me.id)["logins"]
    ticket = logins.begin_registration(people.store, login, "demo", "/", "browser", clock.now())
    people.erase(me.id)
    with pytest.raises(Gone, match="login_expired"):
        logins.registration(people.store, ticket, "browser", clock.now())
    secret = logins.open_session(people.store, people.store.own_account(me.id), "demo", clock.now(), NO_TRACE)
    assert logins.live_session(people.store, secret, clock.now()) is None
    act = Act(officer(), clock.now(), NO_TRACE)
    with pytest.raises(Conflict, match="person_erased"):
        grants.grant_role(people.store, people.vault, act, me.id, "volunteer", "370902", "as planned")


def test_asking_twice_is_asking_once(people: People) -> None:
    me = Somebody(people)
    first, second = me.call("DELETE", "/me"), me.call("DELETE", "/me")
    assert (first.status, second.status) == (202, 202)
    assert first.json["requested_at"] == second.json["requested_at"]
    kept: Any = people.database["erasures"].find_one({"_id": me.id})
    assert kept["seq"] <= 2, "told once, completed once"


def test_rotating_the_master_key_fails_no_request_and_the_old_one_can_go(people: People) -> None:
    import threading

    somebodies = [Somebody(people) for _number in range(6)]
    for number, one in enumerate(somebodies):
        one.identify(id_number(200 + number))
    old = masterkeys_of(people)["current"]
    statuses: list[int] = []
    stop = threading.Event()

    def reads(one: Somebody) -> None:
        turn = 0
        while not stop.is_set():
            turn += 1
            statuses.append(one.call("GET", "/me/person").status)
            if turn % 3 == 0:
                statuses.append(one.call("POST", f"/me/consents/{'sms' if turn % 2 else 'sms/withdraw'}").status)

    def newcomers() -> None:
        number = 300
        while not stop.is_set():
            number += 1
            statuses.append(Somebody(people).identify(id_number(number)).status)

    threads = [threading.Thread(target=reads, args=(one,)) for one in somebodies] + [threading.Thread(target=newcomers)]
    for thread in threads:
        thread.start()
    try:
        for _time in range(3):
            commands(people, "keys", "rotate", "people", "--settle", "1")
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert len(statuses) > 50
    assert set(statuses) == {200}
    assert old not in commands(people, "keys", "status", "people"), "it wraps nobody's key"
    current = masterkeys_of(people)["current"]
    assert current != old
    assert "still wraps" in commands(people, "keys", "retire", "people", current, ok=False)
    assert f"{old} is out of the file" in commands(people, "keys", "retire", "people", old)
    assert {one.call("GET", "/me/person").json["name"] for one in somebodies} == {"王小明"}


def masterkeys_of(people: People) -> dict[str, Any]:
    known: dict[str, Any] = json.loads(people.settings.key_file("people").read_bytes())
    return known


def test_a_master_key_that_is_needed_stays(people: People) -> None:
    Somebody(people).identify(id_number(250))
    current = masterkeys_of(people)["current"]
    masterkeys.rotate_key_file(people.settings.key_file("people"))
    refused = commands(people, "keys", "retire", "people", current, ok=False)
    assert f"{current} still wraps" in refused
    assert f"every person's key is under {masterkeys_of(people)['current']}" in commands(
        people, "keys", "rewrap", "people"
    )
