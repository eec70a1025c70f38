"""The application object of the stations service: its store, and devices' keys beside people's tokens."""

import threading
import time
from dataclasses import replace

from pymongo.database import Database

from services.kernel import auth, clock, messages
from services.kernel.act import Act
from services.kernel.app import DEVICE, BaseApp
from services.kernel.auth import Actor
from services.kernel.errors import Unauthenticated
from services.kernel.ids import is_uuid
from services.kernel.mongo import Document
from services.kernel.settings import Settings
from services.stations import handlers, rules, schemas
from services.stations.store import Store

CACHE_SECONDS = 15.0
"""How long a device's key is believed without a look: revocation takes effect within a minute."""
CACHE_MAX = 20_000

messages.add(schemas.MESSAGES)


class StationsApp(BaseApp):
    """Stations."""

    name = "stations"
    ready_without_broker = True

    def __init__(self, settings: Settings, database: Database[Document], now: clock.Clock = clock.now) -> None:
        super().__init__(settings, database, now)
        self.store = Store(database)
        self._known: dict[str, tuple[Actor, float]] = {}
        self._lock = threading.Lock()

    def authenticate(self, token: str) -> Actor:
        """The device behind a key, or the person behind a token, who is never a device.

        Raises:
            Unauthenticated: for any reason.
        """
        if not token.startswith(handlers.KEY_PREFIX):
            person = super().authenticate(token)
            return replace(person, roles=person.roles - rules.DEVICES)
        digest = auth.digest(token)
        known = self._known.get(digest)
        if known is not None and time.monotonic() < known[1]:
            return known[0]
        actor = self._device(token)
        with self._lock:
            if len(self._known) >= CACHE_MAX:
                self._known.clear()
            self._known[digest] = (actor, time.monotonic() + CACHE_SECONDS)
        return actor

    def _device(self, token: str) -> Actor:
        id_, _, secret = token.removeprefix(handlers.KEY_PREFIX).partition(".")
        found = self.store.device_for_key(id_) if is_uuid(id_) else None
        if found is None or found[0]["state"] == rules.REVOKED or not auth.matches(secret, found[0]["keys"]):
            self._known.pop(auth.digest(token), None)
            raise Unauthenticated
        device, station = found
        actor = Actor(
            id=device["_id"],
            kind=DEVICE,
            roles=rules.DEVICES,
            scope=device["county"],
            attributes=handlers.device_view(device, station),
        )
        handlers.hear_device(self.store, Act(actor, self.clock(), trace=""), device)
        return actor
