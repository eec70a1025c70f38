"""The ports by which a text message leaves the house: an HTTPS gateway, a file on a developer's machine, or none."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final
from urllib.parse import unquote, urlsplit

import requests

from services.kernel.settings import SettingError, Settings

SECONDS: Final = 10
LOOPBACK: Final = "127.0.0.1"
_SETTING: Final = "ESTATION_SMS"


class Refused(Exception):
    """The gateway will never take this message: repeating it is of no use."""


def sms(settings: Settings) -> Callable[[str, str, str], None]:
    """What hands a text to a number under an id.

    Raises:
        SettingError: neither a gateway nor a file; in production mode, a file or a gateway without TLS.
    """
    if not settings.sms:
        return _nowhere
    parts = urlsplit(settings.sms)
    if parts.scheme == "file" and not settings.production:
        return _File(Path(unquote(parts.path)))
    here = parts.scheme == "http" and parts.hostname == LOOPBACK and not settings.production
    if here or (parts.scheme == "https" and parts.netloc):
        return _Gateway(settings.sms, _token(settings.sms_token))
    raise SettingError(_SETTING, "https://<gateway> is needed; file:///<path> outside production mode")


def _nowhere(_phone: str, _text: str, _id: str) -> None:
    raise Refused


def _token(path: str) -> str:
    if not path:
        return ""
    try:
        return Path(path).read_text(encoding="utf-8").strip()
    except OSError:
        raise SettingError("ESTATION_SMS_TOKEN", "the file cannot be read") from None


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
    """``POST {"to", "text", "id"}`` with ``Idempotency-Key``; 2xx is taken, 4xx but 408, 425 and 429 is never."""

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
        if 400 <= answer.status_code < 500 and answer.status_code not in (408, 425, 429):  # noqa: PLR2004
            raise Refused
        if not answer.ok or answer.is_redirect:
            raise requests.HTTPError(str(answer.status_code))
