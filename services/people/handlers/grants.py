"""What officers make of people, and end: roles over districts."""

from typing import Any

from pymongo.client_session import ClientSession

from contracts import roles
from services.kernel.act import Act
from services.kernel.errors import Conflict, FieldError, Forbidden, Invalid
from services.kernel.mongo import Document
from services.kernel.outbox import settle
from services.people import rules
from services.people.handlers import erasure, logins, notices
from services.people.store import Store
from services.people.vault import Vault


def grant_role(store: Store, vault: Vault, act: Act, id_: str, role: str, scope: str, reason: str) -> Document:
    """Makes somebody of the officer's district something.

    Raises:
        NotFound: no account of the officer's district.
        Forbidden: to oneself, or beyond what the officer may grant.
        Conflict: already_granted; other_district: all roles of a person are held over one; person_erased.
    """
    if scope not in roles.ROLES[roles.Role(role)].over:
        raise Invalid([FieldError("scope", "not_for_this_role")])

    def attempt() -> Document:
        account = store.account(id_, act.actor)
        _refuse(act, account, role, scope)
        erasure.refuse_erased(store, vault, id_)
        return _grant(store, act, account, role, scope, reason)

    return settle(attempt)


def appoint(store: Store, act: Act, id_: str, role: str, scope: str, reason: str) -> Document:
    """Makes somebody something on an operator's word: the first officers, whom nobody could grant anything yet.

    Raises:
        NotFound: no such account.
        Invalid: not_for_this_role.
        Conflict: already_granted; other_district.
    """
    if scope not in roles.ROLES[roles.Role(role)].over:
        raise Invalid([FieldError("scope", "not_for_this_role")])
    return settle(lambda: _grant(store, act, store.own_account(id_), role, scope, reason))


def _grant(store: Store, act: Act, account: Document, role: str, scope: str, reason: str) -> Document:
    problem = rules.decide_grant(account, role, scope)
    if problem is not None:
        raise Conflict(problem)
    grants = [*account["grants"], {"role": role, "scope": scope, "since": act.now}]
    return _regrant(store, act, account, "role_granted", role, grants, reason)


def withdraw_role(store: Store, act: Act, id_: str, role: str, reason: str) -> Document:
    """Ends what somebody was granted; tokens say so within five minutes and half.

    Raises:
        NotFound: no account of the officer's district.
        Forbidden: one's own, or beyond what the officer may grant.
        Conflict: not_granted.
    """

    def attempt() -> Document:
        account = store.account(id_, act.actor)
        held = next((grant for grant in account["grants"] if grant["role"] == role), None)
        if held is None:
            raise Conflict("not_granted")
        _refuse(act, account, role, held["scope"])
        logins.close_unusable(store, act, account)
        grants = [grant for grant in account["grants"] if grant["role"] != role]
        return _regrant(store, act, account, "role_withdrawn", role, grants, reason)

    return settle(attempt)


def _refuse(act: Act, account: Document, role: str, scope: str) -> None:
    if account["_id"] == act.actor.id:
        raise Forbidden("not_to_oneself")
    if not roles.may_grant(act.actor.roles, act.actor.scope, role, scope):
        raise Forbidden


def _regrant(
    store: Store, act: Act, account: Document, template: str, role: str, grants: list[dict[str, Any]], reason: str
) -> Document:
    """Changes the roles and tells the person, both or neither."""
    action = "account.grant" if len(grants) > len(account["grants"]) else "account.withdraw"
    write = act.write(action, reason=reason, before=_held(account["grants"]), after=_held(grants))

    def work(session: ClientSession) -> Document:
        notices.tell(store, account, template, act.now, act.trace, params={"role": role}, session=session)
        return store.change_account(account, write, session=session, grants=grants)

    return store.together(work)


def _held(grants: list[dict[str, Any]]) -> dict[str, Any]:
    return {"grants": [f"{grant['role']} {grant['scope']}" for grant in grants]}
