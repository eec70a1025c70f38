"""The application object of a service process: what its entry points share, without nameko."""

import ipaddress
from collections.abc import Collection

from limits import RateLimitItemPerMinute
from limits.storage import MemoryStorage
from limits.strategies import FixedWindowRateLimiter
from pymongo.database import Database

from services.kernel import clock, sessions, telemetry
from services.kernel.auth import Actor, TokenVerifier
from services.kernel.errors import TooManyRequests
from services.kernel.mongo import Document
from services.kernel.settings import Settings

DEVICE = "device"


class BaseApp:
    """Settings, clock, database, readiness, credentials and limits of one service process."""

    name = "service"
    ready_without_broker = False
    """Whether what it hears from the broker may come late: then it serves while the broker is away."""

    def __init__(self, settings: Settings, database: Database[Document], now: clock.Clock = clock.now) -> None:
        self.settings, self.database, self.clock = settings, database, now
        self.readiness = telemetry.Readiness()
        self.readiness.add("database", self._database_answers)
        self.tokens = TokenVerifier(settings)
        self.tokens.refuse_demo_keys()
        self.revoked = sessions.RevokedSessions(self.revoked_sessions)
        self._limiter = FixedWindowRateLimiter(MemoryStorage())
        self._device_limit = RateLimitItemPerMinute(settings.device_requests_per_minute)
        self._limit = RateLimitItemPerMinute(settings.requests_per_minute)

    def authenticate(self, token: str) -> Actor:
        """The person behind a bearer token; a service with other credentials looks at those first.

        Raises:
            Unauthenticated: for any reason.
        """
        actor = self.tokens.verify(token)
        self.revoked.refuse(actor)
        return actor

    def revoked_sessions(self) -> Collection[str]:
        """The logins that have ended lately, as this service has heard of them."""
        return sessions.noted(self.database)

    def admit(self, actor: Actor | None, address: str, route: str) -> None:
        """Counts a request against its caller's budget on this route (per process).

        Raises:
            TooManyRequests: the budget of this minute is spent.
        """
        limit = self._device_limit if actor is not None and actor.kind == DEVICE else self._limit
        caller = f"{actor.kind} {actor.id}" if actor is not None else f"address {address}"
        if not self._limiter.hit(limit, caller, route):
            reset = self._limiter.get_window_stats(limit, caller, route).reset_time
            raise TooManyRequests(max(1, min(60, int(reset - self.clock().timestamp()) + 1)))

    def _database_answers(self) -> bool:
        return bool(self.database.client.admin.command("ping")["ok"])


def caller_address(peer: str, forwarded_for: str | None) -> str:
    """The address of the caller: what the edge says, but only when the peer is on the private side of it."""
    if forwarded_for and _is_private(peer):
        return forwarded_for.rsplit(",", 1)[-1].strip()[:45]
    return peer


def _is_private(address: str) -> bool:
    try:
        return ipaddress.ip_address(address).is_private
    except ValueError:
        return False
