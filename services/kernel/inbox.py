"""Exactly once in effect: an event's id and its effect in one transaction of the consumer's own database.

A row is kept longer than any resync could reach back; a state event needs no row, its consumer writes under
``stored seq < seq``.
"""

from collections.abc import Callable
from datetime import datetime
from typing import Final

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from contracts.envelope import Event
from services.kernel.mongo import Document, transaction

COLLECTION: Final = "inbox"
KEEP_DAYS: Final = 400


def ensure_index(database: Database[Document]) -> None:
    """Rows end after ``KEEP_DAYS``."""
    database[COLLECTION].create_index([("at", 1)], name="keep", expireAfterSeconds=KEEP_DAYS * 86400)


def once(database: Database[Document], event: Event, at: datetime, effect: Callable[[ClientSession], None]) -> bool:
    """Applies ``effect`` unless this event took effect before; says whether it did now.

    ``effect`` writes through the session it is given, and nothing else.
    """

    def work(session: ClientSession) -> None:
        database[COLLECTION].insert_one({"_id": event["id"], "type": event["type"], "at": at}, session=session)
        effect(session)

    if database[COLLECTION].find_one({"_id": event["id"]}, {"_id": 1}) is not None:
        return False
    try:
        transaction(database, work)
    except DuplicateKeyError as error:
        if database[COLLECTION].find_one({"_id": event["id"]}, {"_id": 1}) is None:
            raise error  # noqa: TRY201 (the effect's own duplicate, not the inbox's)
        return False
    return True
