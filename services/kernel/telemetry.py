"""What a process tells of itself: Prometheus metrics, liveness and readiness on a port of their own, W3C traces."""

import re
import secrets
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final

from prometheus_client import REGISTRY, CollectorRegistry, Counter, Gauge, Histogram
from prometheus_client.exposition import choose_encoder

from services.kernel import logging
from services.kernel.settings import SettingError

_TRACEPARENT: Final = re.compile(r"^00-(?!0{32})([0-9a-f]{32})-(?!0{16})[0-9a-f]{16}-([0-9a-f]{2})$")
_SECONDS: Final = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.035, 0.05, 0.075, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)

REQUESTS = Histogram(
    "estation_http_request_seconds",
    "Time from the request's header to its answer",
    ["service", "method", "route", "status"],
    buckets=_SECONDS,
)
IN_FLIGHT = Gauge("estation_http_in_flight", "Requests being answered", ["service"])
OUTBOX_PENDING = Gauge("estation_outbox_pending", "Documents with unpublished events", ["service"])
OUTBOX_OLDEST = Gauge(
    "estation_outbox_oldest_seconds",
    "Age of the oldest unpublished event's document; 0 when there is none",
    ["service"],
)
RELAY_EVENTS = Counter("estation_relay_events", "Events published and confirmed", ["service"])
RELAY_BATCH = Histogram(
    "estation_relay_batch_events", "Events in a message", ["service"], buckets=(1, 2, 5, 10, 20, 50, 100, 200, 500)
)
RELAY_FAULTS = Counter("estation_relay_faults", "Publishing that failed and will be repeated", ["service", "reason"])
RELAY_ACTIVE = Gauge("estation_relay_active", "1 while this process holds the relay's lease", ["service"])
CONSUMED = Counter("estation_consumed_events", "Events by outcome", ["service", "outcome"])
PARKED = Counter("estation_parked_events", "Events parked in the dead-letter queue, by reason", ["service", "reason"])


def continued(traceparent: str | None) -> str:
    """The traceparent of our own span: the caller's trace where it sent a valid one, else a new trace."""
    span = secrets.token_hex(8)
    found = _TRACEPARENT.fullmatch(traceparent or "")
    if found:
        return f"00-{found[1]}-{span}-{found[2]}"
    return f"00-{secrets.token_hex(16)}-{span}-00"


def trace_id(traceparent: str) -> str:
    """The trace's id inside a traceparent."""
    return traceparent[3:35]


_BEFORE_SCRAPE: list[Callable[[], None]] = []


def before_scrape(observe: Callable[[], None]) -> None:
    """Registers what sets gauges when they are asked for; raising leaves them as they were."""
    _BEFORE_SCRAPE.append(observe)


class Readiness:
    """Named checks; a process is ready when all of them pass."""

    def __init__(self) -> None:
        self._checks: dict[str, Callable[[], bool]] = {}
        self.draining = False

    def add(self, name: str, check: Callable[[], bool]) -> None:
        """``check`` must answer fast; raising means no."""
        self._checks[name] = check

    def failing(self) -> list[str]:
        """Names of the checks that do not pass now."""
        return ["draining"] if self.draining else [name for name, check in self._checks.items() if not _passes(check)]


def _passes(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except Exception:  # noqa: BLE001 (a check that raises does not pass, whatever it raises)
        return False


def _attempt(observe: Callable[[], None]) -> None:
    try:
        observe()
    except Exception:  # noqa: BLE001 (a scrape shows what can be known)
        logging.get().warning("scrape_incomplete", exc_info=True)


def serve_ops(
    host: str, port: int, readiness: Readiness, registry: CollectorRegistry = REGISTRY
) -> ThreadingHTTPServer:
    """Starts ``/livez``, ``/readyz`` and ``/metrics`` on a listener of their own, in the background.

    Raises:
        SettingError: the port is taken.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        timeout = 10

        def do_GET(self) -> None:
            path = self.path.split("?", 1)[0]
            if path == "/livez":
                self._answer(200, b"alive\n")
            elif path == "/readyz":
                failing = readiness.failing()
                self._answer(503 if failing else 200, (", ".join(failing) or "ready").encode() + b"\n")
            elif path == "/metrics":
                for observe in _BEFORE_SCRAPE:
                    _attempt(observe)
                encode, content_type = choose_encoder(self.headers.get("Accept", ""))
                self._answer(200, encode(registry), content_type)
            else:
                self._answer(404, b"not here\n")

        def _answer(self, status: int, body: bytes, content_type: str = "text/plain; charset=utf-8") -> None:
            self.send_response(status)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args: Any) -> None:
            return

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        allow_reuse_address = True

        def handle_error(self, *_args: Any) -> None:
            logging.get().debug("ops_connection_broken")

    try:
        server = Server((host, port), Handler)
    except OSError as error:
        raise SettingError("ESTATION_OPS_PORT", f"{port} on {host} cannot be listened on, {error.strerror}") from None
    threading.Thread(target=server.serve_forever, name="ops", daemon=True).start()
    return server
