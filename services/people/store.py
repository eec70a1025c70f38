"""Every query and conditional write of the people service.

What an officer may ask for takes the actor and sees only accounts of the actor's district; a session is its owner's.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Final, TypeVar

from pymongo.client_session import ClientSession
from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from services.kernel import audit, inbox, outbox
from services.kernel.auth import Actor
from services.kernel.errors import Conflict, EStationError, NotFound, Stale
from services.kernel.mongo import Document, ensure_model_indexes, transaction
from services.kernel.outbox import Idempotency, Write
from services.people import rules
from services.people.models import DOCUMENTS, Account, Child, Erasure, Notice, Person, Session

T = TypeVar("T")
SOURCES: Final = (
    outbox.Source("sessions"),
    outbox.Source("accounts"),
    outbox.Source("notices"),
    outbox.Source("erasures"),
)
"""What the relay reads."""
AUDITED: Final = (
    audit.Source("accounts"),
    audit.Source("persons"),
    audit.Source("children"),
    audit.Source("erasures"),
    audit.LOOKS,
    audit.Source("sessions"),
    audit.Source("notices"),
)
"""What the sealer reads."""
_IDEMPOTENT: Final = ("children", "accounts")
STEPS: Final = "login_steps"
"""What is known of logins under way; gone after ten minutes, or when it was used."""


def ensure_indexes(database: Database[Document]) -> None:
    """Creates the indexes of every collection (``estation migrate``)."""
    for model in DOCUMENTS:
        ensure_model_indexes(model)
    for source in SOURCES:
        outbox.ensure_index(database[source.collection])
    audit.ensure_indexes(database, AUDITED)
    database[audit.LOOKS.collection].create_index([("subjects", 1), ("at", 1)], name="subjects")
    inbox.ensure_index(database)
    for created in _IDEMPOTENT:
        outbox.ensure_idempotency_index(database[created])
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
        return _maybe(Account.objects(logins=login))

    def accounts(
        self, actor: Actor, *, limit: int, cursor: str, where: Mapping[str, Any]
    ) -> tuple[list[Document], str | None]:
        """Accounts of the actor's district in id order after ``cursor``, and the next cursor."""
        return _page(Account.objects(county__in=list(actor.counties), **where), limit, cursor)

    def accounts_granted(self) -> list[Document]:
        """Every account with a role that was granted."""
        return [dict(one) for one in Account.objects(__raw__={"grants.role": {"$exists": True}}).as_pymongo()]

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

    def change_account(
        self, current: Document, write: Write, *, session: ClientSession | None = None, **changes: object
    ) -> Document:
        """Changes an account under its revision.

        Raises:
            Stale: somebody else was faster.
        """
        return outbox.update(self.database["accounts"], current, write, changes=changes, session=session)

    def together(self, work: Callable[[ClientSession], T]) -> T:
        """Writes of several documents, all or none; ``work`` may run several times."""
        return transaction(self.database, work)

    # Sessions

    def open_session(self, document: Document, write: Write) -> Document:
        """Inserts a session."""
        Session(**{"id" if name == "_id" else name: value for name, value in document.items()}).validate()
        return outbox.insert(self.database["sessions"], document, write)[0]

    def session_by_digest(self, digest: str) -> Document | None:
        """The session of a cookie."""
        return _maybe(Session.objects(digest=digest))

    def session(self, id_: str) -> Document | None:
        """The session that a token names."""
        return _maybe(Session.objects(pk=id_))

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

    def sessions_run_out(self, opened: datetime, seen: datetime, limit: int) -> list[Document]:
        """Open sessions from before ``opened``, or not used since ``seen``."""
        old = {"state": rules.OPEN, "$or": [{"opened_at": {"$lt": opened}}, {"seen_at": {"$lt": seen}}]}
        return [dict(one) for one in Session.objects(__raw__=old).limit(limit).as_pymongo()]

    def sessions(self, account: str) -> list[Document]:
        """All sessions of an account, ended or not, oldest first."""
        return [dict(one) for one in Session.objects(account=account).order_by("pk").as_pymongo()]

    def end_session(self, current: Document, write: Write, state: str = rules.REVOKED) -> Document:
        """Ends a session for good; its cookie is good for nothing any more.

        Raises:
            Stale: somebody else was faster.
        """
        changes = {"state": state, "digest": None}
        return outbox.update(self.database["sessions"], current, write, changes=changes)

    # Persons

    def person(self, account: str) -> Document | None:
        """Who an account is, sealed; None where nobody said."""
        return _maybe(Person.objects(pk=account))

    def person_seen(self, account: str, actor: Actor) -> Document:
        """The same for an officer.

        Raises:
            NotFound: nobody said, or not the actor's to see.
        """
        return _first(Person.objects(pk=account, county__in=list(actor.counties)))

    def persons_where(self, found_by: Mapping[str, Any], actor: Actor, limit: int) -> list[Document]:
        """Persons of the actor's district with an equal value, at most ``limit``."""
        query = Person.objects(__raw__=dict(found_by), county__in=list(actor.counties))
        return [dict(one) for one in query.order_by("pk").limit(limit).as_pymongo()]

    def accounts_by_ref(self, ref: str) -> list[Document]:
        """Whom a person_ref stands for, or the child's guardians: the accounts of those who have shown their card.

        Anybody can type a number; nobody shall be told what concerns its holder for that.
        """
        named = {"ref": {"$eq": ref, "$type": "string"}}  # without its type the index is not used
        named_by = [one.account for model in (Person, Child) for one in model.objects(__raw__=named).only("account")]
        found = Person.objects(pk__in=named_by, verified_at__ne=None).scalar("id")
        return [dict(one) for one in Account.objects(pk__in=found).order_by("pk").as_pymongo()]

    def keep_person(self, document: Document, write: Write) -> Document:
        """Inserts who an account is.

        Raises:
            Conflict: identity_in_use: another account has this ID number.
            Stale: somebody else was faster.
        """
        try:
            return outbox.insert(self.database["persons"], document, write)[0]
        except DuplicateKeyError as error:
            raise _taken(error) from None

    def change_person(
        self, current: Document, write: Write, changes: Mapping[str, Any], session: ClientSession | None = None
    ) -> Document:
        """Changes who an account is.

        Raises:
            Conflict: identity_in_use.
            Stale: somebody else was faster.
        """
        try:
            return outbox.update(self.database["persons"], current, write, changes=changes, session=session)
        except DuplicateKeyError as error:
            raise _taken(error) from None

    def children(self, account: str) -> list[Document]:
        """The children in an account, oldest entry first; those taken out are not among them."""
        return [dict(one) for one in Child.objects(account=account, name__ne=None).order_by("pk").as_pymongo()]

    def own_child(self, id_: str, actor: Actor) -> Document:
        """A child of the actor.

        Raises:
            NotFound: not there, or somebody else's.
        """
        return _first(Child.objects(pk=id_, account=actor.id, name__ne=None))

    def keep_child(self, document: Document, write: Write, idempotency: Idempotency | None) -> tuple[Document, bool]:
        """Inserts a child; and whether it is new.

        Raises:
            Conflict: child_known: this account has the child already.
        """
        try:
            return outbox.insert(self.database["children"], document, write, idempotency=idempotency)
        except DuplicateKeyError:
            # a repeated request breaks both rules, and which of the two the server names is its own affair
            again = outbox.answered(self.database["children"], idempotency, write.at, None) if idempotency else None
            if again is None:
                raise Conflict("child_known") from None
            return again, False

    def child_answered(self, idempotency: Idempotency, at: datetime) -> Document | None:
        """What an earlier request with this key made.

        Raises:
            Conflict: idempotency_key_reused with another body.
        """
        return outbox.answered(self.database["children"], idempotency, at, None)

    def change_child(self, current: Document, write: Write, changes: Mapping[str, Any]) -> Document:
        """Changes a child.

        Raises:
            Stale: somebody else was faster.
        """
        return outbox.update(self.database["children"], current, write, changes=changes)

    # Erasure

    def erasure(self, account: str) -> Document | None:
        """The erasure of an account."""
        return _maybe(Erasure.objects(pk=account))

    def begin_erasure(self, document: Document, write: Write) -> Document:
        """Inserts an erasure; asked for before, that one."""
        try:
            return outbox.insert(self.database["erasures"], document, write)[0]
        except DuplicateKeyError:
            return _first(Erasure.objects(pk=document["_id"]))

    def change_erasure(self, current: Document, write: Write, **changes: object) -> Document:
        """Changes an erasure.

        Raises:
            Stale: somebody else was faster.
        """
        return outbox.update(self.database["erasures"], current, write, changes=changes)

    def unfinished_erasures(self, limit: int) -> list[Document]:
        """Erasures that this service has still to act on, the most urgent first."""
        todo = {"state": rules.REQUESTED, "$or": [{"here": False}, {"waits": []}]}
        return [dict(one) for one in Erasure.objects(__raw__=todo).order_by("due").limit(limit).as_pymongo()]

    def overdue_erasures(self, today: str) -> int:
        """Erasures that should have been confirmed before today."""
        return int(Erasure.objects(state=rules.REQUESTED, due__lt=today).count())

    # Notices

    def keep_notice(self, document: Document, write: Write, session: ClientSession | None = None) -> None:
        """Inserts a notice."""
        outbox.insert(self.database["notices"], document, write, session=session)

    def notices(self, account: str, limit: int, cursor: str) -> tuple[list[Document], str | None]:
        """Somebody's notices, the newest first, and the next cursor."""
        query = Notice.objects(account=account)
        if cursor:
            query = query.filter(pk__lt=cursor)
        rows = [dict(row) for row in query.order_by("-pk").limit(limit + 1).as_pymongo()]
        return rows[:limit], rows[limit - 1]["_id"] if len(rows) > limit else None

    def unread(self, account: str) -> int:
        """How many notices somebody has not read."""
        return int(Notice.objects(account=account, read_at=None).count())

    def read_notices(self, account: str, at: datetime, shown: Sequence[str] | None = None) -> int:
        """Notes that somebody has seen these notices, or all so far; no audit row: reading is no act upon anything."""
        found: Document = {"account": account, "read_at": None, "at": {"$lte": at}}
        if shown is not None:
            found["_id"] = {"$in": list(shown)}
        return self.database["notices"].update_many(found, {"$set": {"read_at": at}}).modified_count

    def notices_of_district(
        self, actor: Actor, *, limit: int, cursor: str, where: Mapping[str, Any]
    ) -> tuple[list[Document], str | None]:
        """Notices to people of the actor's district in id order."""
        return _page(Notice.objects(county__in=list(actor.counties), account__ne=None, **where), limit, cursor)

    def due_notices(self, now: datetime, limit: int) -> list[Document]:
        """Notices with a message that is due, oldest first."""
        waiting = {"state": rules.WAITING, "due": {"$lte": now}}
        query = Notice.objects(__raw__={"messages.state": rules.WAITING, "messages": {"$elemMatch": waiting}})
        return [dict(one) for one in query.order_by("messages.due").limit(limit).as_pymongo()]

    def messages_since(self, account: str, template: str, about: str | None, since: datetime) -> int:
        """How many notices of this kind left the house for somebody."""
        found: Document = {"account": account, "template": template, "about": about}
        found |= {"at": {"$gte": since}, "messages": {"$ne": []}}
        return self.database["notices"].count_documents(found)

    def empty_notices(self, before: datetime) -> int:
        """Takes the particulars out of notices that are older; how many. Their audit rows stay, so they do too."""
        old = {
            "at": {"$lt": before},
            "$or": [{"params": {"$ne": {}}}, {"messages": {"$ne": []}}, {"about": {"$ne": None}}],
        }
        emptied: Document = {"params": {}, "messages": [], "about": None}
        return self.database["notices"].update_many(old, {"$set": emptied, "$inc": {"rev": 1}}).modified_count

    def change_notice(self, current: Document, write: Write, **changes: object) -> Document:
        """Changes a notice.

        Raises:
            Stale: somebody else was faster.
        """
        return outbox.update(self.database["notices"], current, write, changes=changes)

    # Looks

    def looks_at(self, account: str) -> list[Document]:
        """When officers and counters looked at somebody, oldest first; not who: that is an officer's name."""
        found = self.database[audit.LOOKS.collection].find({"subjects": account}).sort("at", 1)
        return [{name: row[name] for name in ("at", "action", "scope", "fields", "reason")} for row in found]

    # Logins under way

    def begin_step(self, key: str, kind: str, browser: str, at: datetime, **known: object) -> None:
        """Keeps a step of a login for ten minutes; ``key`` and ``browser`` are digests of what the browser holds."""
        self.database[STEPS].insert_one({"_id": key, "kind": kind, "browser": browser, "at": at, **known})

    def step(self, key: str, kind: str, browser: str, since: datetime) -> Document | None:
        """A step that this browser began, not before ``since``."""
        return self.database[STEPS].find_one(_step(key, kind, browser, since))

    def forget_steps(self, logins: Sequence[str]) -> None:
        """Ends what is under way for these logins: who was erased gets no account by sending an old form."""
        self.database[STEPS].delete_many({"login": {"$in": list(logins)}})

    def take_step(self, key: str, kind: str, browser: str, since: datetime) -> Document | None:
        """The same, once."""
        found: Document | None = self.database[STEPS].find_one_and_delete(_step(key, kind, browser, since))
        return found


def _step(key: str, kind: str, browser: str, since: datetime) -> Document:
    return {"_id": key, "kind": kind, "browser": browser, "at": {"$gte": since}}


def _taken(error: DuplicateKeyError) -> EStationError:
    """Another account's ID number, or the same document written by another request at the same moment."""
    return Conflict("identity_in_use") if "ref" in (error.details or {}).get("keyPattern", {}) else Stale()


def _maybe(query: Any) -> Document | None:
    found = query.as_pymongo().first()
    return None if found is None else dict(found)


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
