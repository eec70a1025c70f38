"""Names, ID numbers and phones go in everywhere, right and wrong; nothing that leaves a service by itself has them.

Looked through: log lines, messages, dead letters, metrics, the event log and the audit chains, refusing answers.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import date
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote
from uuid import uuid4

import bson
import pika
import pytest
from pymongo import MongoClient

from contracts import catalogue
from services.kernel import mongo
from services.kernel.mongo import Document
from services.metrics import store as metrics_store
from tests.builders import id_number
from tests.integration.stations_api import UNLIMITED, Stations
from tests.integration.test_leak_matrix import REQUESTS, Caller, Operation, Place, Request, Site
from tests.parts import Process, Tap, World, until
from tests.people import People

NAME, NUMBER, PHONE = "慕容紫英", id_number(777), "13905381957"
CANARIES: Final = (NAME, NUMBER, PHONE)
FREE_TEXT: Final = {
    *("stations.stations", "stations.devices", "stations.checkins", "stations.faults", "stations.supplies"),
    *("stations.audit_chain", "people.audit_chain", "people.audit_looks", "people.accounts", "people.persons"),
}
"""Where a reason or what is written about a thing is kept. A name in it cannot be known for one: forms ask for none."""


class House:
    """All services with everything that carries what they say."""

    def __init__(self, world: World, people: People) -> None:
        database = mongo.connect(world.settings("metrics"), "metrics", "test")
        metrics_store.ensure_indexes(database)
        database.client.close()
        self.world, self.people = world, people
        self.tap: Tap = world.tap("stations", "people")
        for role in (("relay", "people"), ("aggregator",), ("sealer",)):
            world.process(*role).start()
        self.metrics: Process = world.process("service", "metrics", **UNLIMITED).start()
        self._client: MongoClient[Document] = people.database.client

    def logs(self) -> set[str]:
        """Of which processes the log has a canary."""
        return {path.name for path in self.world.folder.glob("*.log") if found(path.read_bytes())}

    def messages(self) -> set[str]:
        """Which messages have one, also those that wait or are parked."""
        self.tap.drain()
        held = {key for key, _kind, body in self.tap.messages if found(body)}
        with pika.BlockingConnection(pika.URLParameters(self.world.broker.admin_url)) as connection:
            channel = connection.channel()
            for queue in (*map(catalogue.dead, ("stations", "people", "metrics")), catalogue.UNROUTED):
                while (got := channel.basic_get(queue, auto_ack=True))[0] is not None:
                    if found(got[2] + repr(got[1]).encode()):
                        held.add(queue)
        return held

    def metrics_texts(self) -> set[int]:
        """The ports whose metrics have one."""
        ports = [process.ops_port for process in self.world.processes]
        return {
            port for port in ports if found(self.people.browser().call("GET", f"http://127.0.0.1:{port}/metrics").raw)
        }

    def documents(self, *canaries: str) -> set[str]:
        """The collections that have one of these."""
        prefix = self.world.prefix
        return {
            f"{name.removeprefix(prefix)}.{collection}"
            for name in self._client.list_database_names()
            if name.startswith(prefix)
            for collection in self._client[name].list_collection_names()
            for document in self._client[name][collection].find()
            if found(bson.encode(document), canaries)
        }

    def settled(self) -> None:
        """Waits until all was published, and counted."""

        def quiet() -> bool:
            waiting = sum(
                self._client[self.world.prefix + name][collection].count_documents({"open": True})
                for name, collections in {
                    "stations": ("stations", "devices", "checkins", "faults"),
                    "people": ("accounts", "sessions", "notices", "erasures"),
                }.items()
                for collection in collections
            )
            return waiting == 0

        until(quiet, "everything is published", 60)


def found(content: bytes, canaries: Sequence[str] = CANARIES) -> bool:
    """Whether one of them stands in it, in any of the ways one is written."""
    return any(
        said.encode() in content
        for one in canaries
        for quoted in (json.dumps(one)[1:-1],)
        for said in (one, quote(one), quoted, quoted.replace("\\", "\\\\"))
    )


def spoilt(body: Any) -> Iterator[Any]:
    """The body with a canary in the place of each of its values, and as the name of one more."""
    if not isinstance(body, Mapping):
        return
    for canary in CANARIES:
        for name in body:
            yield {**body, name: canary}
            yield {**body, name: [canary]}
            yield {**body, name: {"$ne": canary}}
        yield {**body, canary: 1}
        yield {**body, "more": canary}


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    with People(shared_world) as running:
        yield running


@pytest.fixture(scope="module")
def stations(people: People) -> Iterator[Stations]:
    with Stations(people.world) as running:
        yield running


def test_the_search_finds_what_is_there() -> None:
    for one in CANARIES:
        for said in (one, quote(one), json.dumps({"x": one}), json.dumps({"x": json.dumps({"y": one})})):
            assert found(b"..." + said.encode() + b"...")
    assert not found(b"nothing")


@pytest.mark.slow
def test_no_name_no_id_number_and_no_phone_leaves_a_service_by_itself(
    shared_world: World, people: People, stations: Stations
) -> None:
    house = House(shared_world, people)
    origins = {
        "stations": stations.origin,
        "metrics": f"http://127.0.0.1:{house.metrics.http_port}",
        "people": people.origin,
    }
    site = Site(shared_world, stations, people, origins)
    calls, echoes = 0, []

    def call(operation: Operation, caller: Caller, request: Request) -> None:
        nonlocal calls
        calls += 1
        status, body = site.call(operation, caller, request)
        assert status < 500, (operation.id, request.body, body)
        if status >= 400 and found(body.encode()):
            echoes.append(operation.id)

    # the right way: somebody says who they are, an officer looks, and all of it is taken along
    me = site.person("worker")
    people.database["persons"].delete_one({"_id": me.account})
    officer = next(caller for caller in site.callers if caller.role == "city_officer")
    by_id = {operation.id: operation for operation in site.operations}
    person = {"name": NAME, "id_number": NUMBER, "phone": PHONE, "consent": True}
    call(by_id["put_people_me_person"], me, Request(body=person))
    call(by_id["post_people_me_consents_purpose"], me, Request({"purpose": "sms"}))
    child = {"name": NAME, "id_number": id_number(778, date(2018, 6, 1)), "consent": True}
    call(by_id["post_people_children"], me, Request(body=child))
    for wanted in ({"name": NAME}, {"id_number": NUMBER}, {"phone": PHONE}):
        call(by_id["post_people_persons_find"], officer, Request(body=wanted))
    call(by_id["post_people_persons_id_reveal"], officer, Request({"id": me.account}, body={"reason": "a matter"}))
    assert NAME in site.call(by_id["get_people_me_export"], me, Request())[1], "the canary is in the house"

    # and every wrong way
    place = Place(site, "370902")
    for operation in site.operations:
        if operation.id == "delete_people_me":
            continue
        known = REQUESTS[operation.id](place) if operation.id in REQUESTS else Request()
        made = Request({"id": str(uuid4()), **known.path}, known.query, known.body, known.version_of)
        device = operation.id in {"post_stations_checkins", "post_stations_heartbeats"}
        caller = Caller("device", place.key) if device else officer
        for body in spoilt(made.body):
            call(operation, caller, Request(made.path, made.query, body, made.version_of))
        for canary in CANARIES:
            call(operation, caller, Request(made.path, {**made.query, "q": canary}, made.body, made.version_of))
            call(operation, caller, Request(made.path, {**made.query, canary: "1"}, made.body, made.version_of))
    call(by_id["delete_people_me"], me, Request())
    house.settled()

    print(f"canary: {len(site.operations)} operations, {calls} calls")  # noqa: T201 (the size belongs into the record)
    assert echoes == []
    assert house.logs() == set()
    assert house.messages() == set()
    assert house.metrics_texts() == set()
    assert house.documents(NUMBER, PHONE) == set()
    assert house.documents(NAME) <= FREE_TEXT
    assert all(Path(process.log).stat().st_size for process in house.world.processes), "there were logs to look through"
