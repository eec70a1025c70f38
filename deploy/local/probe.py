"""Asks a process of this machine whether it is there: one short connection, never through a proxy."""

import http.client
import socket
from base64 import b64encode
from dataclasses import dataclass
from urllib.parse import unquote, urlsplit

LOOPBACK = "127.0.0.1"
SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back over HTTP."""

    status: int
    body: bytes


def get(url: str) -> Answer:
    """The answer to a GET; a user and password in the URL are sent as basic authentication.

    Raises:
        OSError: nobody answers, or not in time.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or LOOPBACK, parts.port, timeout=SECONDS)
    headers = {}
    if parts.username:
        pair = f"{unquote(parts.username)}:{unquote(parts.password or '')}"
        headers["Authorization"] = f"Basic {b64encode(pair.encode()).decode()}"
    try:
        connection.request("GET", parts.path or "/", headers=headers)
        answer = connection.getresponse()
        return Answer(answer.status, answer.read())
    except http.client.HTTPException as error:
        raise ConnectionError(f"no HTTP answer: {error!r}") from error
    finally:
        connection.close()


def http_problem(url: str, expected: int = 200) -> str:
    """Why a GET does not give the expected status; empty if it does."""
    try:
        status = get(url).status
    except OSError as error:
        return _reason(error)
    return "" if status == expected else f"answers {status}"


def tcp_problem(host: str, port: int) -> str:
    """Why no connection can be made; empty if one can."""
    try:
        socket.create_connection((host, port), timeout=SECONDS).close()
    except OSError as error:
        return _reason(error)
    return ""


def _reason(error: OSError) -> str:
    return (error.strerror or str(error) or type(error).__name__).lower()
