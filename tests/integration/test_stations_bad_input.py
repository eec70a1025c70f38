"""The rows of the bad-input table that concern stations, each as a device or an officer would meet it."""

import json
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from services.stations import rules
from tests.integration.stations_api import BASE, Kiosk, Stations, ago, day_of, new_id, row
from tests.parts import World, until


@pytest.fixture(scope="module")
def stations(shared_world: World) -> Iterator[Stations]:
    """The service; its relay has no part in this."""
    with Stations(shared_world, relay=False) as running:
        yield running


@pytest.fixture
def kiosk(stations: Stations) -> Kiosk:
    """A device of its own for each test."""
    return stations.kiosk()


def kept(stations: Stations, kiosk: Kiosk) -> int:
    """How many check-ins of a device are in the database."""
    return stations.database["checkins"].count_documents({"device": kiosk.id})


# Batch with one bad row, too large, too fast


def test_batch_with_one_bad_row_takes_the_others(stations: Stations, kiosk: Kiosk) -> None:
    bad: list[object] = [
        None, 7, "row", [], {}, {"id": 5}, row(people=0), row(people=-2), row(people=1.5), row(people="3"),
        row(kind="sauna"), row(captured_at="yesterday"), row(captured_at="2025-02-30T10:00:00Z"), row(name="x"),
        {**row(), "id": {"$ne": 1}}, row(kind={"$in": ["water"]}), row(station="here"),
    ]  # fmt: skip
    for wrong in bad:
        before, after = row(), row()
        first, refused, last = kiosk.api.checkins(before, wrong, after)
        assert [first["status"], last["status"]] == ["accepted", "accepted"]
        assert (refused["status"], refused["final"]) == ("rejected", True), wrong
        assert "field" in refused
        assert refused["id"] is None or refused["id"] == wrong["id"]  # type: ignore[index]
    assert kept(stations, kiosk) == 2 * len(bad)


def test_a_batch_of_500_rows_is_taken_and_of_501_or_none_is_not(stations: Stations, kiosk: Kiosk) -> None:
    rows = [row(captured_at=ago(minutes=number % 5)) for number in range(500)]
    results = kiosk.api.checkins(*rows)
    assert [result["id"] for result in results] == [each["id"] for each in rows]
    assert {result["status"] for result in results} == {"accepted"}
    for items in ([*rows, row()], []):
        refused = kiosk.api.post("/checkins", {"items": items})
        assert (refused.status, refused.errors()) == (422, {"items": "out_of_range"})
    assert kept(stations, kiosk) == 500


def test_too_large_names_the_limit_announced_or_in_chunks(stations: Stations, kiosk: Kiosk) -> None:
    whole = json.dumps({"items": [row()]}).encode()
    limit = 256 * 1024
    at_the_limit = whole + b" " * (limit - len(whole))
    assert kiosk.api.call("POST", "/checkins", raw=at_the_limit).status == 200
    for raw in (at_the_limit + b" ", iter([at_the_limit, b" "])):
        refused = kiosk.api.call("POST", "/checkins", raw=raw)
        assert (refused.status, refused.json["limit"]) == (413, limit)
        assert str(limit) in refused.json["detail"]
    assert kept(stations, kiosk) == 1


def test_too_fast_is_429_with_retry_after_for_that_device_alone(shared_world: World) -> None:
    with Stations(shared_world, relay=False, ESTATION_DEVICE_REQUESTS_PER_MINUTE="5") as running:
        kiosk, other = running.kiosk(), running.kiosk()
        replies = [kiosk.api.post("/checkins", {"items": [row()]}) for _post in range(12)]
        # a minute may turn meanwhile, and then there are five more
        taken = sum(reply.status == 200 for reply in replies)
        assert taken in {5, 6, 7, 8, 9, 10}
        refused = next(reply for reply in replies if reply.status == 429)
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
        assert refused.code == "too_many_requests"
        assert kept(running, kiosk) == taken
        assert other.api.checkins(row())[0]["status"] == "accepted"


# Captured in the future, more than 30 days ago, before enrolment; clocks


@pytest.mark.parametrize(
    ("captured_at", "code"),
    [
        ({"minutes": -6}, "captured_in_future"),
        ({"days": -400}, "captured_in_future"),
        ({"days": 30, "minutes": 1}, "captured_too_long_ago"),
        ({"days": 1}, "captured_before_enrolment"),
    ],
)
def test_captured_in_future_too_long_ago_or_before_enrolment_waits(
    kiosk: Kiosk, stations: Stations, captured_at: dict[str, float], code: str
) -> None:
    sent = row(captured_at=ago(**captured_at))
    assert kiosk.api.checkins(sent)[0] == {"id": sent["id"], "status": "quarantined", "code": code, "final": True}
    shown = stations.officer.get(f"/checkins/{kiosk.checkin_id(sent['id'])}").json
    assert shown["status"] == "quarantined"
    assert shown["reasons"][0] == code


def test_a_clock_three_days_off_waits_is_approved_and_counts_on_the_right_day(stations: Stations, kiosk: Kiosk) -> None:
    happened = ago(hours=2)
    for off in (3, -3):
        sent = row(captured_at=ago(hours=2, days=off), people=7)
        result = kiosk.api.checkins(sent, sent_at=ago(days=off))[0]
        assert result["status"] == "quarantined"
        id_ = kiosk.checkin_id(sent["id"])
        assert "device_clock_off" in stations.officer.get(f"/checkins/{id_}").json["reasons"]
        assert stations.act(f"/checkins/{id_}/approve")["day"] == day_of(happened)


def test_a_late_row_lands_on_its_captured_day(stations: Stations) -> None:
    kiosk = stations.kiosk(county="370923")
    stations.backdate(kiosk, days=25)
    late, earlier = ago(days=9, hours=1), ago(days=20)
    results = kiosk.api.checkins(row(captured_at=late, people=5), row(captured_at=earlier, people=2))
    assert [result["status"] for result in results] == ["accepted", "accepted"]
    county = stations.person("county_officer", scope="370923")
    counts = county.get(f"/counts?first_day={day_of(earlier)}&last_day={day_of(late)}").json["items"]
    assert [(count["day"], count["people"]) for count in counts] == [(day_of(earlier), 2), (day_of(late), 5)]


# Identical and changed content, unknown station


def test_an_identical_resend_gets_the_first_answer_to_the_letter(stations: Stations, kiosk: Kiosk) -> None:
    rows = [row(), row(captured_at=ago(days=40)), row(people=0), row(station=new_id())]
    first = kiosk.api.checkins(*rows)
    assert [result["status"] for result in first] == ["accepted", "quarantined", "rejected", "rejected"]
    assert kiosk.api.checkins(*rows) == first
    stations.act(f"/checkins/{kiosk.checkin_id(rows[0]['id'])}/void")
    stations.act(f"/checkins/{kiosk.checkin_id(rows[1]['id'])}/approve")
    assert kiosk.api.checkins(*rows) == first
    stations.act(f"/checkins/{kiosk.checkin_id(rows[1]['id'])}/void")
    assert kiosk.api.checkins(*reversed(rows), sent_at=ago(days=3)) == [*reversed(first)]
    assert kept(stations, kiosk) == 2


def test_an_id_that_stands_twice_in_a_batch_is_one_row(stations: Stations, kiosk: Kiosk) -> None:
    same = row()
    results = kiosk.api.checkins(same, {**same, "people": 4}, same)
    assert [result["code"] for result in results] == ["recorded", "content_changed", "recorded"]
    assert kept(stations, kiosk) == 1


@pytest.mark.parametrize("change", [{"people": 4}, {"kind": "rest"}, {"captured_at": ago(seconds=90)}])
def test_changed_content_is_a_final_rejection_and_changes_nothing(
    stations: Stations, kiosk: Kiosk, change: dict[str, object]
) -> None:
    first = row()
    assert kiosk.api.checkins(first)[0]["status"] == "accepted"
    refused = kiosk.api.checkins({**first, **change})[0]
    assert refused == {"id": first["id"], "status": "rejected", "code": "content_changed", "final": True}
    stored = stations.database["checkins"].find_one({"_id": kiosk.checkin_id(first["id"])})
    assert stored is not None
    assert (stored["people"], stored["kind"], stored["rev"]) == (3, "water", 1)


def test_two_tablets_with_the_same_ids_do_not_collide(stations: Stations, kiosk: Kiosk) -> None:
    twin, same = stations.kiosk(), row()
    assert kiosk.api.checkins(same)[0]["code"] == "recorded"
    assert twin.api.checkins({**same, "people": 9})[0]["code"] == "recorded"
    assert kept(stations, kiosk) == kept(stations, twin) == 1


def test_unknown_station_is_a_final_rejection(stations: Stations, kiosk: Kiosk) -> None:
    others = stations.station()["id"]
    sent = [row(station=kiosk.station), row(station=others), row(station=new_id())]
    results = kiosk.api.checkins(*sent)
    assert [(result["status"], result["code"], result["final"]) for result in results] == [
        ("accepted", "recorded", True),
        ("rejected", "unknown_station", True),
        ("rejected", "unknown_station", True),
    ]
    assert kept(stations, kiosk) == 1


# Revoked devices


def test_a_revoked_key_and_a_closed_station_are_known_within_a_minute(stations: Stations, kiosk: Kiosk) -> None:
    other = stations.kiosk()
    for device in (kiosk, other):  # now the service believes both for a while
        assert device.api.checkins(row())[0]["status"] == "accepted"
    stations.act(f"/devices/{kiosk.id}/revoke")
    stations.move(other.station, "close")
    until(lambda: kiosk.api.post("/heartbeats", {}).status == 401, "the key is refused", 60)
    refused = kiosk.api.post("/checkins", {"items": [row()]})
    assert (refused.status, refused.headers["WWW-Authenticate"]) == (401, 'Bearer realm="estation"')
    until(
        lambda: other.api.checkins(row(captured_at=ago()))[0]["code"] == "station_not_active",
        "what happens after the closing waits",
        60,
    )


def test_what_a_revoked_device_still_held_comes_in_through_an_officer_and_waits(
    stations: Stations, kiosk: Kiosk
) -> None:
    before, held = row(), [row(captured_at=ago(minutes=number)) for number in range(3)]
    assert kiosk.api.checkins(before)[0]["status"] == "accepted"
    stations.act(f"/devices/{kiosk.id}/revoke")
    body = {"device": kiosk.id, "reason": "tablet stolen, rows from its card", "items": [before, *held, row(people=0)]}
    results = stations.officer.post("/checkins/import", body).json["results"]
    assert [result["status"] for result in results] == ["accepted", *["quarantined"] * 3, "rejected"]
    assert {result["code"] for result in results[1:4]} == {"imported_by_officer"}
    assert stations.officer.post("/checkins/import", body).json["results"] == results
    id_ = kiosk.checkin_id(held[2]["id"])
    assert stations.act(f"/checkins/{id_}/approve")["day"] == day_of(held[2]["captured_at"])
    assert kept(stations, kiosk) == 4
    unknown = stations.officer.post("/checkins/import", {**body, "device": new_id()})
    assert unknown.status == 404


def test_a_station_that_opens_takes_check_ins_at_once(stations: Stations) -> None:
    station = stations.station(opened=False)
    kiosk = stations.kiosk(station)
    assert kiosk.api.post("/heartbeats", {}).status == 204
    assert kiosk.api.checkins(row())[0]["code"] == "station_not_active"
    stations.move(station["id"], "open")
    assert kiosk.api.checkins(row(captured_at=ago()))[0]["status"] == "accepted"


def test_a_third_rotation_ends_the_first_key(stations: Stations, kiosk: Kiosk) -> None:
    second, third = (stations.officer.post(f"/devices/{kiosk.id}/rotate").json["key"] for _rotation in range(2))
    statuses = [stations.with_token(key).post("/heartbeats", {}).status for key in (kiosk.key, second, third)]
    assert statuses == [401, 204, 204]


# Skipped state, stale version


def test_a_skipped_state_is_409_with_the_current_state(stations: Stations) -> None:
    station = stations.station(opened=False)["id"]
    moves = {"open", "suspend", "resume", "close"}
    for state, reached_by in {"proposed": "", "active": "open", "suspended": "suspend", "closed": "close"}.items():
        if reached_by:
            stations.move(station, reached_by)
        for move in moves:
            if rules.decide_station_move(state, move) is None:
                refused = stations.officer.post(f"/stations/{station}/{move}", {"reason": "too early"})
                assert (refused.status, refused.code, refused.json["state"]) == (409, "wrong_state", state)
    assert stations.officer.get(f"/stations/{station}").json["rev"] == 4


def test_a_stale_version_is_412_and_of_two_edits_at_once_one_wins(stations: Stations) -> None:
    station = stations.station()
    path = f"/stations/{station['id']}"
    with ThreadPoolExecutor(8) as pool:
        edits = [pool.submit(stations.officer.patch, path, {"name": f"名字{number}"}, '"2"') for number in range(8)]
    assert sorted(edit.result().status for edit in edits) == [200, *[412] * 7]
    assert stations.officer.get(path).json["rev"] == 3


# Operators, huge and broken bodies


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("POST", "/stations", {"county": {"$ne": 1}, "name": "驿站", "address": "东岳大街", "facilities": []}),
        ("POST", "/stations", {"county": "370902", "name": {"$gt": ""}, "address": "东岳大街", "facilities": []}),
        ("POST", "/stations", {"$where": "sleep(1000)"}),
        ("PATCH", "/stations/{id}", {"name": {"$set": "x"}}),
        ("POST", "/checkins/import", {"device": {"$ne": 1}, "reason": "all of them", "items": [{}]}),
        ("POST", "/faults", {"station": {"$ne": 1}, "kind": "power"}),
        ("POST", "/supplies", {"station": {"$exists": True}, "item": "水", "quantity": {"$inc": 1}, "unit": "箱"}),
    ],
)
def test_operators_in_json_are_422(
    stations: Stations, kiosk: Kiosk, method: str, path: str, body: dict[str, object]
) -> None:
    reply = stations.officer.call(method, path.replace("{id}", kiosk.station), body, headers={"If-Match": '"2"'})
    assert reply.status == 422, reply.raw


@pytest.mark.parametrize("query", ["county[$ne]=1", "county=%7B%22$ne%22:1%7D", "state[$in][]=active", "$where=1"])
def test_operators_in_a_query_are_422(stations: Stations, query: str) -> None:
    assert stations.officer.get(f"/stations?{query}").status == 422


@pytest.mark.parametrize("id_", ["%7B%22$ne%22:1%7D", "$ne", "[$ne]", "%00", "%ff", "..%2f..", "*", "null"])
def test_operators_in_an_address_find_nothing(stations: Stations, id_: str) -> None:
    for noun in ("stations", "devices", "checkins", "faults", "supplies"):
        assert stations.officer.get(f"/{noun}/{id_}").status == 404


def memory(pid: int) -> int:
    """Resident bytes of a process at their highest."""
    status = Path(f"/proc/{pid}/status").read_text()
    return 1024 * int(next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1])


def test_a_60_mb_body_is_413_in_constant_memory(stations: Stations, kiosk: Kiosk) -> None:
    kiosk.api.checkins(*(row() for _row in range(500)))
    assert stations.process.popen is not None
    before = memory(stations.process.popen.pid)
    chunk, chunks = b" " * 65536, 60 * 16
    request = f"POST {BASE}/checkins HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()
    request += f"Authorization: Bearer {kiosk.key}\r\n".encode()
    for framing in (f"Content-Length: {len(chunk) * chunks}\r\n\r\n".encode(), b"Transfer-Encoding: chunked\r\n\r\n"):
        with socket.create_connection(("127.0.0.1", stations.process.http_port), 30) as connection:
            connection.sendall(request + framing)
            answer = b""
            try:
                for _chunk in range(chunks):
                    connection.sendall(b"10000\r\n" + chunk + b"\r\n" if b"chunked" in framing else chunk)
            except OSError:  # it has answered and will read no more
                pass
            try:
                answer = connection.recv(4096)
            except ConnectionResetError:
                continue  # its answer was overtaken by the reset that our unread bytes drew
            assert answer.startswith(b"HTTP/1.1 413")
    assert memory(stations.process.popen.pid) - before < 8 << 20
    assert kiosk.api.checkins(row())[0]["status"] == "accepted"


@pytest.mark.parametrize(
    ("raw", "status", "code"),
    [
        (b"[" * 100_000 + b"]" * 100_000, 400, "too_deep"),
        (b'{"items":' + b"[" * 40 + b"]" * 40 + b"}", 400, "too_deep"),
        (b'{"items":[{"people":NaN}]}', 400, "number_not_finite"),
        (b'{"items":[{"people":1e999}]}', 400, "number_not_finite"),
        (b'{"items":[{"people":-Infinity}]}', 400, "number_not_finite"),
        (b'{"items":[{"people":9223372036854775808}]}', 400, "number_not_finite"),
        (b'{"items":[],"items":[]}', 400, "duplicate_key"),
        (b'{"items":[{"people":1,"people":2}]}', 400, "duplicate_key"),
        (b'{"items":["\xff"]}', 400, "bad_utf8"),
        (b'{"items":["\xed\xa0\x80"]}', 400, "bad_utf8"),
        (b'{"items":["\\ud800"]}', 400, "bad_utf8"),
        (b"\xef\xbb\xbf{}", 400, "bad_json"),
        (b"", 400, "bad_json"),
        (b"{'items': []}", 400, "bad_json"),
        (b'{"items":[1,]}', 400, "bad_json"),
    ],
)
def test_deep_nesting_nan_duplicate_keys_and_bad_utf8(kiosk: Kiosk, raw: bytes, status: int, code: str) -> None:
    refused = kiosk.api.call("POST", "/checkins", raw=raw)
    assert (refused.status, refused.code) == (status, code)


@pytest.mark.parametrize("quantity", [-1, 0.5, 1e3, "5", True, None, 10**7])
def test_a_quantity_that_is_fractional_or_negative_is_422(stations: Stations, kiosk: Kiosk, quantity: object) -> None:
    body = {"station": kiosk.station, "item": "水", "quantity": quantity, "unit": "箱"}
    refused = stations.officer.post("/supplies", body)
    assert (refused.status, set(refused.errors())) == (422, {"quantity"})


@pytest.mark.parametrize("people", [0, -1, 0.5, 2.0, "3", None, 501])
def test_people_that_are_zero_negative_or_fractional_are_rejected(kiosk: Kiosk, people: object) -> None:
    refused = kiosk.api.checkins(row(people=people))[0]
    assert (refused["status"], refused["field"], refused["final"]) == ("rejected", "people", True)


def test_nothing_that_people_wrote_and_no_key_is_in_the_log(stations: Stations) -> None:
    canary = "慕容紫英"
    kiosk = stations.kiosk(stations.station(name=canary, address=canary))
    fault = kiosk.api.post("/faults", {"kind": "power", "note": canary}).json["id"]
    stations.act(f"/faults/{fault}/clear", reason=canary)
    kiosk.api.checkins(row(kind=canary), row(id=canary), {canary: canary})
    stations.officer.get(f"/stations/{canary}?{canary}=1")
    stations.officer.post("/stations", {canary: canary})
    log = stations.process.log.read_text()
    assert '"started"' in log
    assert canary not in log
    assert kiosk.key.partition(".")[2] not in log
    assert stations.officer.token not in log
