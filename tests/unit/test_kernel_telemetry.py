"""What a process tells of itself: traces that go on, readiness by name, a listener that survives its clients."""

import http.client
import re
import socket
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.parser import text_string_to_metric_families

from services.kernel import telemetry
from services.kernel.settings import SettingError
from services.kernel.telemetry import Readiness, continued, trace_id

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
SPAN = "00f067aa0ba902b7"


def test_a_callers_trace_goes_on_in_a_span_of_ours() -> None:
    ours = continued(f"00-{TRACE}-{SPAN}-01")
    assert trace_id(ours) == TRACE
    assert ours.endswith("-01"), "its flags too"
    assert SPAN not in ours


@pytest.mark.parametrize(
    "given_",
    [
        None,
        "",
        f"00-{TRACE}-{SPAN}",
        f"00-{TRACE.upper()}-{SPAN}-01",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"ff-{TRACE}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-01-more",
        f"00-{TRACE}-{SPAN}-01\n",
        "x" * 5000,
    ],
)
def test_what_is_no_traceparent_begins_a_trace(given_: str | None) -> None:
    one, other = continued(given_), continued(given_)
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-00", one)
    assert trace_id(one) != trace_id(other)


@given(st.text())
def test_whatever_is_sent_ours_is_valid(text: str) -> None:
    assert re.fullmatch(r"00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}", continued(text))


def test_readiness_names_what_fails() -> None:
    readiness = Readiness()
    assert readiness.failing() == []
    readiness.add("database", lambda: True)
    readiness.add("broker", lambda: False)
    readiness.add("keys", lambda: bool(1 / 0))
    assert readiness.failing() == ["broker", "keys"]
    readiness.draining = True
    assert readiness.failing() == ["draining"]


class Ops:
    """An ops listener of a test's own."""

    def __init__(self) -> None:
        self.readiness = Readiness()
        self.registry = CollectorRegistry()
        self.server = telemetry.serve_ops("127.0.0.1", 0, self.readiness, self.registry)
        self.port = self.server.server_address[1]

    def get(self, path: str, method: str = "GET") -> tuple[int, str]:
        """Status and body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=5)
        try:
            connection.request(method, path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()
        finally:
            connection.close()


@pytest.fixture
def ops(monkeypatch: pytest.MonkeyPatch) -> Iterator[Ops]:
    """Stopped at the end."""
    monkeypatch.setattr(telemetry, "_BEFORE_SCRAPE", [])
    listener = Ops()
    yield listener
    listener.server.shutdown()
    listener.server.server_close()


def test_alive_and_ready_are_two_questions(ops: Ops) -> None:
    assert ops.get("/livez") == (200, "alive\n")
    assert ops.get("/readyz?verbose") == (200, "ready\n")
    ops.readiness.add("database", lambda: False)
    assert ops.get("/readyz") == (503, "database\n")
    assert ops.get("/livez") == (200, "alive\n")


def test_a_scrape_asks_before_it_answers_and_one_that_fails_hides_nothing(ops: Ops) -> None:
    gauge = Gauge("depth", "", registry=ops.registry)
    telemetry.before_scrape(lambda: gauge.set(1 / 0))
    telemetry.before_scrape(lambda: gauge.inc(1))
    for expected in (1.0, 2.0):
        status, text = ops.get("/metrics")
        assert status == 200
        (family,) = text_string_to_metric_families(text)
        assert family.samples[0].value == expected


def test_nothing_else_is_there(ops: Ops) -> None:
    assert ops.get("/")[0] == 404
    assert ops.get("/livez", "POST")[0] == 501


def test_a_broken_client_breaks_nothing(ops: Ops) -> None:
    for raw in (b"", b"\x00\xff\r\n\r\n", b"GET /livez HTTP/1.1\r\nno colon\r\n\r\n", b"GET " + b"x" * 70000):
        with socket.create_connection(("127.0.0.1", ops.port), 5) as client:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            client.sendall(raw)
    assert ops.get("/livez") == (200, "alive\n")


def test_a_port_that_is_taken_is_named(ops: Ops) -> None:
    with pytest.raises(SettingError, match=rf"^ESTATION_OPS_PORT: {ops.port} "):
        telemetry.serve_ops("127.0.0.1", ops.port, Readiness())
