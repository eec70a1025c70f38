"""What the entry points of the people service share: addresses, cookies, who acts."""

from typing import Final

from services.kernel.act import Act
from services.kernel.http import HTML, Answer, Call

BASE: Final = "/api/v1/people"
SESSION_COOKIE: Final = "__Host-session"
ID: Final = "<string(length=36):id>"


def act(call: Call) -> Act:
    """Who does it, when, in whose trace."""
    return Act(call.caller, call.now, call.trace)


def cookie(name: str, value: str, seconds: int) -> str:
    """A cookie that is sent to this host alone, over TLS (or to this machine), and that no script reads."""
    return f"{name}={value}; Path=/; Max-Age={seconds}; Secure; HttpOnly; SameSite=Lax"


def see_other(path: str, *cookies: str) -> Answer:
    """Sends the browser on with a GET."""
    return Answer(b"", 303, {"Location": path}, f"{HTML}; charset=utf-8", cookies)
