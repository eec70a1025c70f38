"""Every endpoint of the running stations service: what it answers when all is well, and every problem it documents."""

import re
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import pytest
from pymongo.database import Database

from services.kernel import mongo
from services.kernel.mongo import Document
from tests.integration.stations_api import BASE, Api, Kiosk, Reply, Stations, ago, new_id, row
from tests.parts import World, until


@pytest.fixture(scope="module")
def stations(shared_world: World) -> Iterator[Stations]:
    """The service; its relay has no part in this."""
    with Stations(shared_world, relay=False) as running:
        yield running


@pytest.fixture(scope="module")
def kiosk(stations: Stations) -> Kiosk:
    """A device at a station in service."""
    return stations.kiosk()


# Stations


def test_a_station_is_registered_found_edited_and_moved(stations: Stations) -> None:
    body = {
        "county": "370982",
        "name": "驿站",
        "address": "平阳路",
        "facilities": ["water", "rest"],
        "opens": "22:00",
        "closes": "06:00",
        "position": {"lat": 35.9, "lon": 117.77},
    }
    made = stations.officer.post("/stations", body)
    assert (made.status, made.etag) == (201, '"1"')
    assert made.headers["Location"] == f"{BASE}/stations/{made.json['id']}"
    path = f"/stations/{made.json['id']}"
    assert made.json == {
        **body,
        "id": made.json["id"],
        "facilities": [{"kind": kind, "since": made.json["facilities"][0]["since"]} for kind in body["facilities"]],
        "state": "proposed",
        "state_since": made.json["state_since"],
        "rev": 1,
    }
    assert stations.officer.get(path).json == made.json

    edited = stations.officer.patch(path, {"name": "夜间驿站", "position": None}, made.etag)
    assert (edited.status, edited.etag) == (200, '"2"')
    assert (edited.json["name"], edited.json["position"], edited.json["address"]) == ("夜间驿站", None, "平阳路")
    assert stations.officer.patch(path, {"name": "迟到"}, made.etag).status == 412
    assert stations.officer.patch(path, {"name": "迟到"}, '"no version"').status == 412

    for move, state in (("open", "active"), ("suspend", "suspended"), ("resume", "active"), ("close", "closed")):
        assert stations.move(made.json["id"], move).json["state"] == state
    refused = stations.officer.post(f"{path}/open", {"reason": "once more"})
    assert (refused.status, refused.code, refused.json["state"]) == (409, "wrong_state", "closed")


def test_a_facility_is_added_once_and_removed_once(stations: Stations) -> None:
    path = f"/stations/{stations.station(facilities=['rest'])['id']}/facilities"
    added = stations.officer.post(path, {"facility": "mother_room"})
    assert [facility["kind"] for facility in added.json["facilities"]] == ["rest", "mother_room"]
    again = stations.officer.post(path, {"facility": "mother_room"})
    assert (again.status, again.code) == (409, "facility_present")
    removed = stations.officer.call("DELETE", f"{path}/mother_room")
    assert (removed.status, [facility["kind"] for facility in removed.json["facilities"]]) == (200, ["rest"])
    assert stations.officer.call("DELETE", f"{path}/mother_room").status == 404


def test_a_closed_station_gains_and_loses_nothing(stations: Stations) -> None:
    id_ = stations.station()["id"]
    stations.move(id_, "close")
    refused = [
        stations.officer.post(f"/stations/{id_}/facilities", {"facility": "rest"}),
        stations.officer.call("DELETE", f"/stations/{id_}/facilities/water"),
        stations.officer.post(f"/stations/{id_}/devices", {"label": "tablet"}),
    ]
    assert [(reply.status, reply.json["state"]) for reply in refused] == [(409, "closed")] * 3


def test_anyone_sees_the_stations_in_service_and_no_others(stations: Stations) -> None:
    served = stations.station("370983", facilities=["mother_room"], opens="00:00", closes="00:00")
    stations.station("370983", opened=False)
    suspended = stations.station("370983")
    stations.move(suspended["id"], "suspend")
    anyone = stations.with_token("")
    found = anyone.get("/open?county=370983").json
    assert [(station["id"], station["open_now"]) for station in found["items"]] == [(served["id"], True)]
    assert found["items"][0].keys() == {
        "id", "county", "name", "address", "facilities", "opens", "closes", "position", "open_now"
    }  # fmt: skip
    assert [station["id"] for station in anyone.get("/open?facility=mother_room&county=370983").json["items"]] == [
        served["id"]
    ]
    assert anyone.get("/open?facility=first_aid&county=370983").json == {"items": [], "next": None}


def walk(api: Api, path: str, limit: int) -> list[dict[str, Any]]:
    """All items of a list, page by page."""
    found: list[dict[str, Any]] = []
    cursor: str | None = ""
    while cursor is not None:
        sign = "&" if "?" in path else "?"
        page = api.get(f"{path}{sign}limit={limit}&cursor={cursor}")
        assert page.status == 200, page.raw
        assert len(page.json["items"]) <= limit
        found += page.json["items"]
        cursor = page.json["next"]
    return found


def test_lists_are_paged_without_gaps_or_repeats_and_filtered(stations: Stations, kiosk: Kiosk) -> None:
    scope = "370923"
    officer = stations.person("county_officer", scope=scope)
    made = [stations.station(scope, opened=number % 2 == 0)["id"] for number in range(7)]
    assert [station["id"] for station in walk(officer, "/stations", 3)] == made
    assert [station["id"] for station in walk(officer, "/stations?state=proposed", 1)] == made[1::2]
    assert [station["id"] for station in walk(officer, f"/stations?county={scope}", 7)] == made

    devices = [stations.kiosk({"id": made[0], "county": scope}).id for _device in range(3)]
    assert [device["id"] for device in walk(officer, f"/stations/{made[0]}/devices", 2)] == devices
    faults = [officer.post("/faults", {"station": made[number % 2], "kind": "power"}).json["id"] for number in range(4)]
    officer.post(f"/faults/{faults[0]}/clear", {"reason": "mended"})
    assert [fault["id"] for fault in walk(officer, "/faults", 3)] == faults
    assert [fault["id"] for fault in walk(officer, "/faults?state=open", 2)] == faults[1:]
    assert [fault["id"] for fault in walk(officer, f"/faults?station={made[1]}", 1)] == faults[1::2]
    dates = ["2026-01-31", None, "2026-02-01", "2027-01-01"]
    supplies = [
        officer.post(
            "/supplies", {"station": made[0], "item": "水", "quantity": 9, "unit": "箱", "expires_on": date}
        ).json["id"]
        for date in dates
    ]
    assert [supply["id"] for supply in walk(officer, "/supplies", 3)] == supplies
    soon = walk(officer, "/supplies?expires_before=2026-02-01", 5)
    assert [supply["id"] for supply in soon] == supplies[:1]
    assert walk(officer, f"/supplies?station={made[1]}", 5) == []


# Devices


def test_a_device_is_enrolled_rotated_and_revoked(stations: Stations) -> None:
    station = stations.station()
    made = stations.officer.post(f"/stations/{station['id']}/devices", {"label": " 门口平板 "})
    assert (made.status, made.json["label"], made.json["state"]) == (201, "门口平板", "enrolled")
    path = f"/devices/{made.json['id']}"
    assert made.headers["Location"] == BASE + path
    shown = stations.officer.get(path)
    assert shown.json == {name: value for name, value in made.json.items() if name != "key"}

    rotated = stations.officer.post(f"{path}/rotate")
    assert rotated.status == 200
    keys = [made.json["key"], rotated.json["key"]]
    assert len(set(keys)) == 2
    for key in keys:
        assert stations.with_token(key).post("/heartbeats", {}).status == 204
    assert stations.officer.get(path).json["state"] == "active"

    revoked = stations.officer.post(f"{path}/revoke", {"reason": "stolen"})
    assert (revoked.status, revoked.json["state"]) == (200, "revoked")
    for act in (f"{path}/rotate", f"{path}/revoke"):
        refused = stations.officer.post(act, {"reason": "again"})
        assert (refused.status, refused.json["state"]) == (409, "revoked")
    stored = stations.database["devices"].find_one({"_id": made.json["id"]})
    assert stored is not None
    assert stored["keys"] == []
    assert not any(key.partition(".")[2] in str(stored) for key in keys)


def test_a_heartbeat_tells_what_a_device_still_holds(stations: Stations, kiosk: Kiosk) -> None:
    beat = kiosk.api.post("/heartbeats", {"unsent": 17, "sent_at": ago(minutes=2)})
    assert (beat.status, beat.raw) == (204, b"")
    device = stations.officer.get(f"/devices/{kiosk.id}").json
    assert (device["unsent"], device["silent"], device["state"]) == (17, False, "active")


# Check-ins


def test_a_check_in_is_recorded_shown_counted_and_taken_back(stations: Stations) -> None:
    kiosk = stations.kiosk(county="370921")
    sent = [row(people=4), row(kind="mother_room", people=1)]
    reply = kiosk.api.post("/checkins", {"items": sent})
    assert reply.json["results"] == [
        {"id": each["id"], "status": "accepted", "code": "recorded", "final": True} for each in sent
    ]
    id_ = kiosk.checkin_id(sent[0]["id"])
    shown = stations.officer.get(f"/checkins/{id_}").json
    assert (shown["status"], shown["people"], shown["reasons"]) == ("accepted", 4, [])
    assert shown["received_at"][:23] == reply.json["received_at"][:23]

    counts = f"/counts?first_day={shown['day']}&last_day={shown['day']}"
    county = stations.person("county_officer", scope="370921")
    assert county.get(counts).json == {"items": [{"county": "370921", "day": shown["day"], "people": 5, "records": 2}]}
    assert stations.act(f"/checkins/{id_}/void")["status"] == "voided"
    assert county.get(counts).json["items"][0] == {"county": "370921", "day": shown["day"], "people": 1, "records": 1}
    refused = stations.officer.post(f"/checkins/{id_}/void", {"reason": "again"})
    assert (refused.status, refused.json["state"]) == (409, "voided")


def test_a_quarantined_check_in_waits_for_an_officer(stations: Stations, kiosk: Kiosk) -> None:
    sent = row(captured_at=ago(days=40))
    assert kiosk.api.checkins(sent)[0]["status"] == "quarantined"
    id_ = kiosk.checkin_id(sent["id"])
    assert id_ in {waiting["id"] for waiting in walk(stations.officer, "/checkins/quarantine", 200)}
    approved = stations.act(f"/checkins/{id_}/approve", captured_at=ago(days=39))
    assert (approved["status"], approved["rev"]) == ("approved", 2)
    assert id_ not in {waiting["id"] for waiting in walk(stations.officer, "/checkins/quarantine", 200)}
    refused = stations.officer.post(f"/checkins/{id_}/approve", {"reason": "again"})
    assert (refused.status, refused.json["state"]) == (409, "approved")
    future = kiosk.api.checkins(late := row(captured_at=ago(days=-2)))[0]
    assert future["code"] == "captured_in_future"
    refused = stations.officer.post(f"/checkins/{kiosk.checkin_id(late['id'])}/approve", {"reason": "seen"})
    assert (refused.status, refused.errors()) == (422, {"captured_at": "in_the_future"})


# Faults and supplies


def test_a_fault_is_reported_by_device_or_staff_and_cleared(stations: Stations, kiosk: Kiosk) -> None:
    by_device = kiosk.api.post("/faults", {"kind": "network"})
    assert (by_device.status, by_device.json["station"], by_device.json["note"]) == (201, kiosk.station, "")
    staff = stations.person("station_staff", scope=kiosk.county)
    elsewhere = stations.station()
    assert kiosk.api.post("/faults", {"kind": "door", "station": elsewhere["id"]}).json["station"] == kiosk.station
    by_staff = staff.post("/faults", {"kind": "door", "station": elsewhere["id"], "note": "卡住"})
    path = f"/faults/{by_staff.json['id']}"
    assert by_staff.headers["Location"] == BASE + path
    assert stations.officer.get(path).json == by_staff.json
    cleared = staff.post(f"{path}/clear", {"reason": "mended"})
    assert (cleared.status, cleared.json["state"]) == (200, "cleared")
    refused = staff.post(f"{path}/clear", {"reason": "mended"})
    assert (refused.status, refused.json["state"]) == (409, "cleared")
    nameless = staff.post("/faults", {"kind": "door"})
    assert (nameless.status, nameless.errors()) == (422, {"station": "required"})
    assert staff.post("/faults", {"kind": "door", "station": new_id()}).status == 404


def test_a_stock_is_noted_and_edited(stations: Stations, kiosk: Kiosk) -> None:
    staff = stations.person("station_staff", scope=kiosk.county)
    body = {"station": kiosk.station, "item": "藿香正气水", "quantity": 20, "unit": "盒", "expires_on": "2027-03-01"}
    made = staff.post("/supplies", body)
    path = f"/supplies/{made.json['id']}"
    assert (made.status, made.headers["Location"]) == (201, BASE + path)
    assert made.json == {**body, "id": made.json["id"], "county": kiosk.county, "rev": 1}
    edited = staff.patch(path, {"quantity": 0, "expires_on": None}, made.etag)
    assert (edited.status, edited.json["quantity"], edited.json["expires_on"]) == (200, 0, None)
    assert stations.officer.get(path).json == edited.json
    assert staff.patch(path, {"quantity": 5}, made.etag).status == 412
    assert staff.post("/supplies", {**body, "station": new_id()}).status == 404


# Repeating a request


def test_a_repeated_request_is_answered_again_and_done_once(stations: Stations) -> None:
    key = new_id()
    body = {"county": "370902", "name": "驿站", "address": "东岳大街", "facilities": []}
    first = stations.officer.post("/stations", body, Idempotency_Key=key)
    again = stations.officer.post("/stations", body, Idempotency_Key=f'"{key}"')
    assert (first.status, again.status) == (201, 201)
    assert (again.raw, again.headers["Location"]) == (first.raw, first.headers["Location"])
    other = stations.officer.post("/stations", {**body, "name": "别的"}, Idempotency_Key=key)
    assert (other.status, other.code) == (409, "idempotency_key_reused")
    somebody = stations.person(subject="officer-2").post("/stations", body, Idempotency_Key=key)
    assert (somebody.status, somebody.json["id"] == first.json["id"]) == (201, False)


def test_a_devices_key_is_never_shown_again(stations: Stations) -> None:
    path = f"/stations/{stations.station()['id']}/devices"
    key = new_id()
    first = stations.officer.post(path, {"label": "tablet"}, Idempotency_Key=key)
    again = stations.officer.post(path, {"label": "tablet"}, Idempotency_Key=key)
    assert first.json["key"].startswith("esd_")
    assert (again.status, again.json) == (201, {**first.json, "key": None})
    assert stations.with_token(first.json["key"]).post("/heartbeats", {}).status == 204
    assert len(stations.officer.get(path).json["items"]) == 1


# Every problem of every operation, as the OpenAPI document has it

Operation = tuple[str, str]
RESERVED = {("PATCH", 409)}
"""The kernel documents a conflict for every edit; no edit of this service depends on a state."""
ROLES = {"county_officer", "city_officer", "unit_officer", "station_staff", "ops", "worker"}


def operations_of(stations: Stations) -> dict[Operation, dict[str, Any]]:
    """(method, path below the base) -> the operation, for all of them."""
    document = stations.with_token("").get("/openapi.json").json
    return {
        (method.upper(), path.removeprefix(BASE)): operation
        for path, operations in document["paths"].items()
        for method, operation in operations.items()
    }


class Scene:
    """Something to name in every address, and a caller for every operation."""

    def __init__(self, stations: Stations) -> None:
        self.stations, self.kiosk = stations, stations.kiosk()
        waiting = row(captured_at=ago(days=40))
        self.kiosk.api.checkins(waiting)
        fault = self.kiosk.api.post("/faults", {"kind": "power"}).json["id"]
        supply = stations.officer.post(
            "/supplies", {"station": self.kiosk.station, "item": "水", "quantity": 1, "unit": "箱"}
        ).json["id"]
        self.ids = {
            "stations": self.kiosk.station,
            "devices": self.kiosk.id,
            "checkins": self.kiosk.checkin_id(waiting["id"]),
            "faults": fault,
            "supplies": supply,
        }

    def operations(self) -> dict[Operation, dict[str, Any]]:
        """Every operation."""
        return operations_of(self.stations)

    def path(self, template: str, *, id_: str | None = None, query: bool = True) -> str:
        """An address of something that is there."""
        noun = template.split("/")[1]
        path = template.replace("{id}", id_ or self.ids.get(noun, ""))
        path = path.replace("{move}", "suspend").replace("{kind}", "water")
        return path + ("?first_day=2025-01-01&last_day=2025-01-31" if query and template == "/counts" else "")

    def caller(self, operation: dict[str, Any]) -> Api:
        """Somebody who may call it."""
        roles = operation.get("x-roles", [])
        if roles == ["device"]:
            return self.kiosk.api
        return self.stations.officer if roles else self.stations.with_token("")

    def body(self, operation: dict[str, Any]) -> dict[str, Any] | None:
        """A body that it takes."""
        if "requestBody" not in operation:
            return None
        schema = operation["requestBody"]["content"]["application/json"]["schema"]["$ref"].rsplit("/", 1)[1]
        bodies: dict[str, dict[str, Any]] = {
            "StationIn": {"county": "370902", "name": "驿站", "address": "东岳大街", "facilities": []},
            "StationEdit": {"name": "驿站"},
            "ReasonIn": {"reason": "as planned"},
            "FacilityIn": {"facility": "toilet"},
            "DeviceIn": {"label": "tablet"},
            "CheckinBatchIn": {"items": [row()]},
            "CheckinImportIn": {"device": self.kiosk.id, "reason": "broken", "items": [row()]},
            "ApprovalIn": {"reason": "as planned"},
            "HeartbeatIn": {},
            "FaultIn": {"kind": "power", "station": self.kiosk.station},
            "SupplyIn": {"station": self.kiosk.station, "item": "水", "quantity": 1, "unit": "箱"},
            "SupplyEdit": {"quantity": 2},
        }
        return bodies[schema]

    def call(self, operation: Operation, about: dict[str, Any], *, caller: Api | None = None, **how: Any) -> Reply:
        """A call that succeeds, but for what is told."""
        method, template = operation
        path = how.pop("path", None) or self.path(template)
        headers = {"If-Match": '"1"', **how.pop("headers", {})}
        body = how.pop("body", self.body(about)) if "raw" not in how else None
        return (caller or self.caller(about)).call(method, path, body, headers=headers, **how)


@pytest.fixture(scope="module")
def scene(stations: Stations) -> Scene:
    """The scene of this module."""
    return Scene(stations)


def provoke_401(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """No credential, a bad one, a good one in a bad place."""
    for token in ("", "nonsense", "esd_nonsense", f"esd_{new_id()}.secret", scene.stations.officer.token[:-4]):
        yield scene.call(operation, about, caller=scene.stations.with_token(token))
    yield scene.call(operation, about, headers={"Authorization": f"Basic {scene.stations.officer.token}"})


def provoke_403(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """Each role that may not; a person who claims to be a device; a device where people are asked."""
    for role in ROLES - set(about["x-roles"]) | {"device"}:
        yield scene.call(operation, about, caller=scene.stations.person(role))
    if "device" not in about["x-roles"]:
        yield scene.call(operation, about, caller=scene.kiosk.api)


def provoke_404(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """What is not there, and what lies elsewhere: not to be told apart."""
    template = operation[1]
    elsewhere = scene.stations.person(*about["x-roles"], scope="370982")
    if "{id}" in template:
        for id_ in (new_id(), "0", "%24ne", "%00"):
            yield scene.call(operation, about, path=scene.path(template, id_=id_))
        yield scene.call(operation, about, caller=elsewhere)
    else:  # the body names it
        body = scene.body(about)
        assert body is not None
        name = "device" if "device" in body else "station"
        yield scene.call(operation, about, body={**body, name: new_id()})
        yield scene.call(operation, about, caller=elsewhere)


def provoke_409(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """Against the present state, or with a key that stands for something else."""
    stations = scene.stations
    if any(parameter["name"] == "Idempotency-Key" for parameter in about["parameters"]):
        key, body = new_id(), scene.body(about)
        assert body is not None
        text = next(name for name in ("name", "label", "kind", "item") if name in body)
        assert scene.call(operation, about, headers={"Idempotency-Key": key}).status == 201
        changed = {**body, text: "door" if text == "kind" else "another"}
        yield scene.call(operation, about, body=changed, headers={"Idempotency-Key": key})
        return
    kiosk = stations.kiosk()
    sent = row()
    kiosk.api.checkins(sent)
    fault = kiosk.api.post("/faults", {"kind": "power"}).json["id"]
    stations.act(f"/faults/{fault}/clear")
    stations.act(f"/devices/{kiosk.id}/revoke")
    stations.act(f"/checkins/{kiosk.checkin_id(sent['id'])}/void")
    stations.move(kiosk.station, "close")
    settled = {
        "stations": kiosk.station,
        "devices": kiosk.id,
        "checkins": kiosk.checkin_id(sent["id"]),
        "faults": fault,
    }
    yield scene.call(operation, about, path=scene.path(operation[1], id_=settled[operation[1].split("/")[1]]))


def provoke_412(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """A version that never was, and one in another form."""
    for version in ('"99"', '"0"', "*", "1"):
        yield scene.call(operation, about, headers={"If-Match": version})


def provoke_428(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """Neither a key nor a version."""
    yield scene.call(operation, about, headers={"If-Match": None, "Idempotency-Key": None})


def provoke_400(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """What is no JSON."""
    if "requestBody" in about:
        for raw in (b"{", b"\xff\xfe{}", b'{"a":1,"a":2}', b'{"a":NaN}', b"[" * 40 + b"]" * 40):
            yield scene.call(operation, about, raw=raw)


def provoke_413(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """Announced, and in chunks without an announcement."""
    yield scene.call(operation, about, raw=b" " * (300 * 1024))
    yield scene.call(operation, about, raw=(b" " * 65536 for _chunk in range(5)))


def provoke_415(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """Not JSON by its name."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", None):
        yield scene.call(operation, about, headers={"Content-Type": kind})


def provoke_422(scene: Scene, operation: Operation, about: dict[str, Any]) -> Iterator[Reply]:
    """Fields that are not known, or no object at all."""
    if "requestBody" in about:
        for raw in (b'{"$where":"1"}', b"[]", b'"text"', b"null"):
            yield scene.call(operation, about, raw=raw)
    else:
        path = scene.path(operation[1], query=False)
        for query in ("?no_such_filter=1", "?limit=0", "?limit=1&limit=2", "?county[$ne]=1"):
            yield scene.call(operation, about, path=path + query)


PROVOKE: dict[int, Callable[[Scene, Operation, dict[str, Any]], Iterator[Reply]]] = {
    400: provoke_400,
    401: provoke_401,
    403: provoke_403,
    404: provoke_404,
    409: provoke_409,
    412: provoke_412,
    413: provoke_413,
    415: provoke_415,
    422: provoke_422,
    428: provoke_428,
}


@pytest.mark.parametrize("status", sorted(PROVOKE))
def test_every_documented_problem_is_answered_as_a_problem_document(scene: Scene, status: int) -> None:
    operations = {
        key: about
        for key, about in scene.operations().items()
        if str(status) in about["responses"] and (key[0], status) not in RESERVED
    }
    assert operations
    for operation, about in operations.items():
        for reply in PROVOKE[status](scene, operation, about):
            assert reply.status == status, (operation, reply.raw)
            assert reply.headers["Content-Type"] == "application/problem+json"
            assert reply.json["status"] == status
            assert reply.headers["Cache-Control"] == "no-store"


def test_what_is_not_yours_looks_like_what_is_not_there(scene: Scene) -> None:
    elsewhere = scene.stations.person("county_officer", scope="370982")
    missing = elsewhere.get(f"/stations/{new_id()}")
    foreign = elsewhere.get(f"/stations/{scene.ids['stations']}")
    assert (foreign.status, foreign.raw) == (404, missing.raw)


def test_another_method_is_answered_with_those_that_are_allowed(scene: Scene) -> None:
    known = list(scene.operations())
    for path in {scene.path(template, query=False) for _method, template in known}:
        allowed = {method for method, template in known if scene.path(template, query=False) == path}
        for method in {"GET", "POST", "PUT", "PATCH", "DELETE", "TRACE", "QUERY"} - allowed:
            reply = scene.stations.officer.call(method, path)
            assert reply.status == 405, (method, path)
            assert set(reply.headers["Allow"].split(", ")) - {"HEAD"} == allowed


def test_an_address_that_is_nobodys_is_not_found(stations: Stations) -> None:
    for path in ("", "/", "/nothing", "/stations/", "/stations//open", "/../stations", "/stations/x/y/z"):
        assert stations.officer.get(path).status == 404


def test_a_problem_is_told_in_chinese_or_in_english_and_never_repeats_what_was_sent(stations: Stations) -> None:
    canary = "370902199001011234"
    body = {"county": canary, "name": canary * 9, "address": "东岳大街", "facilities": [canary], canary: canary}
    chinese = stations.officer.post("/stations", body)
    english = stations.officer.post("/stations", body, Accept_Language="en-GB,en;q=0.8")
    assert (chinese.status, english.status) == (422, 422)
    assert (chinese.headers["Content-Language"], english.headers["Content-Language"]) == ("zh-CN", "en")
    assert re.search("[\u4e00-\u9fff]", chinese.json["title"])
    assert english.json["title"].isascii()
    assert canary not in (chinese.raw + english.raw).decode()
    assert chinese.errors() == {
        "county": "not_a_choice", "name": "bad_length_of_text", "facilities.0": "not_a_choice", "*": "unknown_field"
    }  # fmt: skip


# Too fast, and a database that is away


def test_too_fast_is_429_with_retry_after_on_every_operation_alone(shared_world: World) -> None:
    once = {"ESTATION_REQUESTS_PER_MINUTE": "1", "ESTATION_DEVICE_REQUESTS_PER_MINUTE": "1"}
    with Stations(shared_world, relay=False, **once) as slow:
        limited = 0
        for (method, template), about in operations_of(slow).items():
            caller = slow.person(*(about.get("x-roles") or ["worker"]), subject=f"{method} {template}")
            path = template.replace("{id}", new_id()).replace("{move}", "open").replace("{kind}", "water")
            replies = [caller.call(method, path) for _call in range(3)]
            if "429" in about["responses"]:
                limited += 1
                assert replies[-1].status == 429, (method, path)
                assert 1 <= int(replies[-1].headers["Retry-After"]) <= 60
                assert replies[-1].json["retry_after"] == int(replies[-1].headers["Retry-After"])
            else:
                assert [reply.status for reply in replies] == [200] * 3
        assert limited > 25


def test_a_database_that_is_away_is_503_on_every_operation_and_comes_back(scene: Scene) -> None:
    operations = {key: about for key, about in scene.operations().items() if key != ("GET", "/openapi.json")}
    commands = ("find", "insert", "findAndModify", "aggregate", "update")
    with failing(scene.stations.database, *commands, code=SHUTS_DOWN), ThreadPoolExecutor(40) as pool:
        replies = list(pool.map(lambda one: scene.call(*one), operations.items()))
    for operation, reply in zip(operations, replies, strict=True):
        assert (reply.status, reply.code) == (503, "unavailable"), operation
        assert int(reply.headers["Retry-After"]) >= 1
    until(lambda: scene.stations.officer.get("/stations").status == 200, "the service serves again")


def test_a_watch_without_a_database_does_not_take_the_service_along(world: World) -> None:
    database = mongo.connect(world.settings("stations"), "stations", "test")
    with (
        failing(database, "aggregate", code=TOO_SLOW),
        Stations(world, relay=False) as running,
    ):  # the watch looks at once
        until(
            lambda: any("error handling worker" in line["event"] for line in running.process.lines()),
            "the watch has failed",
        )
        assert running.with_token("").get("/open").status == 200
    assert running.process.stop() == 0
    database.client.close()


SHUTS_DOWN, TOO_SLOW = 11600, 50
"""Error codes of MongoDB; the driver tries again after the first for as long as it may."""


@contextmanager
def failing(database: Database[Document], *commands: str, code: int) -> Iterator[None]:
    """The database refuses the service some commands."""
    admin = database.client.admin
    data = {"failCommands": commands, "errorCode": code, "appName": "estation-stations-service"}
    admin.command("configureFailPoint", "failCommand", mode="alwaysOn", data=data)
    try:
        yield
    finally:
        admin.command("configureFailPoint", "failCommand", mode="off")
