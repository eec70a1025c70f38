"""The keys that the people service signs with, and the tokens that every service believes.

Sources: RFC 7519, RFC 7517, RFC 9068 (without its media type), FIPS 186-5 (ES256).
"""

import json
import secrets
from collections.abc import Mapping
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey

from services.kernel import logging
from services.kernel.auth import DEMO_KEY_PREFIX, TOKEN_SECONDS
from services.kernel.mongo import Document
from services.kernel.settings import SettingError, Settings
from services.people import rules

SETTING: Final = "ESTATION_SIGNING_KEYS"
ALGORITHM: Final = "ES256"
_NOT_FOR_OTHERS: Final = 0o027
_MALFORMED: Final = (ValueError, KeyError, TypeError, JoseError)


class SigningKeys:
    """Keys in a file: ``{"current": kid, "keys": [private JWK, ...]}``, or one private JWK alone.

    All of them are published, the current one signs. To change keys, add the next one to ``keys``; when every service
    has fetched it (5 minutes), make it ``current``; when the last token of the old one has ended (5 minutes more), take
    that out. A changed file takes effect at once; one that cannot be read changes nothing and is logged.
    """

    def __init__(self, path: Path, *, production: bool) -> None:
        """Reads the file.

        Raises:
            SettingError: it is missing, open to others, malformed, or holds a demo key in production mode.
        """
        self._path, self._production = path, production
        try:
            self._seen = self._stamp()
            self._current, self._keys = self._read()
        except OSError:
            raise SettingError(SETTING, "the file cannot be read") from None
        except _MALFORMED as error:
            raise SettingError(SETTING, str(error) if type(error) is ValueError else "malformed keys") from None

    def public(self) -> dict[str, Any]:
        """The key set to publish (RFC 7517)."""
        self._refresh()
        return {"keys": [{**key.as_dict(private=False), "use": "sig", "alg": ALGORITHM} for key in self._keys.values()]}

    def sign(self, claims: Mapping[str, Any]) -> str:
        """A compact JWT."""
        self._refresh()
        key = self._keys[self._current]
        return jwt.encode({"alg": ALGORITHM, "kid": self._current}, dict(claims), key)

    def _refresh(self) -> None:
        try:
            stamp = self._stamp()
            if stamp != self._seen:
                self._current, self._keys = self._read()
                self._seen = stamp
        except (OSError, *_MALFORMED):
            logging.get().exception("signing_keys_unreadable")

    def _stamp(self) -> tuple[int, int, int]:
        found = self._path.stat()
        return found.st_mtime_ns, found.st_ino, found.st_size

    def _read(self) -> tuple[str, dict[str, ECKey]]:
        if self._path.stat().st_mode & _NOT_FOR_OTHERS:
            raise ValueError("the file is open to others: chmod 600 it")
        document = json.loads(self._path.read_bytes())
        if "kty" in document:
            document = {"current": document["kid"], "keys": [document]}
        keys = {str(jwk["kid"]): ECKey.import_key(jwk) for jwk in document["keys"]}
        if self._production and any(kid.startswith(DEMO_KEY_PREFIX) for kid in keys):
            raise ValueError("the file holds a demo key, which production mode refuses")
        if document["current"] not in keys:
            raise ValueError("the current key is not among the keys")
        if not all(key.is_private and key.curve_name == "P-256" for key in keys.values()):
            raise ValueError("private keys on the curve P-256 are needed")
        return document["current"], keys


def new_key() -> dict[str, Any]:
    """A fresh private key as a JWK, for the file."""
    key = ECKey.generate_key("P-256", {"kid": secrets.token_hex(8), "use": "sig"}, private=True)
    return dict(key.as_dict(private=True))


def access_token(
    keys: SigningKeys, settings: Settings, account: Document, session: Document, csrf: str, now: datetime
) -> str:
    """A token of five minutes for a login; it names an account, a login, roles and a district, and nobody."""
    return keys.sign(
        {
            "iss": settings.token_issuer,
            "aud": settings.token_audience,
            "sub": account["_id"],
            "roles": rules.held(account),
            "scope": rules.scope(account),
            "sid": session["_id"],
            "csrf": csrf,
            "iat": int(now.timestamp()),
            "exp": int((now + timedelta(seconds=TOKEN_SECONDS)).timestamp()),
        }
    )
