"""Logging in, the first time and again, and the sessions that come of it."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Final

from contracts.codes import Enrolment
from contracts.events.people import PersonRegisteredV1, SessionRevokedV1
from services.kernel import auth, ids
from services.kernel.act import Act
from services.kernel.auth import Actor
from services.kernel.errors import BadRequest, Forbidden, Gone, Stale
from services.kernel.mongo import Document
from services.kernel.outbox import Emit, settle
from services.people import rules
from services.people.providers import Attempt, Provider
from services.people.store import Store

BATCH: Final = 200
LOGIN, REGISTRATION = "login", "registration"
"""The steps of a login that take a person's time."""
_REGISTRAR: Final = auth.system("registration")


def as_owner(account: Document, now: datetime, trace: str) -> Act:
    """What somebody does who has just proven to be the owner of an account."""
    held = frozenset(rules.held(account))
    return Act(Actor(account["_id"], "person", held, rules.scope(account)), now, trace)


def begin_login(store: Store, provider: Provider, callback: str, browser: str, asked: str, now: datetime) -> str:
    """Where to send a browser that wants to log in; its secrets stay here. ``browser``: the secret of its cookie."""
    attempt = Attempt()
    address = provider.authorize(attempt, callback)
    store.begin_step(
        auth.digest(attempt.state),
        LOGIN,
        auth.digest(browser),
        now,
        provider=provider.key,
        nonce=attempt.nonce,
        verifier=attempt.verifier,
        next=rules.own_path(asked),
    )
    return address


@dataclass(frozen=True, slots=True)
class Returned:
    """Who came back from a provider, as the provider says, and where that person wanted to go."""

    issuer: str
    subject: str
    next: str


def complete_login(
    store: Store, provider: Provider, callback: str, browser: str, given: Mapping[str, str], now: datetime
) -> Returned:
    """Takes what a provider sent back with the browser that was sent there, once.

    Raises:
        BadRequest: login_failed: another browser, a second time, too late, refused by the provider or its person.
        Unavailable: the provider does not answer.
    """
    state = given.get("state", "")
    step = store.take_step(auth.digest(state), LOGIN, auth.digest(browser), _since(now))
    code, issuer = given.get("code", ""), given.get("iss", provider.issuer)
    if step is None or step["provider"] != provider.key or not code or issuer != provider.issuer:
        raise BadRequest("login_failed")
    attempt = Attempt(state, step["nonce"], step["verifier"])
    return Returned(provider.issuer, provider.subject(attempt, callback, code), step["next"])


def begin_registration(store: Store, login: str, provider: str, asked: str, browser: str, now: datetime) -> str:
    """Keeps a proven login without an account until its person agrees to the terms; the ticket of the form."""
    ticket = auth.new_secret()
    store.begin_step(
        auth.digest(ticket), REGISTRATION, auth.digest(browser), now, login=login, provider=provider, next=asked
    )
    return ticket


def registration(store: Store, ticket: str, browser: str, now: datetime) -> Document:
    """The step that a ticket stands for.

    Raises:
        Gone: login_expired.
    """
    step = store.step(auth.digest(ticket), REGISTRATION, auth.digest(browser), _since(now))
    if step is None:
        raise Gone("login_expired")
    return step


def register(store: Store, step: Document, form: Mapping[str, Any], now: datetime, trace: str) -> Document:
    """Makes an account for a proven login whose person agrees to the terms."""
    document = {
        "_id": ids.new(),
        "county": form["county"],
        "logins": [step["login"]],
        "terms": {"version": rules.TERMS, "at": now},
        "declared": rules.declared(parent=form["parent"]),
        "grants": [],
    }
    act = Act(_REGISTRAR, now, trace)
    emit = Emit(PersonRegisteredV1, {"day": act.today, "by": str(Enrolment.SELF)})
    after = {"county": form["county"], "terms": rules.TERMS, "declared": document["declared"]}
    return store.register(document, act.write("account.register", emit, after=after))


def _since(now: datetime) -> datetime:
    return now - timedelta(minutes=rules.LOGIN_MINUTES)


# Sessions


def open_session(store: Store, account: Document, provider: str, now: datetime, trace: str) -> str:
    """Opens a session; the secret of its cookie."""
    secret = auth.new_secret()
    document = {
        "_id": ids.new(),
        "account": account["_id"],
        "county": account["county"],
        "state": rules.OPEN,
        "provider": provider,
        "opened_at": now,
        "seen_at": now,
        "digest": auth.digest(secret),
    }
    act = as_owner(account, now, trace)
    store.open_session(document, act.write("session.open", after={"state": rules.OPEN, "provider": provider}))
    return secret


def live_session(store: Store, secret: str, now: datetime) -> tuple[Document, Document] | None:
    """The session behind a cookie, and its account; None where it is not good any more."""
    session = store.session_by_digest(auth.digest(secret))
    if session is None:
        return None
    account = store.own_account(session["account"])
    if not account["logins"] or not rules.lives(session, rules.held(account), now):
        return None
    if now - session["seen_at"] >= rules.SEEN_EVERY:
        store.see(session["_id"], now)
    return session, account


def own_live_sessions(store: Store, account: Document, now: datetime) -> list[Document]:
    """The sessions of an account that are still good, oldest first."""
    held = rules.held(account)
    return [one for one in store.open_sessions(account["_id"]) if rules.lives(one, held, now)]


def end_own_session(store: Store, act: Act, id_: str, reason: str = "logout") -> Document:
    """Ends one of the actor's own sessions; ended before, it stays so. A registration sent again opens none."""
    store.forget_steps(store.own_account(act.actor.id)["logins"])
    return settle(lambda: _end(store, act, store.own_session(id_, act.actor), reason))


def end_all_sessions(store: Store, act: Act, account: str, reason: str) -> int:
    """Ends every session of an account; how many. A registration sent again opens none."""
    store.forget_steps(store.own_account(account)["logins"])
    sessions = store.open_sessions(account)
    for session in sessions:
        try:
            _end(store, act, session, reason)
        except Stale:
            continue  # ended by another request just now: nothing else changes a session
    return len(sessions)


def sign_out(store: Store, act: Act, id_: str, reason: str) -> int:
    """Ends the sessions of somebody in the officer's district; how many.

    Raises:
        NotFound: no account of the officer's district.
        Forbidden: who is more than the officer could have made them.
    """
    account = store.account(id_, act.actor)
    if not rules.may_manage(act.actor.roles, act.actor.scope, account["grants"]):
        raise Forbidden
    return end_all_sessions(store, act, account["_id"], reason)


def close_run_out(store: Store, act: Act) -> int:
    """Closes sessions that nobody can use any more; how many.

    No event: no token of theirs is good any more.
    """
    longest, unused = rules.span(())
    closed = 0
    while found := store.sessions_run_out(act.now - longest, act.now - unused, BATCH):
        closed += sum(_close(store, act, session) for session in found)
    for account in store.accounts_granted():
        closed += close_unusable(store, act, account)
    return closed


def close_unusable(store: Store, act: Act, account: Document) -> int:
    """Closes what has run out of an account's sessions under its roles of now; how many.

    Before a role is withdrawn: without it sessions live longer, and one that was over would be good again.
    """
    held = rules.held(account)
    over = [one for one in store.open_sessions(account["_id"]) if not rules.lives(one, held, act.now)]
    return sum(_close(store, act, session) for session in over)


def _close(store: Store, act: Act, session: Document) -> bool:
    write = act.write("session.expire", before={"state": rules.OPEN}, after={"state": rules.EXPIRED})
    try:
        store.end_session(session, write, rules.EXPIRED)
    except Stale:  # ended by somebody else just now
        return False
    return True


def _end(store: Store, act: Act, session: Document, reason: str) -> Document:
    if session["state"] != rules.OPEN:
        return session
    emit = Emit(SessionRevokedV1, {"day": act.today, "session": session["_id"]})
    write = act.write(
        "session.revoke", emit, reason=reason, before={"state": rules.OPEN}, after={"state": rules.REVOKED}
    )
    return store.end_session(session, write)
