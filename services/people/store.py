"""Every query and conditional write of the people service.

What an officer may ask for takes the actor and sees only accounts of the actor's district; a session is its owner's.
"""

from collections.abc import Mapping
from datetime import datetime
from typing import Any, Final

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from services.kernel import audit, outbox
from services.kernel.auth import Actor
from services.kernel.errors import NotFound
from services.kernel.mongo import Document
from services.kernel.outbox import Write
from services.people import rules
from services.people.models import DOCUMENTS, Account, Session

SOURCES: Final = (outbox.Source("sessions"), outbox.Source("accounts"))
"""What the relay reads."""
AUDITED: Final = (audit.Source("accounts"), audit.Source("sessions"), audit.LOOKS)
"""What the sealer reads."""
STEPS: Final = "login_steps"
"""What is known of logins under way; gone after ten minutes, or when it was used."""


def ensure_indexes(database: Database[Document]) -> None:
    """Creates the indexes of every collection (``estation migrate``)."""
    for model in DOCUMENTS:
        model.ensure_indexes()
    for source in SOURCES:
        outbox.ensure_index(database[source.collection])
    audit.ensure_indexes(database, AUDITED)
    database[STEPS].create_index([("at", 1)], name="end", expireAfterSeconds=rules.LOGIN_MINUTES * 60)


class Store:
    """The people database."""

    def __init__(self, database: Database[Document]) -> None:
        self.database = database

    # Accounts

    def own_account(self, id_: str) -> Document:
        """An account, for its owner and for what acts as its owner.

        Raises:
            NotFound: not there.
        """
        return _first(Account.objects(pk=id_))

    def account(self, id_: str, actor: Actor) -> Document:
        """An account of the actor's district.

        Raises:
            NotFound: not there, or not the actor's to see.
        """
        return _first(Account.objects(pk=id_, county__in=list(actor.counties)))

    def account_by_login(self, login: str) -> Document | None:
        """The account that a provider's account belongs to."""
        found = Account.objects(logins=login).as_pymongo().first()
        return dict(found) if found else None

    def accounts(
        self, actor: Actor, *, limit: int, cursor: str, where: Mapping[str, Any]
    ) -> tuple[list[Document], str | None]:
        """Accounts of the actor's district in id order after ``cursor``, and the next cursor."""
        return _page(Account.objects(county__in=list(actor.counties), **where), limit, cursor)

    def register(self, document: Document, write: Write) -> Document:
        """Inserts an account; where its login has one already (the form was sent twice), that one."""
        Account(**{"id" if name == "_id" else name: value for name, value in document.items()}).validate()
        try:
            return outbox.insert(self.database["accounts"], document, write)[0]
        except DuplicateKeyError:
            known = self.account_by_login(document["logins"][0])
            if known is None:
                raise
            return known

    def change_account(self, current: Document, write: Write, **changes: object) -> Document:
        """Changes an account under its revision.

        Raises:
            Stale: somebody else was faster.
        """
        return outbox.update(self.database["accounts"], current, write, changes=changes)

    # Sessions

    def open_session(self, document: Document, write: Write) -> Document:
        """Inserts a session."""
        Session(**{"id" if name == "_id" else name: value for name, value in document.items()}).validate()
        return outbox.insert(self.database["sessions"], document, write)[0]

    def session_by_digest(self, digest: str) -> Document | None:
        """The session of a cookie."""
        found = Session.objects(digest=digest).as_pymongo().first()
        return dict(found) if found else None

    def session(self, id_: str) -> Document | None:
        """The session that a token names."""
        found = Session.objects(pk=id_).as_pymongo().first()
        return dict(found) if found else None

    def own_session(self, id_: str, actor: Actor) -> Document:
        """One of the actor's own sessions.

        Raises:
            NotFound: not there, or somebody else's.
        """
        return _first(Session.objects(pk=id_, account=actor.id))

    def open_sessions(self, account: str) -> list[Document]:
        """The sessions of an account that were not ended, oldest first."""
        return [dict(one) for one in Session.objects(account=account, state=rules.OPEN).order_by("pk").as_pymongo()]

    def see(self, session: str, at: datetime) -> None:
        """Notes that a session was used; no audit row: uses are many."""
        self.database["sessions"].update_one({"_id": session}, {"$max": {"seen_at": at}})

    def end_session(self, current: Document, write: Write) -> Document:
        """Ends a session for good; its cookie is good for nothing any more.

        Raises:
            Stale: somebody else was faster.
        """
        changes = {"state": rules.REVOKED, "digest": None}
        return outbox.update(self.database["sessions"], current, write, changes=changes)

    # Logins under way

    def begin_step(self, key: str, kind: str, browser: str, at: datetime, **known: object) -> None:
        """Keeps a step of a login for ten minutes; ``key`` and ``browser`` are digests of what the browser holds."""
        self.database[STEPS].insert_one({"_id": key, "kind": kind, "browser": browser, "at": at, **known})

    def step(self, key: str, kind: str, browser: str, since: datetime) -> Document | None:
        """A step that this browser began, not before ``since``."""
        return self.database[STEPS].find_one(_step(key, kind, browser, since))

    def take_step(self, key: str, kind: str, browser: str, since: datetime) -> Document | None:
        """The same, once."""
        found: Document | None = self.database[STEPS].find_one_and_delete(_step(key, kind, browser, since))
        return found


def _step(key: str, kind: str, browser: str, since: datetime) -> Document:
    return {"_id": key, "kind": kind, "browser": browser, "at": {"$gte": since}}


def _first(query: Any) -> Document:
    found = query.as_pymongo().first()
    if found is None:
        raise NotFound
    return dict(found)


def _page(query: Any, limit: int, cursor: str) -> tuple[list[Document], str | None]:
    if cursor:
        query = query.filter(pk__gt=cursor)
    rows = [dict(row) for row in query.order_by("pk").limit(limit + 1).as_pymongo()]
    return rows[:limit], rows[limit - 1]["_id"] if len(rows) > limit else None
