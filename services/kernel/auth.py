"""Who is calling: bearer tokens signed by an issuer (JWT, JWKS) and the keys of devices.

Sources: RFC 7519, RFC 7517, RFC 8725 (algorithm allow-list, issuer and audience checked), RFC 6750.
"""

import contextlib
import hashlib
import hmac
import json
import os
import secrets
import threading
import time
import urllib.request
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import ECKey, KeySet

from contracts import codes
from services.kernel.errors import Unauthenticated
from services.kernel.settings import SettingError, Settings

ALGORITHMS: Final = ["ES256", "Ed25519", "EdDSA", "RS256"]
"""EdDSA is what issuers called Ed25519 before RFC 9864."""
DEMO_KEY_PREFIX: Final = "demo-"
REFETCH_SECONDS: Final = 30.0
KEYS_STALE_SECONDS: Final = 300.0
TOKEN_LENGTH_MAX: Final = 4096
TOKEN_SECONDS: Final = 300
"""How long a token is good that the people service signs."""
_UNREADABLE: Final = (OSError, ValueError, KeyError, TypeError)


@dataclass(frozen=True, slots=True)
class Actor:
    """Who acts, as what, and how far: a parameter of every store function.

    ``scope`` is a GB/T 2260 or reporting unit code; ``kind`` is person, device or system.
    """

    id: str
    kind: str
    roles: frozenset[str] = frozenset()
    scope: str = ""
    attributes: dict[str, Any] = field(default_factory=dict, hash=False)
    session: str = ""
    """The login behind the token; empty where no browser is behind it."""
    csrf: str | None = field(default=None, repr=False)
    """What a form of this login brings along (kernel/http.py); None where no browser is behind the token."""

    @property
    def counties(self) -> tuple[str, ...]:
        """The reporting units whose objects this actor may see."""
        return codes.within(self.scope)


def system(name: str) -> Actor:
    """An act of the system itself (a timer, a migration), over the whole city."""
    return Actor(id=name, kind="system", roles=frozenset({"system"}), scope=codes.CITY)


class TokenVerifier:
    """Checks bearer tokens against a key set that is fetched again when a key is not known."""

    def __init__(self, settings: Settings, monotonic: Callable[[], float] = time.monotonic) -> None:
        self._location = settings.jwks
        self._production = settings.production
        self._claims = jwt.JWTClaimsRegistry(
            iss={"essential": True, "value": settings.token_issuer},
            aud={"essential": True, "value": settings.token_audience},
            exp={"essential": True},
            sub={"essential": True},
        )
        self._monotonic = monotonic
        self._lock = threading.Lock()
        self._keys: KeySet | None = None
        self._fetched = -REFETCH_SECONDS

    def refuse_demo_keys(self) -> None:
        """Ends the process when production would trust a key that everybody can make.

        An issuer that does not answer just now keeps nobody from starting: a demo key is not believed later either.

        Raises:
            SettingError: the key set holds a demo key, or is a file that cannot be read as one.
        """
        if not self._production:
            return
        try:
            keys = self._read()
        except _UNREADABLE:
            if "://" in self._location:
                return
            raise SettingError("ESTATION_JWKS", "cannot be read as a key set") from None
        if any(_is_demo(key) for key in keys):
            raise SettingError("ESTATION_JWKS", "holds a demo key, which production mode refuses")

    def verify(self, token: str) -> Actor:
        """The person behind a token.

        Raises:
            Unauthenticated: for any reason, without saying which.
        """
        if len(token) > TOKEN_LENGTH_MAX:
            raise Unauthenticated
        for fresh in (False, True):
            keys = self._key_set(fresh=fresh)
            if keys is None:
                continue
            try:
                claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
                self._claims.validate(claims)
            except (JoseError, ValueError, TypeError, KeyError):
                continue
            return _actor(claims)
        raise Unauthenticated

    def _key_set(self, *, fresh: bool) -> KeySet | None:
        with self._lock:
            age = self._monotonic() - self._fetched
            wanted = fresh or self._keys is None or age >= KEYS_STALE_SECONDS
            if self._location and wanted and age >= REFETCH_SECONDS:
                self._fetched = self._monotonic()
                # an issuer that is away for a moment: go on with the keys we know
                with contextlib.suppress(*_UNREADABLE, JoseError):
                    self._keys = KeySet.import_key_set({"keys": self._usable(self._read())})
            elif fresh:
                return None  # nothing newer than what refused the token already
            return self._keys

    def _usable(self, keys: list[dict[str, Any]]) -> list[dict[str, Any]]:
        return [key for key in keys if not (self._production and _is_demo(key))]

    def _read(self) -> list[dict[str, Any]]:
        if not self._location:
            return []
        if "://" in self._location:
            with urllib.request.urlopen(self._location, timeout=3) as answer:  # noqa: S310 (an operator's setting)
                document = json.loads(answer.read(1 << 20))
        else:
            document = json.loads(Path(self._location).read_text("utf-8"))
        keys: list[dict[str, Any]] = document["keys"]
        if not all(isinstance(key, dict) for key in keys):
            raise TypeError("a key is an object")
        return keys


def _is_demo(key: dict[str, Any]) -> bool:
    return str(key.get("kid", "")).startswith(DEMO_KEY_PREFIX)


def _actor(claims: dict[str, Any]) -> Actor:
    roles, scope, subject = claims.get("roles", []), claims.get("scope", ""), claims["sub"]
    if not isinstance(roles, list) or not isinstance(scope, str) or not isinstance(subject, str):
        raise Unauthenticated
    session, csrf = claims.get("sid", ""), claims.get("csrf")
    if not isinstance(session, str) or not (csrf is None or (isinstance(csrf, str) and csrf)):
        raise Unauthenticated
    return Actor(id=subject, kind="person", roles=frozenset(map(str, roles)), scope=scope, session=session, csrf=csrf)


def create_local_issuer(folder: Path) -> None:
    """Makes a demo issuer's keys in ``folder`` (issuer.json private, jwks.json public) unless they are there."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    private = folder / "issuer.json"
    if not private.exists():
        key = ECKey.generate_key("P-256", {"kid": DEMO_KEY_PREFIX + secrets.token_hex(4), "use": "sig"}, private=True)
        _write_private(private, json.dumps(key.as_dict(private=True)))
    key = ECKey.import_key(json.loads(private.read_text("utf-8")))
    (folder / "jwks.json").write_text(json.dumps({"keys": [key.as_dict(private=False)]}), "utf-8")


def issue_local_token(
    folder: Path, settings: Settings, subject: str, roles: Collection[str], scope: str, seconds: int = 3600
) -> str:
    """A token of the local issuer, for trying things out; production refuses its key."""
    key = ECKey.import_key(json.loads((folder / "issuer.json").read_text("utf-8")))
    now = int(time.time())
    claims = {
        "iss": settings.token_issuer,
        "aud": settings.token_audience,
        "sub": subject,
        "roles": sorted(roles),
        "scope": scope,
        "iat": now,
        "exp": now + seconds,
    }
    return jwt.encode({"alg": "ES256", "kid": key.kid}, claims, key)


def new_secret() -> str:
    """256 random bits, URL-safe."""
    return secrets.token_urlsafe(32)


def digest(secret: str) -> str:
    """What is kept of a device's secret; it has 256 bits of its own, so a plain hash does."""
    return hashlib.sha256(secret.encode()).hexdigest()


def matches(secret: str, digests: Collection[str]) -> bool:
    """Whether the secret has one of the digests, in constant time each."""
    own = digest(secret)
    found = False
    for other in digests:
        found |= hmac.compare_digest(own, other)
    return found


def _write_private(path: Path, text: str) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)
