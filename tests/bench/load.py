"""The load generator: a process of its own that posts check-ins over keep-alive connections, as cheaply as Python can.

``python -m tests.bench.load`` reads one :class:`Job` (a line of JSON) from stdin, builds its requests, writes
``ready``, waits for a line and then drives one epoll loop over raw sockets; the result is a line of JSON on stdout.
Requests come from a pool built beforehand; sending one costs a replacement of the ids' first eight digits, which makes
them new.
"""

import json
import os
import random
import re
import resource
import select
import socket
import sys
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

KINDS: Final = ("rest", "water", "meal", "charging", "first_aid", "mother_room", "other")
POOL_ROWS: Final = 20_000
TAG: Final = b"@@@@@@@@"
"""Where an id's first eight digits will stand."""
STAMP: Final = b"#########################Z"
"""Where the instant of sending will stand, in :attr:`Job.stamped` runs."""
ACCEPTED: Final = b'"accepted"'
GRACE_SECONDS: Final = 15.0
_LENGTH: Final = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Job:
    """What to send where."""

    ports: Sequence[int]
    """Servers on 127.0.0.1; connections take turns."""
    keys: Sequence[str]
    """Devices' keys; connections take turns."""
    connections: int
    rows: int
    """Check-ins in a request."""
    seconds: float
    seed: int
    warm_up: float = 0.5
    rate: float = 0.0
    """Requests a second, sent when due whatever the answers do; 0: the next as soon as one is answered."""
    stamped: bool = False
    """``captured_at`` is the instant of sending, and the result tells each id with it."""
    paced: bool = False
    """No more rows than the last number on stdin (a line) are sent."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came back within the measured time. Latencies in milliseconds, from when a request was due."""

    requests: float
    seconds: float
    per_second: float
    p50: float
    p99: float
    wrong: int
    """Answers that did not accept every row."""
    cpu: float
    """This process's share of one core."""
    sent: Sequence[tuple[str, float]] = ()
    """(id, seconds since the epoch) of every row, in stamped runs."""


class _Connection:
    __slots__ = ("buffer", "due", "head", "missing", "socket")

    def __init__(self, port: int, key: str) -> None:
        self.socket = socket.socket()
        # a request must fit, or sending would wait for the server
        self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.socket.connect(("127.0.0.1", port))
        self.head = (
            "POST /api/v1/stations/checkins HTTP/1.1\r\n"
            f"Host: 127.0.0.1:{port}\r\nAuthorization: Bearer {key}\r\nContent-Type: application/json\r\n"
            "Content-Length: "
        ).encode()
        self.buffer, self.missing, self.due = b"", 0, 0.0

    def send(self, body: bytes, due: float) -> None:
        self.due, self.buffer, self.missing = due, b"", 0
        self.socket.sendall(b"%b%d\r\n\r\n%b" % (self.head, len(body), body))

    def receive(self) -> bytes | None:
        """The whole answer, or None while some of it is missing."""
        part = self.socket.recv(1 << 20)
        if not part:
            raise ConnectionError("the server closed a connection")
        self.buffer += part
        if not self.missing:
            end = self.buffer.find(b"\r\n\r\n")
            if end < 0:
                return None
            found = _LENGTH.search(self.buffer, 0, end)
            if found is None:
                raise ConnectionError("an answer without a length")
            self.missing = end + 4 + int(found[1])
        return self.buffer if len(self.buffer) >= self.missing else None


class Generator:
    """One run of a job."""

    def __init__(self, job: Job) -> None:
        self._job = job
        self._random = random.Random(job.seed)
        self._tag = self._random.getrandbits(32)
        self._pool = [self._body() for _ in range(max(1, POOL_ROWS // job.rows))]
        self._next = 0
        self._sent_rows = 0
        self._sent: list[tuple[str, float]] = []
        self._allowed: float = 0 if job.paced else float("inf")
        self._poll = select.epoll()
        connections = [
            _Connection(job.ports[number % len(job.ports)], job.keys[number % len(job.keys)])
            for number in range(job.connections)
        ]
        self._by_descriptor = {one.socket.fileno(): one for one in connections}
        for descriptor in self._by_descriptor:
            self._poll.register(descriptor, select.EPOLLIN)
        self._free = deque(connections)
        self._latencies: list[float] = []
        self._wrong = 0

    def run(self) -> Outcome:
        """Sends until the time is over, then waits for the answers that are under way.

        Raises:
            ConnectionError: a connection broke, or the answers stayed away.
        """
        job = self._job
        if job.paced:
            self._poll.register(sys.stdin.fileno(), select.EPOLLIN)
        begin = time.perf_counter()
        measured_from, end = begin + job.warm_up, begin + job.warm_up + job.seconds
        due, interval = begin, 1 / job.rate if job.rate else 0.0
        cpu = _cpu()
        while (now := time.perf_counter()) < end:
            while self._free and self._sent_rows + job.rows <= self._allowed and (not interval or due <= now):
                self._send(due if interval else now)
                due += interval
            wait = min(end, due) - now if interval and due > now else end - now
            self._turn(max(0.0, wait), measured_from, end)
        cpu = (_cpu() - cpu) / (job.warm_up + job.seconds)
        deadline = time.perf_counter() + GRACE_SECONDS
        while len(self._free) < job.connections:
            if time.perf_counter() > deadline:
                raise ConnectionError("answers stayed away")
            self._turn(0.5, end, end)
        ordered = sorted(self._latencies) or [0.0]
        count = len(self._latencies)
        return Outcome(
            requests=count,
            seconds=job.seconds,
            per_second=count / job.seconds,
            p50=ordered[len(ordered) // 2] * 1000,
            p99=ordered[len(ordered) * 99 // 100] * 1000,
            wrong=self._wrong,
            cpu=cpu,
            sent=self._sent,
        )

    def _turn(self, seconds: float, since: float, end: float) -> None:
        """Waits for answers; those between ``since`` and ``end`` are counted, whenever they were asked for."""
        for descriptor, _event in self._poll.poll(seconds):
            connection = self._by_descriptor.get(descriptor)
            if connection is None:
                self._allowed = float(os.read(descriptor, 1 << 16).split()[-1])
                continue
            answer = connection.receive()
            if answer is None:
                continue
            now = time.perf_counter()
            if not answer.startswith(b"HTTP/1.1 200") or answer.count(ACCEPTED) != self._job.rows:
                self._wrong += 1
            if since <= now < end:
                self._latencies.append(now - connection.due)
            self._free.append(connection)

    def _send(self, due: float) -> None:
        if self._next == len(self._pool):
            self._next, self._tag = 0, (self._tag + 1) % 2**32
        tag = b"%08x" % self._tag
        body = self._pool[self._next].replace(TAG, tag)
        self._next += 1
        if self._job.stamped:
            at = datetime.now(UTC)
            body = body.replace(STAMP, at.isoformat(timespec="microseconds")[:26].encode() + b"Z", 1)
            start = body.index(tag)
            self._sent.append((body[start : start + 36].decode(), at.timestamp()))
        self._free.popleft().send(body, due)
        self._sent_rows += self._job.rows

    def _body(self) -> bytes:
        return b'{"items":[' + b",".join(self._row() for _ in range(self._job.rows)) + b"]}"

    def _row(self) -> bytes:
        digits = f"{self._random.getrandbits(96):024x}"
        id_ = f"{TAG.decode()}-{digits[:4]}-4{digits[5:8]}-a{digits[9:12]}-{digits[12:]}"
        ago = timedelta(seconds=self._random.uniform(1, 3600))
        at = STAMP.decode() if self._job.stamped else (datetime.now(UTC) - ago).isoformat(timespec="milliseconds")
        row = {"id": id_, "captured_at": at, "kind": self._random.choice(KINDS), "people": self._random.randint(1, 60)}
        return json.dumps(row, separators=(",", ":")).encode()


def _cpu() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def main() -> None:
    """One job from stdin, its outcome to stdout."""
    orders = open(sys.stdin.fileno(), "rb", buffering=0, closefd=False)  # noqa: SIM115 (nothing may be read ahead)
    job: dict[str, Any] = json.loads(orders.readline())
    generator = Generator(Job(**job))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    orders.readline()
    sys.stdout.write(json.dumps(asdict(generator.run())) + "\n")


if __name__ == "__main__":
    main()
