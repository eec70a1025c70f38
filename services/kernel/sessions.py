"""Logins that were ended while tokens of theirs were still good: every service refuses those tokens by itself.

A service hears of them by ``people.session_revoked`` and keeps each until no token of it can be good any more.
"""

import threading
import time
from collections.abc import Callable, Collection
from datetime import datetime
from typing import Final

from pymongo.database import Database

from services.kernel.auth import TOKEN_SECONDS, Actor
from services.kernel.errors import Unauthenticated
from services.kernel.mongo import Document

COLLECTION: Final = "revoked_sessions"
KEEP_SECONDS: Final = TOKEN_SECONDS + 300
"""Counted from when a service hears of it, with room for clocks that differ."""
REFRESH_SECONDS: Final = 15.0
"""With the relay's and the broker's share, a revocation takes effect within a minute in every process."""


def ensure_index(database: Database[Document]) -> None:
    """Rows end when the tokens have."""
    database[COLLECTION].create_index([("at", 1)], name="keep", expireAfterSeconds=KEEP_SECONDS)


def note(database: Database[Document], session: str, at: datetime) -> None:
    """Keeps that a login has ended; saying it again changes nothing."""
    database[COLLECTION].update_one({"_id": session}, {"$setOnInsert": {"at": at}}, upsert=True)


def noted(database: Database[Document]) -> set[str]:
    """The logins that have ended lately."""
    return {row["_id"] for row in database[COLLECTION].find({}, {"_id": 1})}


class RevokedSessions:
    """A process's own copy of what :func:`noted` says, never older than ``REFRESH_SECONDS`` when it is asked."""

    def __init__(self, read: Callable[[], Collection[str]], monotonic: Callable[[], float] = time.monotonic) -> None:
        self._read, self._monotonic = read, monotonic
        self._lock = threading.Lock()
        self._known: Collection[str] = ()
        self._refreshed = -REFRESH_SECONDS

    def refuse(self, actor: Actor) -> None:
        """Lets pass whose login goes on, and who has none.

        Raises:
            Unauthenticated: the login behind the token was ended.
            pymongo.errors.PyMongoError: nobody can say; a token is not believed on a guess.
        """
        if actor.session and actor.session in self._fresh():
            raise Unauthenticated

    def _fresh(self) -> Collection[str]:
        if self._monotonic() - self._refreshed >= REFRESH_SECONDS:
            with self._lock:  # one asks, the others wait for its answer
                if self._monotonic() - self._refreshed >= REFRESH_SECONDS:
                    asked = self._monotonic()
                    self._known = self._read()
                    self._refreshed = asked
        return self._known
