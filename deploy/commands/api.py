"""The running system's HTTP API as the commands use it: a token of the local issuer, one session, plain errors."""

import os
import uuid
from pathlib import Path
from typing import Any

import click
import requests

from contracts.codes import CITY
from services.kernel import auth
from services.kernel import settings as kernel_settings

SECONDS = 15


class Refused(click.ClickException):
    """The system said no; the message is its own."""


def edge_url() -> str:
    """Where people and devices reach the system."""
    return os.environ.get("ESTATION_EDGE_URL", "http://127.0.0.1:8080").rstrip("/")


def issuer_folder() -> Path:
    """The local issuer's keys.

    Raises:
        click.ClickException: there are none on this machine.
    """
    folder = Path(os.environ.get("ESTATION_VAR", "var")) / "secrets" / "issuer"
    if not (folder / "issuer.json").exists():
        raise click.ClickException(f"no local issuer in {folder}: `estation up` makes one; production has its own")
    return folder


def token(subject: str, role: str, scope: str, minutes: int) -> str:
    """A token of the local issuer."""
    known = kernel_settings.read()
    if known.production:
        raise click.ClickException("production has an issuer of its own: ask it for a token")
    return auth.issue_local_token(issuer_folder(), known, subject, [role], scope, minutes * 60)


class Api:
    """Calls with one credential."""

    def __init__(self, credential: str) -> None:
        self._session = requests.Session()
        self._session.headers.update({"Authorization": f"Bearer {credential}", "Accept-Language": "en"})

    @classmethod
    def officer(cls) -> "Api":
        """As an officer of the city federation."""
        return cls(token("estation-cli", "city_officer", CITY, 60))

    def call(self, method: str, path: str, body: Any = None, *, creates: bool = False) -> Any:
        """The JSON answer.

        Raises:
            Refused: any status from 400 up, or no answer.
        """
        headers = {"Idempotency-Key": uuid.uuid4().hex} if creates else {}
        try:
            answer = self._session.request(
                method, edge_url() + "/api/v1" + path, json=body, headers=headers, timeout=SECONDS
            )
        except requests.RequestException as error:
            problem = f"{edge_url()} does not answer ({type(error).__name__}): `estation status` tells why"
            raise Refused(problem) from error
        if not answer.ok:
            raise Refused(f"{method} {path}: {answer.status_code} {_reason(answer)}")
        return answer.json() if answer.content else None

    def all(self, path: str) -> list[dict[str, Any]]:
        """Every item of a paged list."""
        items: list[dict[str, Any]] = []
        cursor = ""
        while True:
            page = self.call("GET", f"{path}{'&' if '?' in path else '?'}limit=200&cursor={cursor}")
            items += page["items"]
            cursor = page["next"]
            if not cursor:
                return items


def _reason(answer: requests.Response) -> str:
    try:
        problem = answer.json()
    except requests.JSONDecodeError:
        return answer.reason
    fields = ", ".join(f"{error['field']}: {error['code']}" for error in problem.get("errors", []))
    return f"{problem.get('code')}: {problem.get('detail')}" + (f" ({fields})" if fields else "")
