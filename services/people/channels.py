"""The ports by which a message leaves the house, by text or chat: an HTTPS gateway, a developer's file, or none."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import requests

from services.kernel.settings import SettingError, Settings
from services.people import rules

SECONDS: Final = 10
NEVER: Final = frozenset({400, 404, 410, 413, 415, 422})
"""What is wrong with the message; a token that ran out (401, 403) or a request that still runs (409) is not."""
LOOPBACK: Final = "127.0.0.1"
Port = Callable[[str, str, str], None]
"""Hands a text to a number under an id, by which the gateway knows it again; raises Refused, or anything else."""


class Refused(Exception):
    """The gateway will never take this message: repeating it is of no use."""


def ports(settings: Settings) -> dict[str, Port]:
    """The port of every channel.

    Raises:
        SettingError: as of :func:`port`.
    """
    return {
        rules.SMS: port("ESTATION_SMS", settings.sms, settings.sms_token, production=settings.production),
        rules.CHAT: port("ESTATION_CHAT", settings.chat, settings.chat_token, production=settings.production),
    }


def port(setting: str, url: str, token: str, *, production: bool) -> Port:
    """What a setting stands for; ``token``: the path of a file.

    Raises:
        SettingError: neither a gateway nor a file; in production mode, a file or a gateway without TLS.
    """
    if not url:
        return _nowhere
    parts = urlsplit(url)
    if parts.scheme == "file" and not production:
        return _File(Path(unquote(parts.path)))
    here = parts.scheme == "http" and parts.hostname == LOOPBACK and not production
    if here or (parts.scheme == "https" and parts.netloc):
        return _Gateway(url, _token(setting, token))
    raise SettingError(setting, "https://<gateway> is needed; file:///<path> outside production mode")


def _nowhere(_phone: str, _text: str, _id: str) -> None:
    raise Refused


def _token(setting: str, path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        raise SettingError(f"{setting}_TOKEN", "the file cannot be read") from None


class _File:
    """A line of JSON a message, for whoever tries the system out; with its phone numbers it is the owner's alone."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __call__(self, phone: str, text: str, id_: str) -> None:
        line = json.dumps({"id": id_, "to": phone, "text": text}, ensure_ascii=False) + "\n"
        descriptor = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        with os.fdopen(descriptor, "a", encoding="utf-8") as file:
            file.write(line)


class _Gateway:
    """``POST {"to", "text", "id"}`` with ``Idempotency-Key``; 2xx is taken, what stands in ``NEVER`` is not, ever."""

    def __init__(self, url: str, token: str) -> None:
        self._url, self._session = url, requests.Session()
        if token:
            self._session.headers["Authorization"] = f"Bearer {token}"

    def __call__(self, phone: str, text: str, id_: str) -> None:
        answer = self._session.post(
            self._url,
            json={"to": phone, "text": text, "id": id_},
            headers={"Idempotency-Key": id_},
            timeout=SECONDS,
            allow_redirects=False,
        )
        if answer.status_code in NEVER:
            raise Refused
        if not 200 <= answer.status_code < 300:  # noqa: PLR2004
            raise requests.HTTPError(str(answer.status_code))
