"""The application object of the people service: keys, providers, cookies' secrets, and limits on logging in."""

from collections.abc import Collection
from pathlib import Path
from typing import Final

from limits import RateLimitItem, RateLimitItemPerHour, RateLimitItemPerMinute
from prometheus_client import Gauge
from pymongo.database import Database

from services.kernel import clock, messages
from services.kernel.app import BaseApp
from services.kernel.auth import Actor
from services.kernel.errors import NotFound, TooManyRequests, Unauthenticated
from services.kernel.mongo import Document
from services.kernel.settings import SettingError, Settings
from services.people import channels, providers, rules, schemas, tokens
from services.people.demo import DemoIssuer
from services.people.handlers import logins
from services.people.providers import Provider
from services.people.store import Store
from services.people.vault import Vault

LOGINS_PER_MINUTE: Final = 300
"""From one address: behind one may stand a whole campus."""
LOGINS_PER_ACCOUNT: Final = RateLimitItemPerMinute(20, 10)
IDENTITIES_PER_ACCOUNT: Final = RateLimitItemPerHour(10)
"""Enough for a busy counter; far too few to go through a district's phone numbers."""
OVERDUE: Final = Gauge("estation_erasures_overdue", "Erasures that not every service has confirmed in time")

messages.add(schemas.MESSAGES)


class People(BaseApp):
    """Accounts and sessions."""

    name = "people"
    ready_without_broker = True

    def __init__(self, settings: Settings, database: Database[Document], now: clock.Clock = clock.now) -> None:
        """Reads the keys and the providers.

        Raises:
            SettingError: a file is missing or wrong.
        """
        super().__init__(settings, database, now)
        if not settings.signing_keys:
            raise SettingError("ESTATION_SIGNING_KEYS", "the people service needs this file")
        self.store = Store(database)
        self.signing = tokens.SigningKeys(Path(settings.signing_keys), production=settings.production)
        self.vault = Vault(settings, database)
        self.ports = channels.ports(settings)
        self._logins, self._csrf = self.vault.index("login"), self.vault.index("csrf")
        self.demo = DemoIssuer(settings, self.signing, self.store) if settings.demo_issuer else None
        self.providers: dict[str, Provider] = providers.load(settings)
        if self.demo is not None:
            self.providers[self.demo.key] = self.demo.provider()
        self._start_limit = RateLimitItemPerMinute(LOGINS_PER_MINUTE)

    def authenticate(self, token: str) -> Actor:
        """The person behind a token, whose login must still be good at this moment.

        Raises:
            Unauthenticated: for any reason.
        """
        actor = super().authenticate(token)
        if actor.session:
            session = self.store.session(actor.session)
            if session is None or session["digest"] is None:
                raise Unauthenticated
        return actor

    def revoked_sessions(self) -> Collection[str]:
        """None: here every login is looked up."""
        return ()

    def provider(self, key: str) -> Provider:
        """One provider.

        Raises:
            NotFound: there is none of this name.
        """
        found = self.providers.get(key)
        if found is None:
            raise NotFound
        return found

    def callback(self, key: str) -> str:
        """Where a provider sends browsers back to."""
        return f"{self.settings.origin}/people/callback/{key}"

    def login(self, issuer: str, subject: str) -> str:
        """What is kept of a provider's account: nobody who reads it learns who that is."""
        return self._logins.of(f"{issuer}\x1f{subject}")

    def token(self, secret: str) -> str | None:
        """A fresh token for the login behind a cookie; None where that is not good any more."""
        now = self.clock()
        found = logins.live_session(self.store, secret, now)
        if found is None:
            return None
        session, account = found
        return tokens.access_token(self.signing, self.settings, account, session, self._csrf.of(account["_id"]), now)

    def phone(self, account: str, channel: str) -> str | None:
        """Where a message to somebody goes by a channel, who still agrees to that."""
        person = self.store.person(account)
        if person is None or not rules.agreed(person, channel):
            return None
        return self.vault.persons.open(person).get("phone")

    def observe(self) -> None:
        """Sets the gauges."""
        OVERDUE.set(self.store.overdue_erasures(clock.day(self.clock())))

    def throttle_identity(self, account: str) -> None:
        """Counts saying who one is: nobody tries out whose ID numbers are known here.

        Raises:
            TooManyRequests: too many this hour.
        """
        self._hit(IDENTITIES_PER_ACCOUNT, "identity of", account)

    def throttle_look(self, actor: str) -> None:
        """Counts a look at others' data.

        Raises:
            TooManyRequests: too many this minute.
        """
        self._hit(RateLimitItemPerMinute(self.settings.looks_per_minute), "look by", actor)

    def throttle_start(self, address: str) -> None:
        """Counts the beginning of a login against its address.

        Raises:
            TooManyRequests: too many this minute.
        """
        self._hit(self._start_limit, "login from", address)

    def throttle_account(self, login: str) -> None:
        """Counts a completed login against its provider's account.

        Raises:
            TooManyRequests: too many these ten minutes.
        """
        self._hit(LOGINS_PER_ACCOUNT, "login of", login)

    def _hit(self, limit: RateLimitItem, *key: str) -> None:
        if not self._limiter.hit(limit, *key):
            reset = self._limiter.get_window_stats(limit, *key).reset_time
            raise TooManyRequests(max(1, int(reset - self.clock().timestamp()) + 1))
