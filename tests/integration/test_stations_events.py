"""Every event of the stations catalogue, produced through the API and seen on the broker; and what they add up to."""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from typing import Any, Final

import pytest

from contracts import envelope
from contracts.catalogue import CATALOGUE
from services.kernel import clock
from services.stations import rules
from tests import builders
from tests.integration.stations_api import Kiosk, Stations, ago, day_of, once_each, row, total
from tests.metrics import publish
from tests.parts import Tap, World, until

COUNTY: Final = "370902-js"
WALKED: Final = ("370911", "370911-gx")
"""Where the random walk goes, and nobody else."""


@pytest.fixture(scope="module")
def stations(shared_world: World) -> Iterator[Stations]:
    """The service and its relay."""
    with Stations(shared_world) as running:
        yield running


@pytest.fixture
def tap(stations: Stations) -> Tap:
    """What is published from now on."""
    return stations.world.tap()


def seen(tap: Tap, type_: str, subject: str) -> dict[str, Any]:
    """The one event of a type about a subject, checked against the catalogue."""

    def found() -> list[dict[str, Any]]:
        return [event for event in once_each(tap.drain()) if (event["type"], event["subject"]) == (type_, subject)]

    (event,) = until(found, f"{type_} published")
    CATALOGUE.check(envelope.check(event))
    key, kind, _body = next(message for message in tap.messages if event["id"].encode() in message[2])
    assert key == type_
    assert kind in {envelope.CONTENT_TYPE, envelope.BATCH_CONTENT_TYPE}
    return dict(event)


def counted(event: dict[str, Any]) -> dict[tuple[str, str], int]:
    """(measure, day) -> delta of an event of COUNTY."""
    assert event["county"] == COUNTY
    return {(measure, day): value for (measure, county, day), value in total([event]).items() if county == COUNTY}


Produced = tuple[str, dict[str, Any], dict[tuple[str, str], int]]
"""The subject, what the data must hold, what it must count."""
PRODUCERS: dict[str, Callable[[Stations], Produced]] = {}


def produces(type_: str) -> Callable[[Callable[[Stations], Produced]], Callable[[Stations], Produced]]:
    """Registers what makes an event of a type happen."""

    def register(producer: Callable[[Stations], Produced]) -> Callable[[Stations], Produced]:
        PRODUCERS[type_] = producer
        return producer

    return register


def today() -> str:
    """The day in Shanghai."""
    return clock.day(clock.now())


@produces("stations.station_opened.v1")
def open_station(stations: Stations) -> Produced:
    id_ = stations.station(COUNTY, facilities=["water", "mother_room"])["id"]
    counts = {("stations.stations", today()): 1, ("stations.mother_rooms", today()): 1}
    return id_, {"facilities": ["water", "mother_room"]}, counts


@produces("stations.facility_added.v1")
def add_facility(stations: Stations) -> Produced:
    id_ = stations.station(COUNTY)["id"]
    assert stations.officer.post(f"/stations/{id_}/facilities", {"facility": "mother_room"}).status == 200
    return id_, {"facility": "mother_room"}, {("stations.mother_rooms", today()): 1}


@produces("stations.facility_removed.v1")
def remove_facility(stations: Stations) -> Produced:
    id_ = stations.station(COUNTY, facilities=["mother_room", "rest"])["id"]
    assert stations.officer.call("DELETE", f"/stations/{id_}/facilities/mother_room").status == 200
    lost = {"kind": "mother_room", "since": today()}
    return id_, {"facilities": [lost]}, {("stations.mother_rooms", today()): -1}


@produces("stations.station_suspended.v1")
def suspend_station(stations: Stations) -> Produced:
    id_ = stations.station(COUNTY)["id"]
    stations.move(id_, "suspend")
    return id_, {}, {("stations.suspended", today()): 1}


@produces("stations.station_resumed.v1")
def resume_station(stations: Stations) -> Produced:
    id_ = stations.station(COUNTY)["id"]
    stations.move(id_, "suspend")
    stations.move(id_, "resume")
    return id_, {}, {("stations.suspended", today()): -1}


@produces("stations.station_closed.v1")
def close_station(stations: Stations) -> Produced:
    id_ = stations.station(COUNTY, facilities=["mother_room"])["id"]
    stations.move(id_, "suspend")
    stations.move(id_, "close")
    counts = {
        ("stations.stations", today()): -1,
        ("stations.suspended", today()): -1,
        ("stations.mother_rooms", today()): -1,
    }
    return id_, {"was_suspended": True, "facilities": [{"kind": "mother_room", "since": today()}]}, counts


@produces("stations.device_enrolled.v1")
def enroll_device(stations: Stations) -> Produced:
    kiosk = stations.kiosk(county=COUNTY)
    return kiosk.id, {"station": kiosk.station}, {("stations.devices", today()): 1}


@produces("stations.device_revoked.v1")
def revoke_device(stations: Stations) -> Produced:
    kiosk = stations.kiosk(county=COUNTY)
    stations.act(f"/devices/{kiosk.id}/revoke")
    return kiosk.id, {"station": kiosk.station}, {("stations.devices", today()): -1}


@produces("stations.checkin_recorded.v1")
def record(stations: Stations) -> Produced:
    kiosk, sent = stations.kiosk(county=COUNTY), row(people=7, kind="mother_room")
    kiosk.api.checkins(sent)
    day = day_of(sent["captured_at"])
    counts = {("stations.checkins", day): 7, ("stations.checkin_records", day): 1}
    data = {"day": day, "station": kiosk.station, "kind": "mother_room", "people": 7}
    return kiosk.checkin_id(sent["id"]), data, counts


def wait_in_quarantine(stations: Stations) -> tuple[Kiosk, str]:
    """A check-in of 5 people, 40 days old."""
    kiosk, sent = stations.kiosk(county=COUNTY), row(people=5, captured_at=ago(days=40))
    kiosk.api.checkins(sent)
    return kiosk, kiosk.checkin_id(sent["id"])


@produces("stations.checkin_quarantined.v1")
def quarantine(stations: Stations) -> Produced:
    kiosk, id_ = wait_in_quarantine(stations)
    reasons = ["captured_too_long_ago", "captured_before_enrolment", "station_not_active"]
    data = {"day": today(), "station": kiosk.station, "people": 5, "reasons": reasons}
    return id_, data, {("stations.quarantined", today()): 1}


@produces("stations.checkin_approved.v1")
def approve(stations: Stations) -> Produced:
    _kiosk, id_ = wait_in_quarantine(stations)
    day = stations.act(f"/checkins/{id_}/approve")["day"]
    counts = {
        ("stations.checkins", day): 5,
        ("stations.checkin_records", day): 1,
        ("stations.quarantined", today()): -1,
    }
    return id_, {"day": day, "quarantined_day": today(), "corrects": id_}, counts


@produces("stations.checkin_voided.v1")
def void(stations: Stations) -> Produced:
    kiosk, sent = stations.kiosk(county=COUNTY), row(people=7)
    kiosk.api.checkins(sent)
    id_, day = kiosk.checkin_id(sent["id"]), day_of(sent["captured_at"])
    stations.act(f"/checkins/{id_}/void")
    counts = {("stations.checkins", day): -7, ("stations.checkin_records", day): -1}
    return id_, {"day": day, "people": -7, "was_quarantined": False, "corrects": id_}, counts


@produces("stations.fault_reported.v1")
def report_fault(stations: Stations) -> Produced:
    kiosk = stations.kiosk(county=COUNTY)
    id_ = kiosk.api.post("/faults", {"kind": "power", "note": "张三的茶杯"}).json["id"]
    return id_, {"station": kiosk.station, "kind": "power"}, {("stations.faults", today()): 1}


@produces("stations.fault_cleared.v1")
def clear_fault(stations: Stations) -> Produced:
    kiosk = stations.kiosk(county=COUNTY)
    id_ = kiosk.api.post("/faults", {"kind": "door"}).json["id"]
    stations.act(f"/faults/{id_}/clear")
    return id_, {"reported_day": today(), "kind": "door"}, {("stations.faults", today()): -1}


@produces("stations.heartbeat_missed.v1")
def fall_silent(stations: Stations) -> Produced:
    station = stations.station(COUNTY, opens="00:00", closes="00:00")
    kiosk = stations.kiosk(station)
    assert kiosk.api.post("/heartbeats", {}).status == 204
    stations.process.stop()
    then = clock.now() - timedelta(minutes=20)
    stations.database["devices"].update_one({"_id": kiosk.id}, {"$set": {"last_seen": then}})
    stations.database["stations"].update_one({"_id": kiosk.station}, {"$set": {"state_since": then}})
    stations.start()  # the watch looks at once
    return kiosk.id, {"station": kiosk.station}, {("stations.silences", today()): 1}


@produces("stations.erasure_confirmed.v1")
def forget_a_person(stations: Stations) -> Produced:
    data = {"day": today(), "due": today(), "refs": []}
    asked = builders.event("people.subject_erased.v1", data, county=COUNTY)
    publish(stations.world, [asked])
    return (
        asked["subject"],
        {"day": today(), "documents": 0, "held": [{"what": "audit_trail"}]},
        {("people.erasures_confirmed", today()): 1},
    )


def test_every_event_of_the_catalogue_has_a_producer_here() -> None:
    assert set(PRODUCERS) == {entry.type for entry in CATALOGUE if entry.owner == "stations"}


@pytest.mark.parametrize("type_", sorted(PRODUCERS))
def test_event_is_published_as_the_catalogue_has_it(stations: Stations, tap: Tap, type_: str) -> None:
    began = today()
    subject, data, counts = PRODUCERS[type_](stations)
    event = seen(tap, type_, subject)
    if today() != began:
        pytest.skip("midnight in Shanghai passed while this ran")
    assert data.items() <= event["data"].items()
    assert counted(event) == counts
    assert event["source"] == "/services/stations"
    assert "张三" not in str(tap.messages)


def test_an_event_continues_the_trace_of_its_request(stations: Stations, tap: Tap) -> None:
    kiosk, sent = stations.kiosk(), row()
    trace = "0af7651916cd43dd8448eb211c80319c"
    kiosk.api.post("/checkins", {"items": [sent]}, traceparent=f"00-{trace}-b7ad6b7169203331-01")
    event = seen(tap, "stations.checkin_recorded.v1", kiosk.checkin_id(sent["id"]))
    assert event["traceparent"].split("-")[1] == trace
    assert event["time"][:19] == clock.rfc3339(datetime.fromisoformat(sent["captured_at"]))[:19]


# A random walk through the API, and what is left of it on both sides


class Walk:
    """Officers, devices and staff doing anything in any order."""

    def __init__(self, stations: Stations, seed: int) -> None:
        self.stations, self.chance = stations, random.Random(seed)
        self.officer = stations.person("county_officer", scope=WALKED[0])
        self.seats: list[str] = []
        self.kiosks: list[Kiosk] = []
        self.checkins: list[str] = []
        self.sent: dict[str, list[dict[str, Any]]] = defaultdict(list)
        self.faults: list[str] = []
        self.outcomes: Counter[tuple[str, int]] = Counter()

    def step(self) -> None:
        """One act; it may be refused."""
        acts: dict[Callable[[], int], int] = {
            self.propose: 2, self.move: 5, self.facility: 3, self.enroll: 2, self.revoke: 1, self.rotate: 1,
            self.post: 10, self.bring_in: 2, self.approve: 5, self.void: 5, self.report: 2, self.clear: 2,
        }  # fmt: skip
        act = self.chance.choices(list(acts), list(acts.values()))[0]
        if not self.kiosks and act not in (self.propose, self.move):
            act = self.enroll if self.seats else self.propose
        self.outcomes[act.__name__, act()] += 1

    def propose(self) -> int:
        kinds = self.chance.sample(["water", "rest", "mother_room"], self.chance.randint(0, 3))
        station = self.stations.station(self.chance.choice(WALKED), opened=False, facilities=kinds)
        self.seats.append(station["id"])
        if self.chance.random() < 0.8:
            self.stations.move(station["id"], "open")
        return 201

    def move(self) -> int:
        if not self.seats:
            return 0
        move = self.chance.choice(["open", "suspend", "suspend", "resume", "resume", "close"])
        return self.post_as_officer(f"/stations/{self.chance.choice(self.seats)}/{move}")

    def facility(self) -> int:
        path = f"/stations/{self.chance.choice(self.seats)}/facilities"
        if self.chance.random() < 0.5:
            return self.officer.call("DELETE", f"{path}/mother_room").status
        return self.officer.post(path, {"facility": "mother_room"}).status

    def enroll(self) -> int:
        seat = self.officer.get(f"/stations/{self.chance.choice(self.seats)}").json
        if seat["state"] == "closed":
            return 409
        self.kiosks.append(self.stations.kiosk(seat))
        return 201

    def revoke(self) -> int:
        return self.post_as_officer(f"/devices/{self.chance.choice(self.kiosks).id}/revoke")

    def rotate(self) -> int:
        return self.officer.post(f"/devices/{self.chance.choice(self.kiosks).id}/rotate").status

    def rows(self, kiosk: Kiosk) -> list[dict[str, Any]]:
        known = self.sent[kiosk.id]
        fresh = [
            row(
                captured_at=ago(minutes=self.chance.choice([0, 0, 1, 3, 60, 40 * 24 * 60, -30])),
                people=self.chance.randint(0, 9),
                **({"station": self.chance.choice(self.seats)} if self.chance.random() < 0.1 else {}),
            )
            for _row in range(self.chance.randint(1, 6))
        ]
        again = self.chance.sample(known, min(len(known), 2))
        changed = [{**each, "people": 10} for each in again[:1]]
        self.sent[kiosk.id] += fresh
        return [*fresh, *again, *changed]

    def note(self, kiosk: Kiosk, results: list[dict[str, Any]]) -> int:
        self.checkins += [kiosk.checkin_id(result["id"]) for result in results if result["status"] != "rejected"]
        return 200

    def post(self) -> int:
        kiosk = self.chance.choice(self.kiosks)
        sent_at = ago(days=self.chance.choice([0, 0, 0, 0, 3, -3]))
        reply = kiosk.api.post("/checkins", {"items": self.rows(kiosk), "sent_at": sent_at})
        return self.note(kiosk, reply.json["results"]) if reply.status == 200 else reply.status

    def bring_in(self) -> int:
        kiosk = self.chance.choice(self.kiosks)
        body = {"device": kiosk.id, "reason": "tablet broken", "items": self.rows(kiosk)}
        return self.note(kiosk, self.officer.post("/checkins/import", body).json["results"])

    def approve(self) -> int:
        when = {"captured_at": ago(days=self.chance.randint(0, 60))} if self.chance.random() < 0.5 else {}
        waiting = self.officer.get("/checkins/quarantine").json["items"]
        ids = [each["id"] for each in waiting] if self.chance.random() < 0.8 else self.checkins
        return self.post_as_officer(f"/checkins/{self.chance.choice(ids)}/approve", **when) if ids else 0

    def void(self) -> int:
        return self.post_as_officer(f"/checkins/{self.chance.choice(self.checkins)}/void") if self.checkins else 0

    def report(self) -> int:
        station = self.chance.choice(self.seats)
        reply = self.officer.post("/faults", {"station": station, "kind": "power"})
        self.faults.append(reply.json["id"])
        return reply.status

    def clear(self) -> int:
        return self.post_as_officer(f"/faults/{self.chance.choice(self.faults)}/clear") if self.faults else 0

    def post_as_officer(self, path: str, **body: Any) -> int:
        return self.officer.post(path, {"reason": "at random", **body}).status


def stored(stations: Stations) -> Counter[tuple[str, str]]:
    """What the documents say: (measure, county and where it matters day) -> figure."""
    found: Counter[tuple[str, str]] = Counter()
    walked = {"county": {"$in": WALKED}}
    for checkin in stations.database["checkins"].find(walked):
        county = checkin["county"]
        if checkin["status"] in rules.COUNTED:
            found["stations.checkins", f"{county} {checkin['day']}"] += checkin["people"]
            found["stations.checkin_records", f"{county} {checkin['day']}"] += 1
        if checkin["status"] == rules.QUARANTINED:
            found["stations.quarantined", f"{county} {clock.day(checkin['received_at'])}"] += 1
    for station in stations.database["stations"].find({"state": {"$in": [rules.ACTIVE, rules.SUSPENDED]}, **walked}):
        county = station["county"]
        found["stations.stations", county] += 1
        found["stations.suspended", county] += station["state"] == rules.SUSPENDED
        found["stations.mother_rooms", county] += "mother_room" in [has["kind"] for has in station["facilities"]]
    for device in stations.database["devices"].find({"state": {"$ne": rules.REVOKED}, **walked}):
        found["stations.devices", device["county"]] += 1
    for fault in stations.database["faults"].find({"state": rules.OPEN, **walked}):
        found["stations.faults", fault["county"]] += 1
    return +found


def published(events: list[dict[str, Any]]) -> Counter[tuple[str, str]]:
    """What the events say, in the same shape."""
    found: Counter[tuple[str, str]] = Counter()
    by_day = ("stations.checkins", "stations.checkin_records", "stations.quarantined")
    for (measure, county, day), value in total(events).items():
        found[measure, f"{county} {day}" if measure in by_day else county] += value
    assert not -found
    return +found


def test_after_a_random_walk_events_documents_and_counts_agree(stations: Stations, tap: Tap) -> None:
    seed = 20250716
    walk = Walk(stations, seed)
    for number in range(300):
        walk.step()
        if number % 50 == 0:
            tap.drain()
    stations.settled()
    events = until(lambda: complete(stations, once_each(tap.drain())), f"all events published (seed {seed})")
    assert published(events) == stored(stations), f"seed {seed}"

    counts = walk.officer.get(f"/counts?first_day={day_of(ago(days=300))}&last_day={day_of(ago(days=-65))}")
    figures = {f"{each['county']} {each['day']}": each for each in counts.json["items"]}
    for measure, name in (("stations.checkins", "people"), ("stations.checkin_records", "records")):
        said = {place: value for (key, place), value in published(events).items() if key == measure}
        assert said == {place: figure[name] for place, figure in figures.items()}
    # the walk was worth it: every kind of act happened and some were refused
    assert {act for act, status in walk.outcomes if status in (200, 201)} >= {
        "propose", "move", "facility", "enroll", "revoke", "post", "bring_in", "approve", "void", "report", "clear",
    }, walk.outcomes  # fmt: skip
    assert any(status == 409 for _act, status in walk.outcomes)
    assert not any(status >= 500 for _act, status in walk.outcomes)


def complete(stations: Stations, events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The walk's events, once each, when every document's are there from 1 to its ``seq``; else nothing yet."""
    walked = [event for event in events if event["county"] in WALKED]
    subjects: dict[str, list[int]] = defaultdict(list)
    for event in walked:
        subjects[event["subject"]].append(event["seq"])
    expected = {
        found["_id"]: list(range(1, found["seq"] + 1))
        for name in ("stations", "devices", "checkins", "faults")
        for found in stations.database[name].find({"seq": {"$gt": 0}, "county": {"$in": WALKED}}, {"seq": 1})
    }
    return walked if {subject: sorted(seqs) for subject, seqs in subjects.items()} == expected else []
