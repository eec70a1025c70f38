"""Many callers at once: what was acknowledged is what is stored is what is published; of two rivals one wins."""

import random
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier
from typing import Any

import pytest

from tests.integration.stations_api import Api, Reply, Stations, ago, new_id, once_each, row, total
from tests.parts import World


@pytest.fixture(scope="module")
def stations(shared_world: World) -> Iterator[Stations]:
    """The service and its relay."""
    with Stations(shared_world) as running:
        yield running


def at_once(*calls: Callable[[], Reply]) -> list[Reply]:
    """The replies to calls that start together."""
    gate = Barrier(len(calls))

    def start(call: Callable[[], Reply]) -> Reply:
        gate.wait()
        return call()

    with ThreadPoolExecutor(len(calls)) as pool:
        return list(pool.map(start, calls))


def act(who: Api, path: str) -> Callable[[], Reply]:
    """An act with its reason, to be done later."""
    return lambda: who.post(path, {"reason": "as planned"})


def test_the_ledger_of_50_threads_is_the_database_is_what_is_published(stations: Stations) -> None:
    seed = 20250716
    chance = random.Random(seed)
    tap = stations.world.tap()
    kiosks = [stations.kiosk() for _device in range(3)]
    rows = {kiosk.id: [row(people=chance.randint(1, 9)) for _row in range(150)] for kiosk in kiosks}
    for kiosk in kiosks:
        for number in range(10):  # a tablet that changed its mind: of two contents for an id one wins
            rows[kiosk.id].append({**rows[kiosk.id][number], "people": 10})
        rows[kiosk.id] += [row(captured_at=ago(days=40)) for _row in range(10)]
    plans = [
        [(kiosk := chance.choice(kiosks), chance.sample(rows[kiosk.id], 40)) for _batch in range(5)]
        for _thread in range(50)
    ]
    gate = Barrier(len(plans))

    def post(plan: list[Any]) -> list[tuple[str, dict[str, Any], dict[str, Any]]]:
        gate.wait()
        return [
            (kiosk.checkin_id(sent["id"]), sent, result)
            for kiosk, batch in plan
            for sent, result in zip(batch, kiosk.api.checkins(*batch), strict=True)
        ]

    with ThreadPoolExecutor(len(plans)) as pool:
        answered = [entry for entries in pool.map(post, plans) for entry in entries]
    assert len(answered) == 50 * 5 * 40

    ledger: dict[str, tuple[int, str]] = {}
    for id_, sent, result in answered:
        if result["code"] != "content_changed":
            assert ledger.setdefault(id_, (sent["people"], result["status"])) == (sent["people"], result["status"])
    refused = [(id_, sent) for id_, sent, result in answered if result["code"] == "content_changed"]
    assert all(sent["people"] != ledger[id_][0] for id_, sent in refused)

    devices = {"device": {"$in": [kiosk.id for kiosk in kiosks]}}
    stored = {found["_id"]: found for found in stations.database["checkins"].find(devices)}
    assert {id_: (found["people"], found["status"]) for id_, found in stored.items()} == ledger
    stations.settled()
    published = [event for event in once_each(tap.drain()) if event["type"].startswith("stations.checkin")]
    assert Counter(event["subject"] for event in published) == Counter(list(ledger)), f"seed {seed}"
    assert {event["subject"]: event["data"]["people"] for event in published} == {
        id_: people for id_, (people, _status) in ledger.items()
    }
    sums = Counter[str]()
    for (measure, _county, _day), value in total(published).items():
        sums[measure] += value
    accepted = [people for people, status in ledger.values() if status == "accepted"]
    assert sums == {
        "stations.checkins": sum(accepted),
        "stations.checkin_records": len(accepted),
        "stations.quarantined": len(ledger) - len(accepted),
    }


def test_of_two_officers_who_move_one_station_one_wins_and_the_other_is_told_the_state(stations: Stations) -> None:
    other = stations.person(subject="officer-2")
    for _round in range(10):
        station = stations.station()["id"]
        path = f"/stations/{station}/suspend"
        replies = at_once(act(stations.officer, path), act(other, path))
        assert sorted(reply.status for reply in replies) == [200, 409]
        assert next(reply.json["state"] for reply in replies if reply.status == 409) == "suspended"
        stored = stations.database["stations"].find_one({"_id": station})
        assert stored is not None
        assert (stored["seq"], stored["rev"]) == (2, 3)


def test_moves_that_contradict_end_in_one_state_with_its_events(stations: Stations) -> None:
    tap = stations.world.tap()
    made = [stations.station()["id"] for _station in range(5)]
    for station in made:
        moves = ["suspend", "close", "close", "suspend", "resume"]
        at_once(*(act(stations.officer, f"/stations/{station}/{move}") for move in moves))
        assert stations.officer.get(f"/stations/{station}").json["state"] == "closed"
    stations.settled()
    assert total(event for event in tap.drain() if event["subject"] in made) == {}


def test_a_facility_added_by_two_is_added_once(stations: Stations) -> None:
    path = f"/stations/{stations.station()['id']}/facilities"
    replies = at_once(*[lambda: stations.officer.post(path, {"facility": "mother_room"})] * 4)
    assert sorted(reply.status for reply in replies) == [200, 409, 409, 409]


def test_approving_and_voiding_at_once_leaves_nothing_counted(stations: Stations) -> None:
    tap = stations.world.tap()
    kiosk = stations.kiosk()
    rows = [row(captured_at=ago(days=40)) for _row in range(20)]
    kiosk.api.checkins(*rows)
    ids = [kiosk.checkin_id(sent["id"]) for sent in rows]
    for id_ in ids:
        approve, void = (act(stations.officer, f"/checkins/{id_}/{verb}") for verb in ("approve", "void"))
        approved, again, voided = at_once(approve, approve, void)
        assert voided.status == 200
        assert sorted([approved.status, again.status]) in ([200, 409], [409, 409])
        assert stations.officer.get(f"/checkins/{id_}").json["status"] == "voided"
    stations.settled()
    assert total(event for event in tap.drain() if event["subject"] in ids) == {}


def test_one_idempotency_key_at_once_makes_one_thing_and_shows_its_secret_once(stations: Stations) -> None:
    key, path = new_id(), f"/stations/{stations.station()['id']}/devices"
    replies = at_once(*[lambda: stations.officer.post(path, {"label": "tablet"}, Idempotency_Key=key)] * 8)
    assert {reply.status for reply in replies} == {201}
    assert len({reply.json["id"] for reply in replies}) == 1
    assert [reply.json["key"] is None for reply in replies].count(False) == 1


def test_rotations_at_once_leave_two_keys_whatever_beats_in_between(stations: Stations) -> None:
    kiosk = stations.kiosk()
    beat = stations.with_token(kiosk.key)
    replies = at_once(
        *[lambda: stations.officer.post(f"/devices/{kiosk.id}/rotate")] * 6,
        *[lambda: beat.post("/heartbeats", {"unsent": 1})] * 6,
    )
    assert {reply.status for reply in replies[:6]} == {200}
    keys = [reply.json["key"] for reply in replies[:6]]
    live = [key for key in keys if stations.with_token(key).post("/heartbeats", {}).status == 204]
    assert len(live) == 2
