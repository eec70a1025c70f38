"""Pure decisions about logins and roles: no I/O, no framework."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from contracts import roles
from contracts.roles import Role

TERMS: Final = "2026-11"
"""The version of the terms that a new account agrees to."""
OPEN, REVOKED = "open", "revoked"
SESSION_STATES: Final = (OPEN, REVOKED)
LOGIN_MINUTES: Final = 10
"""How long somebody may take at a provider, and then over the terms."""
SEEN_EVERY: Final = timedelta(minutes=5)
"""How exactly the last use of a session is kept."""
_OWN: Final = frozenset(map(str, roles.DECLARED))
_OFFICIAL: Final = (timedelta(hours=12), timedelta(hours=2))
_PRIVATE: Final = (timedelta(days=30), timedelta(days=7))


def span(held: Collection[str]) -> tuple[timedelta, timedelta]:
    """How long a session lives at most, and unused: who may see or do what is others' logs in every working day."""
    return _PRIVATE if _OWN.issuperset(held) else _OFFICIAL


def lives(session: Mapping[str, Any], held: Collection[str], now: datetime) -> bool:
    """Whether a session is still good; a role gained meanwhile shortens it."""
    longest, unused = span(held)
    return bool(session["state"] == OPEN and now < session["opened_at"] + longest and now < session["seen_at"] + unused)


def held(account: Mapping[str, Any]) -> list[str]:
    """The roles of an account, declared and granted, sorted."""
    return sorted({*account["declared"], *(grant["role"] for grant in account["grants"])})


def scope(account: Mapping[str, Any]) -> str:
    """The one district that an account's roles are held over; empty where nothing was granted."""
    return next((str(grant["scope"]) for grant in account["grants"]), "")


def decide_grant(account: Mapping[str, Any], role: str, over: str) -> str | None:
    """The code of why a role cannot be added to an account, or None.

    A token carries one district: were two held, each role would reach into both.
    """
    if any(grant["role"] == role for grant in account["grants"]):
        return "already_granted"
    if account["grants"] and scope(account) != over:
        return "other_district"
    return None


def may_manage(actor_roles: Collection[str], actor_scope: str, grants: Iterable[Mapping[str, Any]]) -> bool:
    """Whether an officer may end somebody's logins: whoever could have granted all that the other is."""
    return all(roles.may_grant(actor_roles, actor_scope, grant["role"], grant["scope"]) for grant in grants)


def own_path(asked: str) -> str:
    """``asked`` where it is a place on this site, else the start: a login sends nobody elsewhere."""
    inside = asked.startswith("/") and not asked.startswith("//")
    plain = asked.isascii() and asked.isprintable() and not any(mark in asked for mark in "\\ \"'<>`")
    return asked if inside and plain else "/"


def declared(*, parent: bool) -> list[str]:
    """What a new account says of itself: everybody here works."""
    return [str(Role.WORKER), *([str(Role.PARENT)] if parent else [])]
