"""Use cases of the stations service on a real database, at times that the test chooses."""

import random
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from contracts import codes
from services.kernel import ids
from services.kernel.act import Act
from services.kernel.auth import Actor
from services.kernel.clock import SHANGHAI
from services.kernel.errors import Conflict, Invalid, NotFound, PreconditionFailed, Stale, Unauthenticated
from services.kernel.mongo import Document
from services.kernel.outbox import Idempotency, embedded
from services.stations import handlers, rules, schemas, store
from services.stations.app import StationsApp
from services.stations.models import Device, Fault, Station, Supply
from services.stations.store import Model, Store
from tests.integration.stations_api import documents, new_id, total
from tests.parts import World

OFFICER = Actor("officer-1", "person", frozenset({"city_officer"}), codes.CITY)
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
NOON = datetime(2025, 7, 16, 12, tzinfo=SHANGHAI).astimezone(UTC)
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
KNOWN = {"county": "370902", "name": "驿站一号", "address": "东岳大街 1 号", "opens": "08:00", "closes": "20:00"}


@pytest.fixture(scope="module")
def stored(shared_world: World) -> Iterator[Store]:
    """The service's own store on a database of this module."""
    with documents(shared_world) as database:
        yield Store(database)


def act(now: datetime = NOON, actor: Actor = OFFICER) -> Act:
    """An officer's act at a time."""
    return Act(actor, now, TRACE)


def station_at(stored: Store, now: datetime = NOON - DAY, **fields: Any) -> Document:
    """A station in service since ``now``."""
    proposed, _new = handlers.propose_station(
        stored, act(now), {**KNOWN, "position": None, "facilities": ["water"], **fields}, None
    )
    return handlers.move_station(stored, act(now), proposed["_id"], "open", "ready")


def device_at(stored: Store, station: Document, now: datetime = NOON - DAY) -> dict[str, Any]:
    """A device's view as its requests carry it."""
    device, _key = handlers.enroll_device(stored, act(now), station["_id"], "tablet", None)
    return handlers.device_view(device, station)


def actor_of(view: dict[str, Any]) -> Actor:
    """The device itself as an actor."""
    return Actor(view["id"], "device", rules.DEVICES, view["county"], view)


def row(captured_at: datetime, **fields: Any) -> dict[str, Any]:
    """A check-in as a device sends it."""
    return {"id": new_id(), "captured_at": captured_at.isoformat(), "kind": "water", "people": 3, **fields}


def record(
    stored: Store, view: dict[str, Any], *rows: Any, now: datetime = NOON, sent_at: datetime | None = None
) -> list[dict[str, Any]]:
    """What the service answers to a batch."""
    return handlers.record_checkins(stored, act(now, actor_of(view)), view, rows, sent_at, schemas.load_row)


def stored_row(stored: Store, view: dict[str, Any], sent: dict[str, Any]) -> Document:
    """The document of a row."""
    found = stored.database["checkins"].find_one({"_id": ids.derived(view["id"], sent["id"])})
    assert found is not None
    return found


# The day a check-in falls on, and when its station served


@pytest.mark.parametrize(
    ("captured_at", "day"),
    [
        ("2025-07-15T23:59:59.999+08:00", "2025-07-15"),
        ("2025-07-16T00:00:00+08:00", "2025-07-16"),
        ("2025-07-15T16:00:00Z", "2025-07-16"),
        ("2025-07-15T15:59:59.999999Z", "2025-07-15"),
    ],
)
def test_a_day_ends_at_midnight_in_shanghai(stored: Store, captured_at: str, day: str) -> None:
    view = device_at(stored, station_at(stored))
    sent = {**row(NOON), "captured_at": captured_at}
    assert record(stored, view, sent)[0]["status"] == "accepted"
    found = stored_row(stored, view, sent)
    assert found["day"] == day
    assert store.checkin_events(found)[0]["data"]["day"] == day


def test_a_late_row_is_judged_by_what_its_station_was_then_not_now(stored: Store) -> None:
    station = station_at(stored, NOON - 5 * HOUR)
    view = device_at(stored, station, NOON - 5 * HOUR)
    for hours, move in ((-4, "suspend"), (-3, "resume"), (-2, "close")):
        station = handlers.move_station(stored, act(NOON + hours * HOUR), station["_id"], move, "as planned")
    fresh = {**view, "history": station["history"]}
    hours_before = {-4.5: "accepted", -3.5: "quarantined", -2.5: "accepted", -1.0: "quarantined"}
    rows = [row(NOON + hours * HOUR) for hours in hours_before]
    assert [result["status"] for result in record(stored, fresh, *rows)] == list(hours_before.values())


def test_a_no_is_never_said_from_a_history_that_may_be_old(stored: Store) -> None:
    proposed, _new = handlers.propose_station(
        stored, act(NOON - DAY), {**KNOWN, "position": None, "facilities": []}, None
    )
    known_before_the_opening = device_at(stored, proposed)
    handlers.move_station(stored, act(NOON - HOUR), proposed["_id"], "open", "ready")
    assert record(stored, known_before_the_opening, row(NOON - MINUTE))[0]["status"] == "accepted"


def test_a_row_of_a_station_that_is_gone_waits(stored: Store) -> None:
    view = device_at(stored, station_at(stored))
    stored.database["stations"].delete_one({"_id": view["station"]})
    assert record(stored, {**view, "history": []}, row(NOON))[0]["code"] == "station_not_active"


@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    minutes=st.lists(st.integers(-45 * 24 * 60, 60), min_size=1, max_size=12),
    seed=st.integers(0, 2**32),
)
def test_order_repetition_and_division_into_batches_change_nothing(
    stored: Store, minutes: list[int], seed: int
) -> None:
    station = station_at(stored, NOON - 40 * DAY)
    station = handlers.move_station(stored, act(NOON - 20 * DAY), station["_id"], "suspend", "repairs")
    station = handlers.move_station(stored, act(NOON - 10 * DAY), station["_id"], "resume", "done")
    one, other = (
        {**device_at(stored, station, NOON - 35 * DAY), "history": station["history"]} for _device in range(2)
    )
    rows = [row(NOON + minute * MINUTE) for minute in minutes]
    in_order = {result["id"]: result for result in record(stored, one, *rows)}

    chance = random.Random(seed)
    sent = [sent for sent in rows for _copy in range(chance.randint(1, 3))]
    chance.shuffle(sent)
    while sent:
        size = chance.randint(1, len(sent))
        for result in record(stored, other, *sent[:size]):
            assert result == in_order[result["id"]]
        sent = sent[size:]
    same = ("captured_at", "day", "status", "reasons", "people", "kind")
    for each in rows:
        first, second = stored_row(stored, one, each), stored_row(stored, other, each)
        assert {name: first[name] for name in same} == {name: second[name] for name in same}
    assert stored.database["checkins"].count_documents({"device": other["id"]}) == len(rows)


# Quarantine


def test_a_clock_three_days_off_waits_and_is_approved_for_the_right_day(stored: Store) -> None:
    view = device_at(stored, station_at(stored, NOON - 9 * DAY), NOON - 9 * DAY)
    happened, behind = NOON - 2 * HOUR, 3 * DAY
    sent = row(happened - behind)
    result = record(stored, view, sent, sent_at=NOON - behind)[0]
    assert (result["status"], result["code"]) == ("quarantined", "device_clock_off")
    waiting = stored_row(stored, view, sent)
    approved = handlers.approve_checkin(stored, act(), waiting["_id"], "its clock was off", None)
    assert approved["day"] == "2025-07-16"
    assert approved["happened_at"] == happened
    assert total(store.checkin_events(approved)) == {
        ("stations.checkins", "370902", "2025-07-16"): 3,
        ("stations.checkin_records", "370902", "2025-07-16"): 1,
    }
    assert approved["audit"][-1]["changed"] == {
        "day": ["2025-07-13", "2025-07-16"],
        "happened_at": [None, happened],
        "status": ["quarantined", "approved"],
    }


def test_an_officer_who_knows_better_says_when_it_was(stored: Store) -> None:
    view = device_at(stored, station_at(stored))
    sent = row(NOON + DAY)
    record(stored, view, sent)
    id_ = ids.derived(view["id"], sent["id"])
    with pytest.raises(Invalid) as refused:
        handlers.approve_checkin(stored, act(), id_, "seen", None)
    assert refused.value.errors[0].code == "in_the_future"
    approved = handlers.approve_checkin(stored, act(), id_, "seen", NOON - DAY)
    assert approved["day"] == "2025-07-15"


@pytest.mark.parametrize(
    ("captured_at", "sent_at"),
    [("2000-01-01T00:00:00+14:00", None), ("2000-06-01T00:00:00Z", "2099-12-31T00:00:00Z")],
)
def test_a_clock_without_any_time_is_not_believed_at_approval(
    stored: Store, captured_at: str, sent_at: str | None
) -> None:
    view = device_at(stored, station_at(stored))
    sent = {**row(NOON), "captured_at": captured_at}
    record(stored, view, sent, sent_at=datetime.fromisoformat(sent_at) if sent_at else None)
    id_ = ids.derived(view["id"], sent["id"])
    with pytest.raises(Invalid) as refused:
        handlers.approve_checkin(stored, act(), id_, "seen", None)
    assert refused.value.errors[0].code == "out_of_range"
    assert handlers.approve_checkin(stored, act(), id_, "seen", NOON - HOUR)["day"] == "2025-07-16"


@pytest.mark.parametrize("first", ["void", "approve"])
def test_a_row_that_was_taken_back_counts_nowhere(stored: Store, first: str) -> None:
    view = device_at(stored, station_at(stored))
    sent = row(NOON - 40 * DAY)
    record(stored, view, sent)
    id_ = ids.derived(view["id"], sent["id"])
    if first == "approve":
        handlers.approve_checkin(stored, act(), id_, "seen", None)
    voided = handlers.void_checkin(stored, act(NOON + DAY), id_, "a drill")
    assert total(store.checkin_events(voided)) == {}
    with pytest.raises(Conflict):
        handlers.void_checkin(stored, act(), id_, "again")
    with pytest.raises(Conflict) as refused:
        handlers.approve_checkin(stored, act(), id_, "after all", None)
    assert refused.value.params == {"state": "voided"}


def test_an_import_waits_and_names_the_officer_and_the_reason(stored: Store) -> None:
    view = device_at(stored, station_at(stored))
    sent = row(NOON - HOUR)
    results = handlers.import_checkins(stored, act(), view["id"], [sent], "tablet broken", schemas.load_row)
    assert [(result["status"], result["code"]) for result in results] == [("quarantined", "imported_by_officer")]
    (audit,) = stored_row(stored, view, sent)["audit"]
    assert (audit["actor"], audit["action"], audit["reason"]) == ("officer-1", "checkin.import", "tablet broken")


def test_the_quarantine_is_paged_in_the_order_received(stored: Store) -> None:
    county = Actor("officer-2", "person", frozenset({"county_officer"}), "370921")
    view = device_at(stored, station_at(stored, county="370921"))
    sent = [row(NOON - 40 * DAY) for _row in range(7)]
    for number in (3, 0, 6, 1, 5, 2, 4):
        record(stored, view, sent[number], now=NOON + number * MINUTE)
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page, cursor = stored.quarantine(county, limit=3, cursor=cursor)
        seen += [found["client_id"] for found in page]
    assert seen == [each["id"] for each in sent]


@pytest.mark.parametrize("cursor", ["x", "_", "9999-12-31T23:59:59-23:00_x"])
def test_a_cursor_of_somebody_elses_making_is_refused(stored: Store, cursor: str) -> None:
    with pytest.raises(Invalid) as refused:
        stored.quarantine(OFFICER, limit=3, cursor=cursor)
    assert refused.value.errors[0].code == "bad_cursor"


# Silence


def awaited(stored: Store, *, last_seen: datetime, now: datetime = NOON - 30 * DAY, **fields: Any) -> dict[str, Any]:
    """An active device that was last heard of at a time."""
    view = device_at(stored, station_at(stored, now, **fields), now)
    device = stored.get(Device, view["id"], OFFICER)
    handlers.hear_device(stored, act(last_seen, actor_of(view)), device)
    return view


def silences(stored: Store, device: str) -> list[dict[str, Any]]:
    """The events of silence that ride in a device's document."""
    found = stored.get(Device, device, OFFICER)
    return [event for event in found["out"] if event["type"] == "stations.heartbeat_missed.v1"]


def test_a_silent_device_is_said_once_until_it_is_heard_again(stored: Store) -> None:
    view = awaited(stored, last_seen=NOON - HOUR)
    for minute in range(3):
        handlers.note_silences(stored, NOON + minute * MINUTE, TRACE)
    (said,) = silences(stored, view["id"])
    assert said["data"] == {"day": "2025-07-16", "station": view["station"], "silent_seconds": 3600}
    assert stored.get(Device, view["id"], OFFICER)["silent"] is True

    handlers.beat(stored, act(NOON + HOUR, actor_of(view)), 4, NOON + HOUR - MINUTE)
    heard = stored.get(Device, view["id"], OFFICER)
    assert (heard["silent"], heard["unsent"], heard["offset_ms"]) == (False, 4, 60_000)
    handlers.note_silences(stored, NOON + HOUR + 15 * MINUTE, TRACE)
    assert len(silences(stored, view["id"])) == 1
    handlers.note_silences(stored, NOON + HOUR + 16 * MINUTE, TRACE)
    assert len(silences(stored, view["id"])) == 2


@pytest.mark.parametrize(
    ("opens", "closes", "local", "said"),
    [
        ("08:00", "20:00", "12:00", True),
        ("08:00", "20:00", "21:00", False),
        ("08:00", "20:00", "08:10", False),  # it was off over night: nothing is missed yet
        ("08:00", "20:00", "08:16", True),
        ("20:00", "08:00", "02:00", True),
        ("20:00", "08:00", "12:00", False),
        ("00:00", "00:00", "03:00", True),
    ],
)
def test_silence_is_said_in_the_hours_of_the_station(
    stored: Store, opens: str, closes: str, local: str, said: bool
) -> None:
    view = awaited(stored, last_seen=NOON - 2 * DAY, opens=opens, closes=closes)
    now = datetime.fromisoformat(f"2025-07-16T{local}:00+08:00").astimezone(UTC)
    handlers.note_silences(stored, now, TRACE)
    assert bool(silences(stored, view["id"])) is said


@pytest.mark.parametrize("move", ["suspend", "close"])
def test_nobody_waits_for_a_station_that_does_not_serve(stored: Store, move: str) -> None:
    view = awaited(stored, last_seen=NOON - HOUR)
    handlers.move_station(stored, act(NOON - HOUR), view["station"], move, "as planned")
    handlers.note_silences(stored, NOON, TRACE)
    assert silences(stored, view["id"]) == []
    if move == "suspend":  # it may take a quarter of an hour until everything is switched on again
        handlers.move_station(stored, act(NOON), view["station"], "resume", "as planned")
        handlers.note_silences(stored, NOON + 15 * MINUTE, TRACE)
        assert silences(stored, view["id"]) == []
        handlers.note_silences(stored, NOON + 16 * MINUTE, TRACE)
        assert len(silences(stored, view["id"])) == 1


def test_a_revoked_device_is_not_awaited(stored: Store) -> None:
    view = awaited(stored, last_seen=NOON - HOUR)
    handlers.revoke_device(stored, act(), view["id"], "stolen")
    handlers.note_silences(stored, NOON, TRACE)
    assert silences(stored, view["id"]) == []


def test_hundreds_of_devices_that_may_be_silent_hide_none_that_may_not(stored: Store) -> None:
    shut = station_at(stored, NOON - 30 * DAY)
    handlers.move_station(stored, act(NOON - 20 * DAY), shut["_id"], "close", "as planned")
    known = {"station": shut["_id"], "county": "370902", "label": "old", "silent": False, "state": rules.ACTIVE}
    stored.database["devices"].insert_many(
        [{**known, "_id": new_id(), "last_seen": NOON - 20 * DAY, "rev": 1} for _device in range(400)]
    )
    view = awaited(stored, last_seen=NOON - HOUR)
    handlers.note_silences(stored, NOON, TRACE)
    assert len(silences(stored, view["id"])) == 1


def test_a_device_that_is_heard_while_the_watch_looks_is_not_called_silent(stored: Store) -> None:
    view = awaited(stored, last_seen=NOON - HOUR)
    (seen_before,) = (device for device, _station in stored.quiet_devices(NOON) if device["_id"] == view["id"])
    stored.hear(view["id"], NOON)
    with pytest.raises(Stale):
        stored.change(Device, seen_before, act().write("device.silent"), silent=True)


class _HeardMeanwhile(Store):
    """A store in which every quiet device speaks up as soon as it has been read."""

    def quiet_devices(self, before: datetime) -> Iterator[tuple[Document, Document]]:
        for device, station in super().quiet_devices(before):
            self.hear(device["_id"], NOON)
            yield device, station


def test_the_watch_goes_on_past_a_device_that_has_just_been_heard(stored: Store) -> None:
    view = awaited(stored, last_seen=NOON - HOUR)
    assert handlers.note_silences(_HeardMeanwhile(stored.database), NOON, TRACE) == 0
    assert silences(stored, view["id"]) == []


# Devices and their keys


def app_at(shared_world: World, stored: Store, now: datetime = NOON) -> StationsApp:
    """The application object with a clock that stands still."""
    return StationsApp(shared_world.settings("stations"), stored.database, lambda: now)


def test_the_first_contact_makes_a_device_active_and_is_in_its_audit(shared_world: World, stored: Store) -> None:
    station = station_at(stored)
    device, key = handlers.enroll_device(stored, act(NOON - DAY), station["_id"], "tablet", None)
    assert key is not None
    actor = app_at(shared_world, stored).authenticate(key)
    assert (actor.kind, actor.scope, actor.attributes["station"]) == ("device", "370902", station["_id"])
    found = stored.get(Device, device["_id"], OFFICER)
    assert (found["state"], found["last_seen"]) == ("active", NOON)
    assert found["audit"][-1]["changed"] == {"state": ["enrolled", "active"]}
    app_at(shared_world, stored, NOON + HOUR).authenticate(key)
    again = stored.get(Device, device["_id"], OFFICER)
    assert again["last_seen"] == NOON + HOUR
    assert len(again["audit"]) == len(found["audit"])


def test_two_first_contacts_at_once_are_one(stored: Store) -> None:
    view = device_at(stored, station_at(stored))
    device = stored.get(Device, view["id"], OFFICER)
    handlers.hear_device(stored, act(NOON, actor_of(view)), device)
    handlers.hear_device(stored, act(NOON + MINUTE, actor_of(view)), device)
    found = stored.get(Device, view["id"], OFFICER)
    assert (found["state"], found["last_seen"]) == ("active", NOON + MINUTE)
    assert [audit["action"] for audit in found["audit"]] == ["device.enroll", "device.activate"]


@pytest.mark.parametrize(
    "wrong", ["esd_", "esd_x.y", "esd_{id}", "esd_{id}.", "esd_{id}.guess", "esd_{other}.{secret}"]
)
def test_a_key_that_is_not_quite_right_is_no_key(shared_world: World, stored: Store, wrong: str) -> None:
    device, key = handlers.enroll_device(stored, act(), station_at(stored)["_id"], "tablet", None)
    assert key is not None
    guess = wrong.format(id=device["_id"], other=new_id(), secret=key.partition(".")[2])
    with pytest.raises(Unauthenticated):
        app_at(shared_world, stored).authenticate(guess)


def test_two_keys_live_and_the_third_rotation_ends_the_first(shared_world: World, stored: Store) -> None:
    device, first = handlers.enroll_device(stored, act(), station_at(stored)["_id"], "tablet", None)
    keys = [first, *(handlers.rotate_device_key(stored, act(), device["_id"])[1] for _rotation in range(2))]
    live = []
    for key in keys:
        assert key is not None
        try:
            live.append(app_at(shared_world, stored).authenticate(key).id == device["_id"])
        except Unauthenticated:
            live.append(False)
    assert live == [False, True, True]


def test_a_person_is_no_device_whatever_the_token_says(shared_world: World, stored: Store) -> None:
    token = shared_world.token("mallory", ("device", "station_staff"))
    assert app_at(shared_world, stored).authenticate(token).roles == {"station_staff"}


def test_the_cache_of_keys_is_bounded(shared_world: World, stored: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("services.stations.app.CACHE_MAX", 2)
    app = app_at(shared_world, stored)
    station = station_at(stored)
    keys = [handlers.enroll_device(stored, act(), station["_id"], "tablet", None)[1] for _device in range(5)]
    for key in keys:
        assert key is not None
        app.authenticate(key)
    assert len(app._known) <= 2


def test_a_key_is_shown_once_also_where_the_request_is_repeated(stored: Store) -> None:
    station = station_at(stored)
    key = Idempotency(new_id(), "body")
    device, shown = handlers.enroll_device(stored, act(), station["_id"], "tablet", key)
    again, not_shown = handlers.enroll_device(stored, act(), station["_id"], "tablet", key)
    assert shown is not None
    assert (again["_id"], not_shown) == (device["_id"], None)
    with pytest.raises(Conflict):
        handlers.enroll_device(stored, act(), station["_id"], "tablet", replace(key, body="other"))
    tomorrow, shown_too = handlers.enroll_device(stored, act(NOON + 25 * HOUR), station["_id"], "tablet", key)
    assert shown_too is not None
    assert tomorrow["_id"] != device["_id"]


# Stations, faults, supplies


def test_facilities_date_from_the_opening_and_leave_with_what_they_counted(stored: Store) -> None:
    proposed, _new = handlers.propose_station(
        stored, act(NOON - 300 * DAY), {**KNOWN, "position": None, "facilities": ["mother_room"]}, None
    )
    handlers.add_facility(stored, act(NOON - 299 * DAY), proposed["_id"], "rest")
    handlers.remove_facility(stored, act(NOON - 298 * DAY), proposed["_id"], "rest")
    opened = handlers.move_station(stored, act(NOON), proposed["_id"], "open", "ready")
    assert opened["facilities"] == [{"kind": "mother_room", "since": "2025-07-16"}]
    removed = handlers.remove_facility(stored, act(NOON + DAY), proposed["_id"], "mother_room")
    handlers.add_facility(stored, act(NOON + 2 * DAY), proposed["_id"], "mother_room")
    closed = handlers.move_station(stored, act(NOON + 200 * DAY), proposed["_id"], "close", "moved")  # a year later
    assert [event["type"].split(".")[1] for event in closed["out"]] == [
        "station_opened",
        "facility_removed",
        "facility_added",
        "station_closed",
    ]
    assert total(embedded(removed)) == {("stations.stations", "370902", "2025-07-16"): 1}
    assert total(embedded(closed)) == {
        ("stations.stations", "370902", "2025-07-16"): 1,
        ("stations.stations", "370902", "2026-02-01"): -1,
        ("stations.mother_rooms", "370902", "2025-07-18"): 1,  # new in 2025, whatever became of it in 2026
    }


def test_what_is_not_there_or_not_yours_is_not_found(stored: Store) -> None:
    station = station_at(stored)
    elsewhere = Actor("officer-4", "person", frozenset({"county_officer"}), "370982")
    for actor, id_ in ((elsewhere, station["_id"]), (OFFICER, new_id())):
        with pytest.raises(NotFound):
            handlers.move_station(stored, act(actor=actor), id_, "close", "mine")


def test_only_the_version_that_was_seen_is_edited(stored: Store) -> None:
    station = station_at(stored)
    handlers.edit_station(stored, act(), station["_id"], station["rev"], {"name": "新名字"})
    with pytest.raises(PreconditionFailed):
        handlers.edit_station(stored, act(), station["_id"], station["rev"], {"name": "更新的名字"})
    assert stored.get(Station, station["_id"], OFFICER)["name"] == "新名字"


class _EditedMeanwhile(Store):
    """A store in which somebody else edits whatever has just been read."""

    def get(self, model: Model, id_: str, actor: Actor) -> Document:
        found = super().get(model, id_, actor)
        super().change(model, found, act().write("edit.of.another"))
        return found


def test_an_edit_that_was_overtaken_is_a_changed_version(stored: Store) -> None:
    station = station_at(stored)
    stock = {"station": station["_id"], "item": "水", "quantity": 5, "unit": "箱", "expires_on": None}
    supply, _new = handlers.stock_supply(stored, act(), stock, None)
    with pytest.raises(PreconditionFailed):
        handlers.edit_station(_EditedMeanwhile(stored.database), act(), station["_id"], 2, {"name": "新名字"})
    with pytest.raises(PreconditionFailed):
        handlers.edit_supply(_EditedMeanwhile(stored.database), act(), supply["_id"], 1, {"quantity": 4})


def test_a_fault_counts_while_it_is_open(stored: Store) -> None:
    station = station_at(stored)
    fault, _new = handlers.report_fault(
        stored, act(NOON - DAY), None, {"station": station["_id"], "kind": "power", "note": "no light"}, None
    )
    assert total(embedded(fault)) == {("stations.faults", "370902", "2025-07-15"): 1}
    cleared = handlers.clear_fault(stored, act(), fault["_id"], "new fuse")
    assert total(embedded(cleared)) == {
        ("stations.faults", "370902", "2025-07-15"): 1,
        ("stations.faults", "370902", "2025-07-16"): -1,
    }
    assert "no light" not in str(cleared["out"])
    with pytest.raises(Conflict):
        handlers.clear_fault(stored, act(), fault["_id"], "again")
    assert stored.get(Fault, fault["_id"], OFFICER)["cleared_at"] == NOON


def test_a_person_has_to_name_the_station_of_a_fault(stored: Store) -> None:
    with pytest.raises(Invalid) as refused:
        handlers.report_fault(stored, act(), None, {"kind": "power", "note": ""}, None)
    assert [(error.field, error.code) for error in refused.value.errors] == [("station", "required")]


def test_a_stock_says_nothing_to_others(stored: Store) -> None:
    station = station_at(stored)
    supply, _new = handlers.stock_supply(
        stored, act(), {"station": station["_id"], "item": "水", "quantity": 5, "unit": "箱", "expires_on": None}, None
    )
    edited = handlers.edit_supply(stored, act(), supply["_id"], 1, {"quantity": 4})
    assert (edited["quantity"], edited["open"], edited["out"]) == (4, False, [])
    assert edited["audit"][-1]["changed"] == {"quantity": [5, 4]}
    with pytest.raises(PreconditionFailed):
        handlers.edit_supply(stored, act(), supply["_id"], 1, {"quantity": 3})
    assert stored.get(Supply, supply["_id"], OFFICER)["quantity"] == 4


def test_nobody_registers_a_station_elsewhere(stored: Store) -> None:
    county = Actor("officer-5", "person", frozenset({"county_officer"}), "370911")
    known: dict[str, Any] = {**KNOWN, "position": None, "facilities": []}
    with pytest.raises(Invalid) as refused:
        handlers.propose_station(stored, act(actor=county), known, None)
    assert refused.value.errors[0].code == "outside_your_district"
    handlers.propose_station(stored, act(actor=county), {**known, "county": "370911-gx"}, None)


def test_each_write_leaves_who_when_and_why(stored: Store) -> None:
    station = station_at(stored)
    suspended = handlers.move_station(stored, act(), station["_id"], "suspend", "burst pipe")
    audit = suspended["audit"][-1]
    assert (audit["actor"], audit["at"], audit["reason"]) == ("officer-1", NOON, "burst pipe")
    assert audit["changed"] == {"state": ["active", "suspended"]}
