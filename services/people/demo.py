"""The demo issuer: an OpenID Connect provider without passwords, for trying things out. Production never has it.

Its persons are made up and called so. Everything about it speaks the standard, so that the login it serves is the one
that a real provider would serve.
"""

import hmac
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final
from urllib.parse import urlencode

from authlib.oauth2.rfc7636 import create_s256_code_challenge

from contracts.codes import CITY, Enrolment
from contracts.events.people import PersonRegisteredV1
from contracts.roles import OWN, ROLES, Role
from services.kernel import auth, ids
from services.kernel.act import Act
from services.kernel.errors import BadRequest
from services.kernel.mongo import Document
from services.kernel.outbox import Emit
from services.kernel.settings import Settings
from services.people import rules
from services.people.providers import About, OpenIdProvider
from services.people.store import Store
from services.people.tokens import SigningKeys

BASE: Final = "/people/demo-issuer"
CLIENT: Final = "estation"
KEY: Final = "demo"
CODE: Final = "demo code"
CODE_SECONDS: Final = 60


@dataclass(frozen=True, slots=True)
class Person:
    """A demo person: the subject, the name, the role, the district."""

    key: str
    zh: str
    en: str
    role: Role
    county: str
    scope: str = ""


PERSONS: Final = (
    Person("demo-worker-1", "演示职工一", "Demo worker one", Role.WORKER, "370902"),
    Person("demo-worker-2", "演示职工二", "Demo worker two", Role.WORKER, "370982"),
    Person("demo-parent-1", "演示家长一", "Demo parent one", Role.PARENT, "370902"),
    Person("demo-parent-2", "演示家长二", "Demo parent two", Role.PARENT, "370911"),
    Person("demo-staff", "演示驿站人员", "Demo station staff", Role.STATION_STAFF, "370902", "370902"),
    Person("demo-volunteer", "演示志愿者", "Demo volunteer", Role.VOLUNTEER, "370902", "370902"),
    Person("demo-unit", "演示基层经办人", "Demo unit officer", Role.UNIT_OFFICER, "370902", "370902"),
    Person("demo-county-1", "演示县级经办人一", "Demo county officer one", Role.COUNTY_OFFICER, "370902", "370902"),
    Person("demo-county-2", "演示县级经办人二", "Demo county officer two", Role.COUNTY_OFFICER, "370982", "370982"),
    Person("demo-city", "演示市级经办人", "Demo city officer", Role.CITY_OFFICER, "370902", CITY),
    Person("demo-finance", "演示财务", "Demo finance", Role.FINANCE, "370902", CITY),
    Person("demo-ops", "演示运维", "Demo operations", Role.OPS, "370902", CITY),
)
NEWCOMER: Final = "demo-newcomer"
"""Somebody without an account, to see what a first login looks like."""


class DemoIssuer:
    """Discovery, authorization page, token endpoint and keys of the demo issuer."""

    key = KEY

    def __init__(self, settings: Settings, signing: SigningKeys, store: Store) -> None:
        self.issuer = settings.origin + BASE
        self._callback = f"{settings.origin}/people/callback/{KEY}"
        self._signing, self._store = signing, store

    def provider(self) -> OpenIdProvider:
        """The demo issuer as the login page offers it."""
        label = {"zh": "演示登录", "en": "Demo login"}
        return OpenIdProvider(About(KEY, label, CLIENT, "", "openid"), self.issuer)

    def metadata(self) -> dict[str, Any]:
        """OpenID Connect Discovery 1.0, section 3."""
        return {
            "issuer": self.issuer,
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
            "jwks_uri": f"{self.issuer}/jwks.json",
            "response_types_supported": ["code"],
            "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["ES256"],
            "scopes_supported": ["openid"],
            "token_endpoint_auth_methods_supported": ["none"],
            "code_challenge_methods_supported": ["S256"],
        }

    def choose(self, query: Mapping[str, Any], subject: str, now: datetime) -> str:
        """Where to send the browser of whoever chose to be ``subject``.

        Raises:
            BadRequest: not a request of ours; nobody is sent anywhere else.
        """
        self.check(query)
        code = auth.new_secret()
        self._store.begin_step(
            auth.digest(code),
            CODE,
            CLIENT,
            now,
            subject=subject,
            nonce=query["nonce"],
            challenge=query["code_challenge"],
        )
        return f"{self._callback}?{urlencode({'code': code, 'state': query['state'], 'iss': self.issuer})}"

    def check(self, query: Mapping[str, Any]) -> None:
        """Refuses what did not begin at our own login page.

        Raises:
            BadRequest: login_failed.
        """
        wanted = {
            "client_id": CLIENT,
            "redirect_uri": self._callback,
            "response_type": "code",
            "code_challenge_method": "S256",
        }
        if any(query[name] != value for name, value in wanted.items()):
            raise BadRequest("login_failed")

    def exchange(self, form: Mapping[str, Any], now: datetime) -> dict[str, Any] | None:
        """The answer of the token endpoint; None where the code is not good, or not for who brings it."""
        since = now - timedelta(seconds=CODE_SECONDS)
        step = self._store.take_step(auth.digest(form["code"]), CODE, CLIENT, since)
        challenge = str(create_s256_code_challenge(form["code_verifier"]))
        if step is None or not hmac.compare_digest(step["challenge"], challenge):
            return None
        if (form["client_id"], form["redirect_uri"]) != (CLIENT, self._callback):
            return None
        issued = int(now.timestamp())
        claims = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": step["subject"],
            "nonce": step["nonce"],
            "iat": issued,
            "exp": issued + CODE_SECONDS,
        }
        return {
            "access_token": auth.new_secret(),  # nothing here takes one, but the standard wants it
            "token_type": "Bearer",
            "expires_in": CODE_SECONDS,
            "id_token": self._signing.sign(claims),
        }


def make_accounts(store: Store, act: Act, login_of: Any) -> list[Document]:
    """An account with its role for every demo person, unless it is there; ``login_of(subject)`` names its login."""
    return [_account(store, act, person, login_of(person.key)) for person in PERSONS]


def _account(store: Store, act: Act, person: Person, login: str) -> Document:
    known = store.account_by_login(login)
    if known is not None:
        return known
    granted = ROLES[person.role].over != OWN
    grants = [{"role": str(person.role), "scope": person.scope, "since": act.now}] if granted else []
    document = {
        "_id": ids.new(),
        "county": person.county,
        "logins": [login],
        "terms": {"version": rules.TERMS, "at": act.now},
        "declared": rules.declared(parent=person.role == Role.PARENT),
        "grants": grants,
    }
    emit = Emit(PersonRegisteredV1, {"day": act.today, "by": str(Enrolment.IMPORT)})
    after = {"county": person.county, "grants": [f"{one['role']} {one['scope']}" for one in grants]}
    return store.register(document, act.write("account.register", emit, reason="演示数据", after=after))
