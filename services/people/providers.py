"""Who may say who somebody is: OpenID Connect providers and chat apps with their own OAuth2 dialect, all of them data.

Sources: OpenID Connect Core 1.0 and Discovery 1.0, RFC 7636 (PKCE, S256), RFC 9700 (one callback a provider, against
mix-up), and the chat apps' own web login manuals.
"""

import json
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Final, Protocol
from urllib.parse import urlencode, urlsplit

import requests
from authlib.common.errors import AuthlibBaseError
from authlib.integrations.requests_client import OAuth2Session
from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import KeySet
from marshmallow import RAISE, Schema, ValidationError, fields, validate
from urllib3.exceptions import HTTPError

from services.kernel import body as strict_json
from services.kernel import logging
from services.kernel.errors import BadRequest, Unavailable
from services.kernel.settings import SettingError, Settings

SETTING: Final = "ESTATION_IDENTITY_PROVIDERS"
ALGORITHMS: Final = ["ES256", "RS256", "PS256", "Ed25519", "EdDSA"]
SECONDS: Final = 5
SKEW_SECONDS: Final = 60
CACHED_SECONDS: Final = 3600.0
REFETCH_SECONDS: Final = 30.0
SUBJECT_MAX: Final = 255
ANSWER_BYTES: Final = 256 * 1024


@dataclass(frozen=True, slots=True)
class Attempt:
    """The secrets of one login at a provider; kept here, while the browser is there."""

    state: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    nonce: str = field(default_factory=lambda: secrets.token_urlsafe(32), repr=False)
    verifier: str = field(default_factory=lambda: secrets.token_urlsafe(48), repr=False)


class Provider(Protocol):
    """Says who somebody is, by sending the browser away and taking a code when it comes back."""

    key: str
    label: Mapping[str, str]
    issuer: str
    """The name space of its subjects; never changed once people have logged in."""

    def authorize(self, attempt: Attempt, callback: str) -> str:
        """The address to send the browser to.

        Raises:
            Unavailable: the provider does not say where that is.
        """

    def subject(self, attempt: Attempt, callback: str, code: str) -> str:
        """Who came back, by the provider's own name for that person.

        Raises:
            BadRequest: login_failed, for whatever reason.
            Unavailable: the provider does not answer.
        """


@dataclass(frozen=True, slots=True)
class About:
    """What every provider is described by; ``secret`` may be empty for a public client."""

    key: str
    label: Mapping[str, str]
    client: str
    secret: str = field(repr=False)
    scope: str


class OpenIdProvider:
    """Any OpenID Connect provider: authorization code flow with PKCE."""

    def __init__(self, about: About, issuer: str, monotonic: Callable[[], float] = time.monotonic) -> None:
        self.key, self.label, self.issuer = about.key, about.label, issuer
        self._about, self._monotonic = about, monotonic
        self._lock = threading.Lock()
        self._metadata: tuple[dict[str, Any], float] | None = None
        self._keys: tuple[KeySet, float] | None = None
        self._rests_until = 0.0
        self._claims = jwt.JWTClaimsRegistry(
            leeway=SKEW_SECONDS,
            iss={"essential": True, "value": issuer},
            aud={"essential": True, "value": about.client},
            exp={"essential": True},
            iat={"essential": True},
            sub={"essential": True},
        )

    def authorize(self, attempt: Attempt, callback: str) -> str:
        """The address to send the browser to."""
        endpoint = self._discovered()["authorization_endpoint"]
        with self._session(callback) as session:
            url, _state = session.create_authorization_url(
                endpoint, state=attempt.state, nonce=attempt.nonce, code_verifier=attempt.verifier
            )
        return str(url)

    def subject(self, attempt: Attempt, callback: str, code: str) -> str:
        """The ``sub`` of a checked ID token."""
        endpoint = self._discovered()["token_endpoint"]
        try:
            with self._session(callback) as session:
                answer = session.fetch_token(
                    endpoint, code=code, code_verifier=attempt.verifier, timeout=SECONDS, allow_redirects=False
                )
        except requests.RequestException as error:
            raise _away(self.key, error) from None
        except (AuthlibBaseError, ValueError) as error:
            raise _refused(self.key, type(error).__name__) from None
        claims = self._checked(str(answer.get("id_token", "")))
        if claims.get("nonce") != attempt.nonce:
            raise _refused(self.key, "nonce")
        return _subject(self.key, claims["sub"])

    def _session(self, callback: str) -> Any:
        return OAuth2Session(
            self._about.client,
            self._about.secret or None,
            scope=self._about.scope,
            redirect_uri=callback,
            code_challenge_method="S256",
            token_endpoint_auth_method=self._auth_method() if self._about.secret else "none",
        )

    def _auth_method(self) -> str:
        offered = self._discovered().get("token_endpoint_auth_methods_supported", ["client_secret_basic"])
        return "client_secret_basic" if "client_secret_basic" in offered else "client_secret_post"

    def _checked(self, token: str) -> dict[str, Any]:
        for fresh in (False, True):
            keys = self._key_set(fresh=fresh)
            if keys is None:
                break
            try:
                claims = jwt.decode(token, keys, algorithms=ALGORITHMS).claims
                self._claims.validate(claims)
            except (JoseError, ValueError, TypeError, KeyError):
                continue
            several = isinstance(claims["aud"], list) and len(claims["aud"]) > 1
            if claims.get("azp", None if several else self._about.client) != self._about.client:
                break
            return dict(claims)
        raise _refused(self.key, "id_token")

    def _discovered(self) -> dict[str, Any]:
        with self._lock:
            known = self._metadata
            if known is not None and self._monotonic() - known[1] < CACHED_SECONDS:
                return known[0]
            found = self._fetch(self.issuer.rstrip("/") + "/.well-known/openid-configuration")
            wanted = ("authorization_endpoint", "token_endpoint", "jwks_uri")
            if found.get("issuer") != self.issuer or not all(_is_safe(found.get(name), self.issuer) for name in wanted):
                raise _away(self.key, ValueError("discovery"))
            self._metadata = (found, self._monotonic())
            return found

    def _key_set(self, *, fresh: bool) -> KeySet | None:
        """The provider's keys; fetched again when they did not do, at most every half minute."""
        location = self._discovered()["jwks_uri"]
        with self._lock:
            known, now = self._keys, self._monotonic()
            age = now - known[1] if known else CACHED_SECONDS
            if age >= (REFETCH_SECONDS if fresh else CACHED_SECONDS):
                try:
                    known = self._keys = (KeySet.import_key_set({"keys": self._fetch(location)["keys"]}), now)
                except (JoseError, ValueError, TypeError, KeyError) as error:
                    raise _away(self.key, error) from None
            elif fresh:
                return None
            return known[0] if known else None

    def _fetch(self, url: str) -> dict[str, Any]:
        """Asks no provider that has just failed: callers wait for one another here, each would wait out a timeout."""
        if self._monotonic() < self._rests_until:
            raise Unavailable("provider_away")
        try:
            return _get_json(self.key, url)
        except Unavailable:
            self._rests_until = self._monotonic() + SECONDS
            raise


@dataclass(frozen=True, slots=True)
class Dialect:
    """How a chat app departs from OAuth2: the addresses, and which name it has for a person."""

    authorize_url: str
    token_url: str
    subject: str = "openid"
    """``unionid`` is one person's in all apps of an owner, ``openid`` in one app only."""
    fragment: str = ""
    """What the authorize address has to end in (``wechat_redirect``)."""


class ChatProvider:
    """A chat app's web login: ``appid`` and ``secret``, the code exchanged by GET, errors as 200 with ``errcode``.

    There is no signed token and no PKCE; what the answer to our own TLS request says is believed.
    """

    def __init__(self, about: About, dialect: Dialect) -> None:
        self.key, self.label = about.key, about.label
        self.issuer = f"chat:{urlsplit(dialect.token_url).hostname}:{dialect.subject}"
        if dialect.subject == "openid":
            self.issuer += f":{about.client}"
        self._about, self._dialect = about, dialect

    def authorize(self, attempt: Attempt, callback: str) -> str:
        """The address to send the browser to."""
        query = {
            "appid": self._about.client,
            "redirect_uri": callback,
            "response_type": "code",
            "scope": self._about.scope,
            "state": attempt.state,
        }
        fragment = f"#{self._dialect.fragment}" if self._dialect.fragment else ""
        return f"{self._dialect.authorize_url}?{urlencode(query)}{fragment}"

    def subject(self, attempt: Attempt, callback: str, code: str) -> str:
        """The openid or unionid of whoever came back."""
        del attempt, callback
        query = {
            "appid": self._about.client,
            "secret": self._about.secret,
            "code": code,
            "grant_type": "authorization_code",
        }
        answer = _get_json(self.key, self._dialect.token_url, query)
        if answer.get("errcode"):
            raise _refused(self.key, f"errcode {answer['errcode']!s:.12}")
        return _subject(self.key, answer.get(self._dialect.subject))


def _get_json(key: str, url: str, query: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Raises Unavailable where nothing readable comes back; an address with a secret in it reaches no log."""
    try:
        with requests.get(url, params=query, timeout=SECONDS, allow_redirects=False, stream=True) as answer:
            if answer.status_code != HTTPStatus.OK:
                raise _away(key, ValueError(answer.status_code))
            found = strict_json.loads(answer.raw.read(ANSWER_BYTES, decode_content=True))
    except (requests.RequestException, HTTPError, OSError, BadRequest) as error:
        raise _away(key, error) from None
    if not isinstance(found, dict):
        raise _away(key, TypeError())
    return found


def _is_safe(url: object, issuer: str) -> bool:
    """Whether a discovered address is as well protected as its issuer."""
    return isinstance(url, str) and urlsplit(url).scheme in {"https", urlsplit(issuer).scheme}


def _subject(key: str, given: object) -> str:
    if not isinstance(given, str) or not 0 < len(given) <= SUBJECT_MAX:
        raise _refused(key, "subject")
    return given


def _away(key: str, error: Exception) -> Unavailable:
    logging.get().warning("identity_provider_away", provider=key, error=type(error).__name__)
    return Unavailable("provider_away")


def _refused(key: str, why: str) -> BadRequest:
    logging.get().warning("login_refused", provider=key, why=why)
    return BadRequest("login_failed")


class _Label(Schema):
    zh = fields.String(required=True)
    en = fields.String(required=True)


class _Entry(Schema):
    class Meta:
        unknown = RAISE

    key = fields.String(required=True, validate=validate.Regexp(r"^[a-z][a-z0-9-]{0,30}\Z"))
    kind = fields.String(required=True, validate=validate.OneOf(["oidc", "chat"]))
    label: fields.Nested = fields.Nested(_Label, required=True)
    client_id = fields.String(required=True)
    secret_file = fields.String(load_default="")
    scope = fields.String(load_default="")
    issuer = fields.String(load_default="")
    authorize_url = fields.String(load_default="")
    token_url = fields.String(load_default="")
    subject = fields.String(load_default="openid", validate=validate.OneOf(["openid", "unionid"]))
    fragment = fields.String(load_default="")


def load(settings: Settings) -> dict[str, Provider]:
    """The providers of the settings' file, by key, in its order.

    Raises:
        SettingError: the file or a secret cannot be read, or an entry is wrong; names the entry and the field.
    """
    if not settings.identity_providers:
        return {}
    path = Path(settings.identity_providers)
    try:
        document = json.loads(path.read_bytes())
        entries = _Entry(many=True).load(document["providers"])
        found = [_provider(entry, path.parent, production=settings.production) for entry in entries]
    except ValidationError as error:
        raise SettingError(SETTING, f"wrong entries: {error.normalized_messages()}") from None  # type: ignore[no-untyped-call]  # marshmallow left it so
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise SettingError(SETTING, str(error) if type(error) is ValueError else "cannot be read") from None
    if len({one.key for one in found}) < len(found):
        raise SettingError(SETTING, "two providers have one key")
    return {one.key: one for one in found}


def _provider(entry: Mapping[str, Any], folder: Path, *, production: bool) -> Provider:
    key = entry["key"]
    secret = (folder / entry["secret_file"]).read_text("utf-8").strip() if entry["secret_file"] else ""
    about = About(key, dict(entry["label"]), entry["client_id"], secret, entry["scope"] or "openid")
    named = ("issuer",) if entry["kind"] == "oidc" else ("authorize_url", "token_url")
    for name in named:
        parts = urlsplit(entry[name])
        if not parts.netloc or parts.scheme not in ({"https"} if production else {"http", "https"}):
            raise ValueError(f"{key}: {name} has to be an address" + (" with https" if production else ""))
    if entry["kind"] == "oidc":
        return OpenIdProvider(about, entry["issuer"])
    return ChatProvider(about, Dialect(*(entry[n] for n in ("authorize_url", "token_url", "subject", "fragment"))))
