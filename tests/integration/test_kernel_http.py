"""HTTP at the edge of a running service: every status, hostile clients, drain. What is promised to callers is seen."""

import contextlib
import http.client
import json
import os
import re
import resource
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from joserfc import jwt
from joserfc.jwk import ECKey

from services.kernel import clock, ids, sessions, telemetry
from services.kernel.settings import Settings
from tests.builders import ID_NUMBER
from tests.kernel import ProbeWorld, Reply, call, failing, new_key
from tests.parts import Parts, Process, until
from tests.probe import BASE, BODY_MAX, BUGGY_KEY, DEVICE_KEY

APPNAME = "estation-probe-service"
NOTES = f"{BASE}/notes"
PLENTY = "1000000"
SLOW_MS = 3300
"""Longer than an idle connection is waited for."""
RESET = b"\x01\x00\x00\x00\x00\x00\x00\x00"
"""SO_LINGER of no time: closing sends a reset."""


class Site:
    """A running probe and its callers."""

    def __init__(self, world: ProbeWorld, process: Process) -> None:
        self.world, self.process, self.port = world, process, process.http_port
        self.token = world.token()

    def call(self, method: str, path: str, body: object = None, *, token: str | None = "", **headers: Any) -> Reply:
        """A request of an officer of the city, unless told."""
        return call(self.port, method, path, body, token=self.token if token == "" else token, **headers)

    def write(self, title: str = "a", **headers: str) -> Reply:
        """A new note."""
        return self.call("POST", NOTES, {"title": title}, **{"Idempotency_Key": new_key(), **headers})

    def raw(self, sent: bytes, *, half_close: bool = False) -> bytes:
        """What the server says to these bytes until it closes the connection."""
        with socket.create_connection(("127.0.0.1", self.port), 10) as client:
            client.sendall(sent)
            answer = b""
            with contextlib.suppress(OSError):  # closed before we were
                if half_close:
                    client.shutdown(socket.SHUT_WR)
                while part := client.recv(65536):
                    answer += part
            return answer

    def log(self) -> str:
        """Everything the process has said."""
        return self.process.log.read_text()


@pytest.fixture(scope="module")
def site(parts: Parts, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    """One probe for all tests that leave it running."""
    world = ProbeWorld(parts, tmp_path_factory.mktemp("http"))
    process = world.service(ESTATION_REQUESTS_PER_MINUTE=PLENTY, ESTATION_DEVICE_REQUESTS_PER_MINUTE=PLENTY).start()
    yield Site(world, process)
    world.close()


@pytest.fixture
def own(parts: Parts, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Starts a probe for one test alone."""
    world = ProbeWorld(parts, tmp_path)
    yield lambda **more: Site(world, world.service(**more).start())
    world.close()


# Every status


@pytest.fixture(scope="module")
def note(site: Site) -> str:
    """The address of a note."""
    return site.write().headers["Location"]


def key() -> dict[str, str]:
    """A fresh Idempotency-Key."""
    return {"Idempotency_Key": new_key()}


PROBLEMS: dict[str, tuple[int, str, Callable[[Site, str], Reply]]] = {
    "bad json": (400, "bad_json", lambda site, _: site.call("POST", NOTES, b"{", **key())),
    "no body": (400, "bad_json", lambda site, _: site.call("POST", NOTES, b"", **key())),
    "bad utf-8": (400, "bad_utf8", lambda site, _: site.call("POST", NOTES, b'{"title": "\xff"}', **key())),
    "duplicate key": (400, "duplicate_key", lambda site, _: site.call("POST", NOTES, b'{"a":1,"a":1}', **key())),
    "nan": (400, "number_not_finite", lambda site, _: site.call("POST", NOTES, b'{"title": NaN}', **key())),
    "nesting": (400, "too_deep", lambda site, _: site.call("POST", f"{BASE}/echo", b"[" * 60000)),
    "bad key": (
        400,
        "idempotency_key_invalid",
        lambda site, _: site.call("POST", NOTES, {"title": "a"}, Idempotency_Key="a b"),
    ),
    "no token": (401, "unauthenticated", lambda site, _: site.call("GET", NOTES, token=None)),
    "bad token": (401, "unauthenticated", lambda site, _: site.call("GET", NOTES, token="x.y.z")),
    "basic": (
        401,
        "unauthenticated",
        lambda site, _: site.call("GET", NOTES, token=None, Authorization="Basic YTpi"),
    ),
    "empty bearer": (
        401,
        "unauthenticated",
        lambda site, _: site.call("GET", NOTES, token=None, Authorization="Bearer "),
    ),
    "wrong role": (
        403,
        "forbidden",
        lambda site, _: site.call("GET", NOTES, token=site.world.token(roles=("auditor",))),
    ),
    "no such address": (404, "not_found", lambda site, _: site.call("GET", "/nothing/here")),
    "slash at the end": (404, "not_found", lambda site, _: site.call("GET", f"{NOTES}/")),
    "two slashes": (404, "not_found", lambda site, _: site.call("GET", "/api//v1/probe/notes")),
    "no such note": (404, "not_found", lambda site, _: site.call("GET", f"{NOTES}/nothing")),
    "not your district": (
        404,
        "not_found",
        lambda site, note: site.call("GET", note, token=site.world.token(scope="370982")),
    ),
    "unknown district": (
        404,
        "not_found",
        lambda site, note: site.call("GET", note, token=site.world.token(scope="x")),
    ),
    "wrong method": (405, "method_not_allowed", lambda site, _: site.call("DELETE", NOTES)),
    "conflict": (409, "conflict", lambda site, _: change(site, "closed")),
    "gone": (410, "gone", lambda site, _: change(site, "gone")),
    "old version": (
        412,
        "version_changed",
        lambda site, note: site.call("PUT", note, {"title": "b"}, If_Match='"999"'),
    ),
    "odd version": (412, "version_changed", lambda site, note: site.call("PUT", note, {"title": "b"}, If_Match="*")),
    "too large": (
        413,
        "too_large",
        lambda site, _: site.call("POST", NOTES, {"title": "x" * BODY_MAX}, **key()),
    ),
    "not json": (
        415,
        "unsupported_media_type",
        lambda site, _: site.call("POST", NOTES, b"title=a", Content_Type="application/x-www-form-urlencoded", **key()),
    ),
    "array": (422, "invalid", lambda site, _: site.call("POST", NOTES, [], **key())),
    "missing field": (422, "invalid", lambda site, _: site.call("POST", NOTES, {}, **key())),
    "operator": (422, "invalid", lambda site, _: site.call("POST", NOTES, {"title": {"$ne": 1}}, **key())),
    "unknown query": (422, "invalid", lambda site, _: site.call("GET", f"{NOTES}?x=1")),
    "query twice": (422, "invalid", lambda site, _: site.call("GET", f"{NOTES}?limit=1&limit=2")),
    "query range": (422, "invalid", lambda site, _: site.call("GET", f"{NOTES}?limit=201")),
    "no key": (428, "idempotency_key_required", lambda site, _: site.call("POST", NOTES, {"title": "a"})),
    "no version": (428, "if_match_required", lambda site, note: site.call("PUT", note, {"title": "b"})),
    "bug": (500, "internal_error", lambda site, _: site.call("GET", f"{BASE}/bug")),
    "bug in auth": (500, "internal_error", lambda site, _: site.call("GET", NOTES, token=BUGGY_KEY)),
    "duplicate": (500, "internal_error", lambda site, _: site.call("GET", f"{BASE}/twice")),
}


def change(site: Site, title: str) -> Reply:
    """Tries to change a note that is in a state of this name."""
    made = site.write(title)
    return site.call("PUT", made.headers["Location"], {"title": "b"}, If_Match=made.headers["ETag"])


@pytest.mark.parametrize("case", PROBLEMS)
def test_each_problem_has_its_status_code_and_words(site: Site, note: str, case: str) -> None:
    status, code, ask = PROBLEMS[case]
    reply = ask(site, note)
    assert (reply.status, reply.code) == (status, code)
    problem = reply.json
    assert problem["status"] == status
    assert problem["type"].endswith(f"/{code}")
    assert re.search("[\u4e00-\u9fff]", problem["title"]), "Chinese first"
    assert problem["detail"]
    assert reply.headers["Content-Language"] == "zh-CN"
    assert reply.headers["Vary"] == "Accept-Language"
    assert reply.headers["Cache-Control"] == "no-store"


def test_every_status_an_endpoint_may_answer_was_seen() -> None:
    from services.kernel import openapi
    from tests import probe

    declared = {status for one in openapi.endpoints(probe.service()) for status in one.problems}
    seen = {status for status, _code, _ask in PROBLEMS.values()}
    assert declared - seen == {429, 503}, "these two have tests of their own below"


def test_what_is_wrong_with_fields_is_listed(site: Site) -> None:
    reply = site.call("POST", NOTES, {"failures": "many", ID_NUMBER: 1}, **key())
    assert reply.json["errors"] == [
        {"field": "*", "code": "unknown_field", "message": "不认识的字段。"},
        {"field": "failures", "code": "not_an_integer", "message": "应为整数。"},
        {"field": "title", "code": "required", "message": "必填。"},
    ]
    assert ID_NUMBER.encode() not in reply.body


def test_headers_say_what_to_do(site: Site) -> None:
    assert site.call("GET", NOTES, token=None).headers["WWW-Authenticate"] == 'Bearer realm="estation"'
    large = site.call("POST", NOTES, {"title": "x" * BODY_MAX}, **key())
    assert large.json["limit"] == BODY_MAX
    assert str(BODY_MAX) in large.json["detail"]


@pytest.mark.parametrize(
    ("accepted", "tongue"),
    [
        (None, "zh-CN"),
        ("en", "en"),
        ("en-GB,en;q=0.9", "en"),
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-CN"),
        ("zh-TW", "zh-CN"),
        ("fr, en;q=0.5", "en"),
        ("fr", "zh-CN"),
        ("*", "zh-CN"),
        ("en;q=0", "zh-CN"),
        (";;;=,q", "zh-CN"),
    ],
)
def test_people_read_the_language_they_ask_for(site: Site, accepted: str | None, tongue: str) -> None:
    reply = site.call("GET", "/nothing", **({"Accept_Language": accepted} if accepted else {}))
    assert reply.headers["Content-Language"] == tongue
    assert reply.json["title"] == {"en": "Not found.", "zh-CN": "未找到。"}[tongue]


def test_a_bug_says_nothing_of_itself_to_callers_or_log(site: Site) -> None:
    for path, token in ((f"{BASE}/bug", ""), (f"{BASE}/twice", ""), (NOTES, BUGGY_KEY)):
        reply = site.call("GET", path, token=token)
        assert ID_NUMBER.encode() not in reply.body
        assert b"Traceback" not in reply.body
    failed = [line for line in site.process.lines() if line["event"] == "request_failed"]
    assert {line["error"] for line in failed} >= {
        "builtins.RuntimeError",
        "pymongo.errors.DuplicateKeyError",
        "builtins.LookupError",
    }
    assert any("tests/probe.py" in place for line in failed for place in line["at"]), "the place is there"
    assert ID_NUMBER not in site.log()


# What is right


def test_a_created_document_has_an_address_and_a_version(site: Site) -> None:
    made = site.write("泰安")
    assert (made.status, made.json["title"], made.headers["ETag"]) == (201, "泰安", '"1"')
    read = site.call("GET", made.headers["Location"])
    assert (read.status, read.json, read.headers["ETag"]) == (200, made.json, '"1"')
    changed = site.call("PUT", made.headers["Location"], {"title": "b"}, If_Match='W/"1"')
    assert (changed.status, changed.headers["ETag"]) == (200, '"2"')
    again = site.call("PUT", made.headers["Location"], {"title": "c"}, If_Match='"1"')
    assert again.status == 412


def test_the_same_key_is_answered_with_the_same_document(site: Site) -> None:
    headers = key()
    first = site.write(**headers)
    second = site.write(**headers)
    assert (first.status, second.status) == (201, 201)
    assert second.json == first.json
    assert second.headers["Location"] == first.headers["Location"]
    other = site.write("other", **headers)
    assert (other.status, other.code) == (409, "idempotency_key_reused")
    quoted = site.write(Idempotency_Key=f'"{headers["Idempotency_Key"]}"')
    assert quoted.json == first.json, "the draft writes it as a quoted string"
    stranger = site.call(
        "POST", NOTES, {"title": "a"}, token=site.world.token("officer-2"), Idempotency_Key=headers["Idempotency_Key"]
    )
    assert stranger.status == 201
    assert stranger.json != first.json, "a key is its caller's own"


def test_requests_at_once_with_one_key_create_once(site: Site) -> None:
    headers = key()
    with ThreadPoolExecutor(8) as pool:
        replies = list(pool.map(lambda _: site.write("once", **headers), range(8)))
    assert {reply.status for reply in replies} == {201}
    assert len({reply.headers["Location"] for reply in replies}) == 1
    assert site.world.database["notes"].count_documents({"title": "once"}) == 1


def test_a_success_is_stored_with_its_event_in_the_callers_trace(site: Site) -> None:
    trace = "4bf92f3577b34da6a3ce929d0e0e4736"
    made = site.write(traceparent=f"00-{trace}-00f067aa0ba902b7-01")
    stored = site.world.database["notes"].find_one({"_id": made.json["id"]})
    assert stored is not None
    assert stored["open"]
    (event,) = stored["out"]
    assert telemetry.trace_id(event["trace"]) == trace
    assert [row["actor"] for row in stored["audit"]] == ["officer-1"]
    assert stored["audit"][0]["changed"] == {"title": None}


def test_a_page_and_its_neighbours(site: Site) -> None:
    assert len(site.call("GET", f"{NOTES}?limit=1").json["items"]) == 1
    page = site.call("GET", "/probe", token=None)
    assert page.headers["Content-Type"] == "text/html; charset=utf-8"
    assert "探针".encode() in page.body
    nothing = site.call("GET", f"{BASE}/nothing")
    assert (nothing.status, nothing.body) == (204, b"")
    document = site.call("GET", f"{BASE}/openapi.json", token=None).json
    assert document["openapi"].startswith("3.1")
    assert site.call("POST", f"{BASE}/echo", {"a": 1}, Content_Type="application/json; charset=utf-8").status == 200


def test_head_is_get_without_a_body(site: Site) -> None:
    got, head = site.call("GET", f"{BASE}/hello"), site.call("HEAD", f"{BASE}/hello")
    assert (head.status, head.body) == (200, b"")
    assert head.headers["Content-Type"] == got.headers["Content-Type"]


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("HEAD", f"{BASE}/echo", "POST"),
        ("OPTIONS", NOTES, "GET, HEAD, POST"),
        ("DELETE", NOTES, "GET, HEAD, POST"),
        ("BREW", NOTES, "GET, HEAD, POST"),
        ("PATCH", f"{NOTES}/x", "GET, HEAD, PUT"),
    ],
)
def test_another_method_is_refused_with_those_that_are_allowed(
    site: Site, method: str, path: str, allowed: str
) -> None:
    reply = site.call(method, path)
    assert (reply.status, reply.headers["Allow"]) == (405, allowed)
    assert bool(reply.body) is (method != "HEAD")


def test_requests_are_counted_under_bounded_names(site: Site) -> None:
    unheard_of = ids.new()
    site.call("GET", f"/nothing/{unheard_of}")
    site.call("BREW", NOTES)
    site.call("GET", site.write().headers["Location"])
    count = "estation_http_request_seconds_count"
    assert site.process.metric(count, route="unmatched", method="GET", status="404")
    assert site.process.metric(count, route="unmatched", method="other", status="405")
    assert site.process.metric(count, route=f"{NOTES}/<id>", method="GET", status="200")
    assert unheard_of not in site.process.ops("/metrics")


def test_what_is_being_answered_is_counted(site: Site) -> None:
    with ThreadPoolExecutor(3) as pool:
        slow = [pool.submit(site.call, "GET", f"{BASE}/slow/1000") for _ in range(3)]
        until(lambda: site.process.metric("estation_http_in_flight", service="probe") == 3, "three in flight", 5)
        assert {one.result().status for one in slow} == {200}
    until(lambda: site.process.metric("estation_http_in_flight", service="probe") == 0, "none in flight", 5)


# Parts that are away


@pytest.mark.parametrize("token", ["", f"{DEVICE_KEY}1"])
def test_a_database_that_is_away_is_told_and_comes_back(site: Site, note: str, token: str) -> None:
    late: dict[str, Any] = {"errorCode": 50, "errmsg": ID_NUMBER}  # it did not answer in time
    with failing(site.world.parts.mongodb_url, APPNAME, "find", "ping", **late):
        reply = site.call("GET", note, token=token)
        assert (reply.status, reply.code, reply.headers["Retry-After"]) == (503, "unavailable", "2")
        with pytest.raises(OSError, match="503"):
            site.process.ops("/readyz")
        assert site.process.ops("/livez") == "alive\n"
    assert site.call("GET", note, token=token).status == 200
    assert site.process.ops("/readyz") == "ready\n"
    assert ID_NUMBER not in site.log()


def test_who_is_too_fast_is_told_when_to_come_back(own: Callable[..., Site]) -> None:
    site = own(ESTATION_REQUESTS_PER_MINUTE="3", ESTATION_DEVICE_REQUESTS_PER_MINUTE="5")

    def admitted(**how: Any) -> int:
        for count in range(20):
            reply = site.call("GET", f"{BASE}/hello", **how)
            if reply.status == 429:
                assert 1 <= int(reply.headers["Retry-After"]) <= 60
                assert reply.json["retry_after"] == int(reply.headers["Retry-After"])
                return count
        raise AssertionError("no limit")

    assert admitted(token=None) == 3
    assert admitted(token=None, X_Forwarded_For="8.8.8.8") == 3
    assert admitted(token=None, X_Forwarded_For="8.8.8.8") == 0
    assert admitted(token=None, X_Forwarded_For="6.6.6.6, 9.9.9.9") == 3, "what the edge added counts"
    assert admitted(token=None, X_Forwarded_For="7.7.7.7, 9.9.9.9") == 0
    made = [site.write().status for _ in range(4)]
    assert made == [201, 201, 201, 429]
    device = [site.call("POST", NOTES, {"title": "a"}, token=f"{DEVICE_KEY}1", **key()).status for _ in range(6)]
    assert device == [201] * 5 + [429]
    guesses = [site.call("POST", NOTES, {"title": "a"}, token=f"x.{number}.z", **key()).status for number in range(4)]
    assert guesses == [401, 401, 401, 429], "guessing has a budget too"


# Hostile clients

GET = f"GET {BASE}/hello HTTP/1.1\r\nHost: x\r\n".encode()
POST = f"POST {BASE}/echo HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n".encode()

MALFORMED = {
    "empty line": b"\r\n\r\n",
    "one word": b"GET\r\n\r\n",
    "old version": f"GET {BASE}/hello {ID_NUMBER} HTTP/1.1\r\n\r\n".encode(),
    "odd version": f"GET / {ID_NUMBER}\r\n\r\n".encode(),
    "version 2": b"GET / HTTP/2.0\r\n\r\n",
    "http 0.9 post": f"{ID_NUMBER} /\r\n\r\n".encode(),
    "binary": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "nul": b"GET /\x00 HTTP/1.1\r\nHo\x00st: x\r\n\r\n",
    "long address": b"GET /" + b"x" * 9000 + b" HTTP/1.1\r\n\r\n",
    "long header": GET + b"X: " + b"x" * 9000 + b"\r\n\r\n",
    "many headers": GET + b"".join(b"X-%d: x\r\n" % number for number in range(200)) + b"\r\n",
    "large headers": GET + b"".join(b"X-%d: %s\r\n" % (number, b"x" * 5000) for number in range(20)) + b"\r\n",
    "no colon": GET + ID_NUMBER.encode() + b"\r\n\r\n",
    "space before colon": POST + b"Content-Length : 2\r\n\r\n{}",
    "length is text": POST + b"Content-Length: many\r\n\r\n{}",
    "length below nothing": POST + b"Content-Length: -1\r\n\r\n{}",
    "length with a sign": POST + b"Content-Length: +2\r\n\r\n{}",
    "length with underscore": POST + b"Content-Length: 0_2\r\n\r\n{}",
    "two lengths": POST + b"Content-Length: 2\r\nContent-Length: 40\r\n\r\n{}",
    "a list of lengths": POST + b"Content-Length: 2, 2\r\n\r\n{}",
    "length and chunks": POST + b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "unknown coding": POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "two codings": POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n2\r\n{}\r\n0\r\n\r\n",
    "odd chunk": POST + b"Transfer-Encoding: chunked\r\n\r\nZZ\r\n{}\r\n0\r\n\r\n",
    "chunk below nothing": POST + b"Transfer-Encoding: chunked\r\n\r\n-2\r\n{}\r\n0\r\n\r\n",
    "short chunk": POST + b"Transfer-Encoding: chunked\r\n\r\n50\r\n{}",
    "short body": POST + b"Content-Length: 100\r\n\r\n{}",
}
UNREAD = {"empty line", "long address", "long header", "large headers"}
"""Closed before all of it was read, which may overtake the answer."""


@pytest.mark.parametrize("case", MALFORMED)
def test_a_malformed_request_is_refused_and_not_quoted(site: Site, case: str) -> None:
    answer = site.raw(MALFORMED[case], half_close=True)
    if answer or case not in UNREAD:
        assert re.match(rb"HTTP/1\.[01] 4(00|14|31) ", answer)
    assert len(re.findall(rb"HTTP/1\.[01] \d\d\d ", answer)) <= 1, "nothing of it is taken for another request"
    assert ID_NUMBER.encode() not in answer
    assert b"Traceback" not in answer
    assert b"Python" not in answer
    assert site.call("GET", f"{BASE}/hello").status == 200
    assert ID_NUMBER not in site.log()


def test_keep_alive_and_pipelined_requests_are_answered_in_order(site: Site) -> None:
    two = POST + b"Content-Length: 2\r\n\r\n{}" + GET + b"Connection: close\r\n\r\n"
    answer = site.raw(two)
    assert answer.count(b"HTTP/1.1 200 OK") == 2
    assert answer.index(b'{"bytes":2}') < answer.index(b'"hello"')


def test_a_refused_request_does_not_spoil_its_connection(site: Site) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=10)
    with contextlib.closing(connection):
        for body, status in ((b"x" * (BODY_MAX + 100), 401), (b"{", 401)):
            connection.request("POST", NOTES, body, {"Content-Type": "application/json"})
            answer = connection.getresponse()
            answer.read()
            assert answer.status == status
        sock = connection.sock
        connection.request("GET", f"{BASE}/hello")
        assert connection.getresponse().read()
        assert connection.sock is sock


def test_a_body_may_come_in_chunks(site: Site) -> None:
    chunks = POST + b"Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n1\r\n{\r\n1;x=y\r\n}\r\n0\r\nT: x\r\n\r\n"
    assert b'{"bytes":2}' in site.raw(chunks)


def test_who_expects_100_is_told_to_go_on_unless_it_is_too_much(site: Site) -> None:
    with socket.create_connection(("127.0.0.1", site.port), 10) as client:
        client.sendall(POST + b"Connection: close\r\nExpect: 100-continue\r\nContent-Length: 2\r\n\r\n")
        assert client.recv(1000).startswith(b"HTTP/1.1 100")
        client.sendall(b"{}")
        assert b"200 OK" in client.recv(1000)
    large = site.raw(POST + b"Expect: 100-continue\r\nContent-Length: 70000000\r\n\r\n")
    assert large.startswith(b"HTTP/1.1 413"), "nothing of it is sent"


def peak(process: Process) -> int:
    """The most memory it ever had, in KiB."""
    assert process.popen is not None
    status = Path(f"/proc/{process.popen.pid}/status").read_text()
    return int(re.findall(r"VmHWM:\s+(\d+) kB", status)[0])


@pytest.mark.parametrize("chunked", [False, True])
def test_60_mb_are_refused_in_constant_memory(site: Site, *, chunked: bool) -> None:
    piece, count = b"x" * 65536, 960
    site.call("POST", f"{BASE}/echo", b"[" * 60000)
    before = peak(site.process)
    connection = http.client.HTTPConnection("127.0.0.1", site.port, timeout=20)
    with contextlib.closing(connection):
        headers = {"Content-Type": "application/json"}
        if not chunked:
            headers["Content-Length"] = str(len(piece) * count)
        connection.request("POST", f"{BASE}/echo", (piece for _ in range(count)), headers, encode_chunked=chunked)
        answer = connection.getresponse()
        assert answer.status == 413
        assert b"65536" in answer.read(), "names the limit"
    assert peak(site.process) - before < 8 * 1024


def test_clients_that_dawdle_keep_nobody_waiting(site: Site) -> None:
    with contextlib.ExitStack() as stack:
        for number in range(200):
            client = stack.enter_context(socket.create_connection(("127.0.0.1", site.port), 10))
            client.sendall(GET if number % 2 else POST + b"Content-Length: 1000\r\n\r\n{")
        started = time.monotonic()
        assert site.call("GET", f"{BASE}/hello").status == 200
        assert time.monotonic() - started < 2


def test_clients_that_reset_take_nothing_along(site: Site) -> None:
    for sent in (b"", b"GE", GET, POST + b"Content-Length: 1000\r\n\r\n{", GET + b"\r\n", GET[:-2]):
        for _ in range(5):
            with socket.create_connection(("127.0.0.1", site.port), 10) as client:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
                client.sendall(sent)
    with ThreadPoolExecutor(4) as pool:
        assert {reply.status for reply in pool.map(lambda _: site.call("GET", f"{BASE}/hello"), range(20))} == {200}
    assert site.process.popen is not None
    assert site.process.popen.poll() is None


def test_more_connections_than_file_descriptors_are_outlived(site: Site) -> None:
    assert site.process.popen is not None
    soft, hard = resource.prlimit(site.process.popen.pid, resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        resource.prlimit(site.process.popen.pid, resource.RLIMIT_NOFILE, (64, hard))
        stack.callback(resource.prlimit, site.process.popen.pid, resource.RLIMIT_NOFILE, (soft, hard))
        for _ in range(80):
            stack.enter_context(socket.create_connection(("127.0.0.1", site.port), 10))
        until(lambda: "accept_failed" in site.log(), "it has no more")
    assert until(lambda: site.call("GET", f"{BASE}/hello").status == 200, "served again", 10)


# Drain


class Client(threading.Thread):
    """A well-behaved client: asks again and again, on one connection until told to close it, or on a new one each."""

    def __init__(self, site: Site, *, keeps: bool) -> None:
        super().__init__(daemon=True)
        self._site, self._keeps = site, keeps
        self.asked = self.answered = 0
        self.created: list[str] = []
        self.cut: Exception | None = None
        self.told_to_close = self.refused = False

    def run(self) -> None:
        """Until the server says Connection: close, or takes no new connection."""
        while not (self.refused or (self.told_to_close and self._keeps)):
            connection = http.client.HTTPConnection("127.0.0.1", self._site.port, timeout=20)
            with contextlib.closing(connection):
                try:
                    connection.connect()
                except ConnectionRefusedError:
                    self.refused = True
                    return
                self._ask(connection)
                while self._keeps and not (self.told_to_close or self.cut):
                    self._ask(connection)
            if self.cut:
                return

    def _ask(self, connection: http.client.HTTPConnection) -> None:
        headers = {
            "Authorization": f"Bearer {self._site.token}",
            "Content-Type": "application/json",
            "Idempotency-Key": new_key(),
        }
        self.asked += 1
        try:
            connection.request("POST", NOTES, b'{"title": "drain"}', headers)
            answer = connection.getresponse()
            body = answer.read()
        except (OSError, http.client.HTTPException) as error:
            self.cut = error
            return
        self.answered += 1
        assert answer.status == 201, body
        self.created.append(answer.headers["Location"].rsplit("/", 1)[1])
        self.told_to_close = answer.headers.get("Connection") == "close"


def draining(process: Process) -> bool:
    """Whether a process says that it takes no new work."""
    try:
        process.ops("/readyz")
    except OSError as error:
        return "503" in str(error)
    return False


def refuses(port: int) -> bool:
    """Whether nobody listens there any more."""
    try:
        with socket.create_connection(("127.0.0.1", port), 1):
            return False
    except ConnectionRefusedError:
        return True


def test_sigterm_under_load_cuts_no_request_and_loses_no_write(own: Callable[..., Site]) -> None:
    site = own(ESTATION_REQUESTS_PER_MINUTE=PLENTY)
    assert site.process.popen is not None
    clients = [Client(site, keeps=number < 8) for number in range(16)]
    with ThreadPoolExecutor(2) as pool, socket.create_connection(("127.0.0.1", site.port), 20) as uploading:
        uploading.sendall(POST + b"Content-Length: 2\r\n\r\n{")
        for client in clients:
            client.start()
        until(lambda: all(client.answered > 3 for client in clients), "load")
        slow = pool.submit(site.call, "GET", f"{BASE}/slow/{SLOW_MS}")
        until(lambda: (site.process.metric("estation_http_in_flight", service="probe") or 0) >= 2, "both are in")
        os.kill(site.process.popen.pid, signal.SIGTERM)
        until(lambda: draining(site.process), "not ready", 5)
        until(lambda: refuses(site.port), "no new connections", 5)
        assert slow.result().status == 200, "the slow one was finished"
        uploading.sendall(b"}")
        assert b"200 OK" in uploading.recv(1000), "what was half sent, too"
    for client in clients:
        client.join(20)
    assert site.process.popen.wait(20) == 0
    assert [client.cut for client in clients] == [None] * 16
    assert all(client.told_to_close for client in clients[:8])
    assert all(client.refused for client in clients[8:])
    acknowledged = {id_ for client in clients for id_ in client.created}
    stored = {note["_id"] for note in site.world.database["notes"].find({"title": "drain"})}
    assert stored == acknowledged
    assert [line["event"] for line in site.process.lines()][-1] == "stopped"


# Pages and forms

FORM = {"Content_Type": "application/x-www-form-urlencoded"}


def send(site: Site, body: str, **headers: str) -> Reply:
    """A form."""
    return site.call("POST", "/probe/notes", body.encode(), **{**FORM, **headers})


def test_a_form_creates_once_under_its_hidden_key(site: Site) -> None:
    form = f"titles=a&titles=%E7%AB%99&failures=&idempotency_key={new_key()}"
    first, again = send(site, form), send(site, form)
    assert (first.status, again.status) == (303, 303)
    assert first.headers["Location"] == again.headers["Location"]
    assert first.headers.get_all("Set-Cookie") == ["a=1", "b=2"]
    kept = site.world.database["notes"].find_one({"_id": first.headers["Location"].rpartition("/")[2]})
    assert kept is not None
    assert kept["title"] == "a,站"
    other = send(site, form.replace("titles=a", "titles=b"))
    assert other.status == 409


def test_what_is_wrong_with_a_form_reaches_its_handler_with_what_was_typed(site: Site) -> None:
    wrong = send(site, f"titles=a&failures=many&other=1&csrf=c&idempotency_key={new_key()}")
    assert wrong.status == 422
    assert wrong.json == {
        "typed": {"titles": "a", "failures": "many", "other": "1"},
        "wrong": [["failures", "not_an_integer"], ["other", "unknown_field"]],
    }
    twice = send(site, f"titles=a&failures=1&failures=2&idempotency_key={new_key()}")
    assert twice.json["wrong"] == [["failures", "given_twice"]]


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        ("titles=a", {}, 428),
        ("titles=a&idempotency_key=!", {}, 400),
        ("titles=%ff&idempotency_key=12345678", {}, 400),
        ("titles=a&idempotency_key=12345678", {"Content_Type": "application/json"}, 415),
        ("titles=" + "a" * BODY_MAX, {}, 413),
        ("titles=a&idempotency_key=12345678", {"Origin": "https://evil.example"}, 403),
    ],
)
def test_a_form_that_cannot_be_taken_is_answered_by_a_page(
    site: Site, body: str, headers: dict[str, str], status: int
) -> None:
    refused = send(site, body, **headers)
    assert refused.status == status
    assert refused.headers["Content-Type"] == "text/html; charset=utf-8"
    assert f"<code>{status} ".encode() in refused.body
    assert b"a" * 100 not in refused.body


def test_a_page_leads_who_is_not_logged_in_to_the_login_and_back(site: Site) -> None:
    asked = site.call("GET", "/probe/notes?a=1&b=%E7%AB%99", token=None)
    assert (asked.status, asked.headers["Location"]) == (
        303,
        "/people/login?next=%2Fprobe%2Fnotes%3Fa%3D1%26b%3D%25E7%25AB%2599",
    )
    assert site.call("GET", "/probe/notes?a=1").body == b"/probe/notes?a=1 None"
    posted = site.call("POST", "/probe/notes", b"titles=a", token=None, **FORM)
    assert (posted.status, posted.headers["Content-Type"]) == (401, "text/html; charset=utf-8")


def test_a_page_for_anyone_knows_who_is_logged_in_and_bears_who_is_not(site: Site) -> None:
    for token, caller in ((site.token, "officer-1"), (None, ""), ("x.y.z", "")):
        answer = site.call("GET", "/probe", token=token)
        assert (answer.status, answer.headers["X-Caller"]) == (200, caller)


def test_an_unknown_address_is_a_page_for_browsers_and_a_problem_for_programs(site: Site) -> None:
    browser = site.call("GET", "/nowhere", Accept="text/html,application/xhtml+xml")
    assert (browser.status, browser.headers["Content-Type"]) == (404, "text/html; charset=utf-8")
    assert site.call("GET", "/nowhere").code == "not_found"


def test_the_language_that_was_chosen_comes_before_the_browsers(site: Site) -> None:
    hello = f"{BASE}/hello"
    assert site.call("GET", hello, Accept_Language="zh", Cookie="lang=en").json == {"hello": "en"}
    assert site.call("GET", hello, Accept_Language="en", Cookie="lang=xx").json == {"hello": "en"}


def test_a_token_of_a_login_that_was_ended_is_refused(own: Callable[..., Site]) -> None:
    site = own()
    known = {"sid": "s1", "csrf": "c1"}
    token = login_token(site, **known)
    sessions.note(site.world.database, "s2", clock.now())
    assert site.call("GET", NOTES, token=token).status == 200
    assert site.call("GET", NOTES, token=login_token(site, sid="s2")).status == 401
    assert site.call("POST", NOTES, {"title": "a"}, token=token, **key()).code == "csrf"
    allowed = {"Origin": "http://127.0.0.1:8080", "X_CSRF_Token": "c1", **key()}
    assert site.call("POST", NOTES, {"title": "a"}, token=token, **allowed).status == 201


def login_token(site: Site, **claims: str) -> str:
    """A token as people signs it for a browser's login."""
    signer = ECKey.import_key(json.loads((site.world.issuer / "issuer.json").read_text()))
    known = Settings()
    now = int(time.time())
    whole = {
        "iss": known.token_issuer,
        "aud": known.token_audience,
        "iat": now,
        "exp": now + 60,
        "sub": "officer-1",
        "roles": ["city_officer"],
        "scope": "370900",
        **claims,
    }
    return jwt.encode({"alg": "ES256", "kid": signer.kid}, whole, signer)
