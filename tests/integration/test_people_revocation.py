"""A login that was ended is ended everywhere within a minute: at the edge at once, in each service by the event."""

import time
from collections.abc import Iterator
from functools import partial

import pytest

from services.kernel import clock, mongo, sessions
from services.metrics import store as metrics_store
from tests.integration.stations_api import Stations
from tests.parts import World, until
from tests.people import API, People

MINUTE = 60


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    """People with its relay, beside stations and metrics with its aggregator."""
    with People(shared_world) as running:
        running.seed()
        shared_world.process("relay", "people").start()
        yield running


@pytest.fixture(scope="module")
def stations(people: People) -> Iterator[Stations]:
    """The stations service."""
    with Stations(people.world, relay=False) as running:
        yield running


@pytest.fixture(scope="module")
def metrics(people: People) -> str:
    """The origin of the metrics service, whose aggregator runs."""
    database = mongo.connect(people.world.settings("metrics"), "metrics", "test")
    metrics_store.ensure_indexes(database)
    database.client.close()
    people.world.process("aggregator").start()
    process = people.world.process("service", "metrics").start()
    return f"http://127.0.0.1:{process.http_port}"


@pytest.mark.slow
def test_a_token_of_an_ended_login_is_refused_by_every_service_within_a_minute(
    people: People, stations: Stations, metrics: str
) -> None:
    browser, bystander = people.logged_in("demo-county-1"), people.logged_in("demo-county-1")
    token, other = browser.token(), bystander.token()
    assert token is not None
    assert other is not None
    places = {
        "people": f"{people.origin}{API}/accounts",
        "stations": f"{stations.origin}/api/v1/stations/stations",
        "metrics": f"{metrics}/api/v1/metrics/events?measure=stations.checkins&county=370902&day=2026-01-01",
    }

    def status(place: str, bearer: str) -> int:
        headers = {"Authorization": bearer, "Accept": "application/json", "Cookie": None}
        return people.browser().call("GET", places[place], headers=headers).status

    def refused(place: str) -> bool:
        return status(place, token) == 401

    assert {status(place, token) for place in places} == {200}
    csrf = browser.get("/people/sessions").hidden("csrf")
    ended = time.monotonic()
    browser.call("POST", "/people/logout", form={"csrf": csrf})
    assert browser.token() is None
    assert status("people", token) == 401, "people itself at once"
    for place in places:
        until(partial(refused, place), f"{place} refuses the token", MINUTE)
    assert time.monotonic() - ended < MINUTE
    assert {status(place, other) for place in places} == {200}, "another login of the same person goes on"


def test_what_is_noted_ends_by_itself_and_twice_is_once(stations: Stations) -> None:
    now = clock.now()
    for _time in range(2):
        sessions.note(stations.database, "s1", now)
    assert "s1" in sessions.noted(stations.database)
    indexes = stations.database[sessions.COLLECTION].index_information()
    assert indexes["keep"]["expireAfterSeconds"] == sessions.KEEP_SECONDS


def test_stations_serve_while_nobody_can_tell_them_of_ended_logins(world: World) -> None:
    """The broker's absence must not keep stations from serving: see ``ready_without_broker``."""
    broken = world.broker.url_for("stations").replace(f":{world.broker.port}/", ":9/")
    process = world.process("service", "stations", ESTATION_RABBITMQ_URL=broken).start()
    assert process.ops("/readyz").strip() == "ready"
