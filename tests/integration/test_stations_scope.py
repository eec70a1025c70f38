"""Districts: an officer sees and changes what lies in the own county and its zones, and nothing else exists."""

from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration.stations_api import Api, Kiosk, Stations, ago, new_id, row
from tests.parts import World

HERE, ELSEWHERE = "370982", "370902"


@pytest.fixture(scope="module")
def stations(shared_world: World) -> Iterator[Stations]:
    """The service; its relay has no part in this."""
    with Stations(shared_world, relay=False) as running:
        yield running


class Place:
    """One of everything, in one reporting unit."""

    def __init__(self, stations: Stations, county: str) -> None:
        self.county = county
        self.kiosk: Kiosk = stations.kiosk(county=county)
        waiting, counted = row(captured_at=ago(days=40)), row()
        self.kiosk.api.checkins(waiting, counted)
        self.day = stations.officer.get(f"/checkins/{self.kiosk.checkin_id(counted['id'])}").json["day"]
        fault = self.kiosk.api.post("/faults", {"kind": "power"}).json
        stock = {"station": self.kiosk.station, "item": "水", "quantity": 1, "unit": "箱"}
        supply = stations.officer.post("/supplies", stock).json
        self.ids = {
            "stations": self.kiosk.station,
            "devices": self.kiosk.id,
            "checkins": self.kiosk.checkin_id(waiting["id"]),
            "faults": fault["id"],
            "supplies": supply["id"],
        }

    def reads(self) -> dict[str, str]:
        """Every address of one thing that is read."""
        return {noun: f"/{noun}/{id_}" for noun, id_ in self.ids.items()}

    def acts(self) -> list[tuple[str, str, dict[str, Any] | None]]:
        """Every change of one thing, and every creation that names one."""
        station, device, checkin, fault, supply = self.ids.values()
        reason = {"reason": "as planned"}
        return [
            ("PATCH", f"/stations/{station}", {"name": "我的"}),
            *[("POST", f"/stations/{station}/{move}", reason) for move in ("open", "suspend", "resume", "close")],
            ("POST", f"/stations/{station}/facilities", {"facility": "rest"}),
            ("DELETE", f"/stations/{station}/facilities/water", None),
            ("POST", f"/stations/{station}/devices", {"label": "mine"}),
            ("GET", f"/stations/{station}/devices", None),
            ("POST", f"/devices/{device}/rotate", None),
            ("POST", f"/devices/{device}/revoke", reason),
            ("POST", "/checkins/import", {"device": device, "items": [row()], **reason}),
            ("POST", f"/checkins/{checkin}/approve", reason),
            ("POST", f"/checkins/{checkin}/void", reason),
            ("POST", "/faults", {"station": station, "kind": "power"}),
            ("POST", f"/faults/{fault}/clear", reason),
            ("POST", "/supplies", {"station": station, "item": "水", "quantity": 1, "unit": "箱"}),
            ("PATCH", f"/supplies/{supply}", {"quantity": 9}),
        ]


LISTS = ("/stations", "/checkins/quarantine", "/faults", "/supplies")


@pytest.fixture(scope="module")
def here(stations: Stations) -> Place:
    """One of everything in 370982."""
    return Place(stations, HERE)


def officer(stations: Stations, scope: str) -> Api:
    """A county officer of a place."""
    return stations.person("county_officer", scope=scope)


def snapshot(stations: Stations) -> dict[str, list[Any]]:
    """Everything that is stored."""
    names = ("stations", "devices", "checkins", "faults", "supplies")
    return {name: list(stations.database[name].find().sort("_id")) for name in names}


@pytest.mark.parametrize("scope", [ELSEWHERE, "370911", "370982-gx", "3709", "37", "", "370982 "])
def test_nothing_of_another_county_is_seen_or_changed(stations: Stations, here: Place, scope: str) -> None:
    stranger = officer(stations, scope)
    before = snapshot(stations)
    missing = stranger.get(f"/stations/{new_id()}").raw
    for path in here.reads().values():
        reply = stranger.get(path)
        assert (reply.status, reply.raw) == (404, missing), path
    for method, path, body in here.acts():
        reply = stranger.call(method, path, body, headers={"If-Match": '"1"'})
        assert (reply.status, reply.raw) == (404, missing), (method, path)
    for path in LISTS:
        assert here.county not in stranger.get(path).raw.decode()
    for path in (f"/stations?county={HERE}", f"/faults?station={here.kiosk.station}",
                 f"/supplies?station={here.kiosk.station}"):  # fmt: skip
        assert stranger.get(path).json == {"items": [], "next": None}
    assert here.county not in stranger.get(f"/counts?first_day={here.day}&last_day={here.day}").raw.decode()
    body = {"county": HERE, "name": "我的", "address": "别处", "facilities": []}
    refused = stranger.post("/stations", body)
    assert (refused.status, refused.errors()) == (422, {"county": "outside_your_district"})
    assert snapshot(stations) == before


def test_everything_of_the_own_county_is_seen_and_can_be_changed(stations: Stations) -> None:
    place = Place(stations, "370921")
    own = officer(stations, "370921")
    for path in place.reads().values():
        assert own.get(path).status == 200
    for path in LISTS:
        assert {item["county"] for item in own.get(path).json["items"]} == {"370921"}
    counts = own.get(f"/counts?first_day={place.day}&last_day={place.day}").json["items"]
    assert [(count["county"], count["people"]) for count in counts] == [("370921", 3)]
    # each act is allowed: refused at most for its state or version, never as not there
    for method, path, body in place.acts():
        assert own.call(method, path, body, headers={"If-Match": '"1"'}).status in {200, 201, 409, 412}, (method, path)


@pytest.mark.parametrize(
    ("scope", "zone", "seen"),
    [
        ("370911", "370911-gx", True),
        ("370911-gx", "370911-gx", True),
        ("370900", "370911-gx", True),
        ("370902", "370911-gx", False),
        ("370911-gx", "370911", False),
        ("370902", "370902-js", True),
        ("370902-js", "370902", False),
        ("370911", "370902-js", False),
    ],
)
def test_a_zone_is_seen_by_its_county_and_not_the_other_way_round(
    stations: Stations, scope: str, zone: str, seen: bool
) -> None:
    station = stations.station(zone)
    who = officer(stations, scope)
    assert (who.get(f"/stations/{station['id']}").status == 200) is seen
    listed = {item["id"] for item in who.get(f"/stations?county={zone}&limit=200").json["items"]}
    assert (station["id"] in listed) is seen
    body = {"county": zone, "name": "新驿站", "address": "高新区", "facilities": []}
    assert who.post("/stations", body).status == (201 if seen else 422)


def test_a_device_acts_for_its_own_station_only(stations: Stations, here: Place) -> None:
    device = stations.kiosk(county=ELSEWHERE)
    for path in here.reads().values():
        assert device.api.get(path).status == 403
    for method, path, body in here.acts():
        if path == "/faults":
            fault = device.api.post(path, body).json
            assert (fault["station"], fault["county"]) == (device.station, ELSEWHERE)
        else:
            assert device.api.call(method, path, body, headers={"If-Match": '"1"'}).status == 403


def test_an_officers_events_and_audit_rows_name_the_place_of_the_thing(stations: Stations) -> None:
    zone = stations.station("370911-gx")
    officer(stations, "370911").post(f"/stations/{zone['id']}/suspend", {"reason": "repairs"})
    stored = stations.database["stations"].find_one({"_id": zone["id"]})
    assert stored is not None
    assert {event["county"] for event in stored["out"]} == {"370911-gx"}
    assert stored["audit"][-1]["scope"] == "370911"
