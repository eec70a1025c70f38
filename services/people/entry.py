"""What the entry points of the people service share: addresses, cookies, who acts."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from services.kernel.act import Act
from services.kernel.http import HTML, Answer, Call

BASE: Final = "/api/v1/people"
SESSION_COOKIE: Final = "__Host-session"
ID: Final = "<string(length=36):id>"


def act(call: Call) -> Act:
    """Who does it, when, in whose trace."""
    return Act(call.caller, call.now, call.trace)


def choices(call: Call, known: Mapping[Any, Any], codes: Iterable[str]) -> list[tuple[str, str]]:
    """Codes with their names in the caller's language, for a page's selection."""
    return [(str(code), str(getattr(known[code], call.language))) for code in codes]


def cookie(name: str, value: str, seconds: int) -> str:
    """A cookie that is sent to this host alone, over TLS (or to this machine), and that no script reads."""
    return f"{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"


def see_other(path: str, *cookies: str) -> Answer:
    """Sends the browser on with a GET."""
    return Answer(b"", 303, {"Location": path}, f"{HTML}; charset=utf-8", cookies)
