"""Pure decisions about logins and roles: no I/O, no framework."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, time, timedelta
from typing import Any, Final, NamedTuple
from zoneinfo import ZoneInfo

from contracts import roles
from contracts.codes import NoticeReason, NoticeTemplate
from contracts.roles import Role

TERMS: Final = "2026-11"
"""The version of the terms that a new account agrees to."""
OPEN, REVOKED, EXPIRED = "open", "revoked", "expired"
SESSION_STATES: Final = (OPEN, REVOKED, EXPIRED)
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


# Personal data

IDENTITY, SMS, CHAT, CHILDREN = "identity", "sms", "chat", "children"
PURPOSES: Final = {IDENTITY: "2026-11", SMS: "2026-11", CHAT: "2026-11", CHILDREN: "2026-11"}
"""What is agreed to apart from the terms, and the version of its text: keeping who one is, messages, one's children."""
ONESELF, COUNTER = "oneself", "counter"
RECORDED: Final = (ONESELF, COUNTER)
"""Who recorded a consent: the person, or staff at a counter for somebody who signed on paper."""
CHILDREN_MAX: Final = 10
CHILD_YEARS_MAX: Final = 18


def _holds(consent: Mapping[str, Any], purpose: str) -> bool:
    return consent["purpose"] == purpose and not consent.get("until") and bool(consent["version"] == PURPOSES[purpose])


def agreed(person: Mapping[str, Any] | None, purpose: str) -> bool:
    """Whether somebody agrees to a purpose now."""
    return any(_holds(one, purpose) for one in (person or {}).get("consents", ()))


def with_consent(consents: Sequence[Mapping[str, Any]], purpose: str, now: datetime, by: str) -> list[dict[str, Any]]:
    """The record with a consent that holds from now on; one that holds already stays, one to an older text ends."""
    if any(_holds(one, purpose) for one in consents):
        return [dict(one) for one in consents]
    return [
        *without_consent(consents, purpose, now),
        {"purpose": purpose, "version": PURPOSES[purpose], "at": now, "by": by, "until": None},
    ]


def without_consent(consents: Sequence[Mapping[str, Any]], purpose: str, now: datetime) -> list[dict[str, Any]]:
    """The record with the consent ended: what was agreed to once stays on record."""
    return [
        {**one, "until": now} if one["purpose"] == purpose and not one.get("until") else dict(one) for one in consents
    ]


# Erasure

REQUESTED, COMPLETED = "requested", "completed"
ERASURE_STATES: Final = (REQUESTED, COMPLETED)
ERASURE_DAYS: Final = 15
"""By when every service has confirmed. Source: the App violation criteria of 2019, article 6: 15 working days."""


# Being told

WAITING, SENT, FAILED = "waiting", "sent", "failed"
MESSAGE_STATES: Final = (WAITING, SENT, FAILED)
CHANNELS: Final = (SMS, CHAT)
"""By which a message may leave the house; each needs the person's consent of the same name."""
TRIES_MAX: Final = 6
MESSAGES_A_DAY: Final = 3
"""Of one kind about one thing to one person: nobody proves a number; who types a stranger's shall not plague them."""
QUIET_FROM, QUIET_UNTIL = time(21), time(9)
_SHANGHAI: Final = ZoneInfo("Asia/Shanghai")


NOTICE_DAYS: Final = 400
"""How long a notice keeps its particulars; what is left of it after that is which template, and when."""


@dataclass(frozen=True, slots=True)
class Template:
    """A notice's words, whether it also leaves the house as a message, and whether that may wake somebody.

    ``{name}`` stands for a parameter: a code, an id or an instant, never anything of a person.
    """

    zh: str
    en: str
    leaves: bool = False
    urgent: bool = False


TEMPLATES: Final = {
    "welcome": Template(
        "欢迎使用泰安e站。这里会收到与您有关的通知。", "Welcome to E-Station. What concerns you is told here."
    ),
    "new_login": Template(
        "您的账号刚刚登录。若非本人操作，请在“我的账号”中结束所有登录。",
        "Somebody has just logged in as you. If it was not you, end all logins under My account.",
        leaves=True,
        urgent=True,
    ),
    "role_granted": Template("您已被授予角色：{role}。", "You were given a role: {role}.", leaves=True),
    "role_withdrawn": Template("您的角色已被撤销：{role}。", "A role of yours was ended: {role}.", leaves=True),
    "identity_seen": Template(
        "工会工作人员为办理业务查看了您的完整身份信息。如有疑问请联系所在地工会。",
        "An officer has looked at your full personal data to handle a matter. Ask your union if in doubt.",
    ),
    "identity_released": Template(
        "您填写的身份证号经柜台核对属于他人，已从您的资料中删除；请重新填写您自己的号码。",
        "The ID number you gave is somebody else's, as a counter has checked; it was taken out. Please give your own.",
        leaves=True,
    ),
    "identity_verified": Template(
        "您的身份信息已在柜台核实。", "Your identity was verified at a counter.", leaves=True
    ),
    str(NoticeTemplate.CHILDCARE_CONFIRMED): Template(
        "托管班报名成功，{day}开班。", "The place in the childcare class is yours; it begins on {day}.", leaves=True
    ),
    str(NoticeTemplate.CHILDCARE_INELIGIBLE): Template(
        "托管班报名未通过：{reason}。",
        "The application for the childcare class cannot be taken: {reason}.",
        leaves=True,
    ),
    str(NoticeTemplate.CHILDCARE_WAITLISTED): Template(
        "托管班已满，目前候补第 {position} 位。有名额时会通知您。",
        "The childcare class is full; you are number {position} on its waiting list and will be told of a free place.",
        leaves=True,
    ),
    str(NoticeTemplate.CHILDCARE_OFFERED): Template(
        "托管班有名额了，请在 {count} 小时内确认，逾期名额将转给下一位；期限不会在 21:00 至次日 9:00 之间届满。",
        "A place in the childcare class is free for you. Confirm within {count} h, or it goes to the next; "
        "the time never runs out between 21:00 and 9:00.",
        leaves=True,
    ),
    str(NoticeTemplate.CHILDCARE_OFFER_EXPIRED): Template(
        "托管班名额未按时确认，已转给下一位。",
        "The place in the childcare class was not confirmed in time and went to the next.",
        leaves=True,
    ),
    str(NoticeTemplate.CHILDCARE_PRIORITY_CHANGED): Template(
        "您的托管班候补顺序已调整，现为第 {position} 位，原因：{reason}。",
        "Your place on the childcare class's waiting list was changed to number {position}: {reason}.",
        leaves=True,
    ),
    str(NoticeTemplate.CHILDCARE_DRAW_COMMITTED): Template(
        "托管班摇号名单已公布，将在 {moment} 之后产生结果。您的回执在“我的报名”中。",
        "The entries of the childcare draw are published; it is held after {moment}. "
        "Your receipt is under My applications.",
        leaves=True,
    ),
    str(NoticeTemplate.CHILDCARE_DRAWN): Template(
        "托管班摇号已完成，您排在第 {position} 位。",
        "The childcare draw was held; your rank is {position}.",
        leaves=True,
    ),
    str(NoticeTemplate.CHILDCARE_REMOVED): Template(
        "托管班报名已撤销：{reason}。", "The place in the childcare class was taken back: {reason}.", leaves=True
    ),
    str(NoticeTemplate.CHILDCARE_CLASS_CANCELLED): Template(
        "原定{day}开班的托管班已取消。",
        "The childcare class that was to begin on {day} is cancelled.",
        leaves=True,
    ),
}


class Reason(NamedTuple):
    """A reason in words that end a sentence."""

    zh: str
    en: str


REASONS: Final = {
    NoticeReason.AGE: Reason("年龄不在招收范围内", "the child is not of its age"),
    NoticeReason.COUNTY: Reason("不在本区县招收范围内", "it is for another county"),
    NoticeReason.OVERLAP: Reason("与已报名的其他班时间冲突", "its days overlap with another class of the child"),
    NoticeReason.ENTERED_TWICE: Reason("重复录入", "it was entered twice"),
    NoticeReason.WRONG_CHILD: Reason("录入的孩子有误", "it was entered for the wrong child"),
    NoticeReason.WRONG_CLASS: Reason("录入的班级有误", "it was entered for the wrong class"),
    NoticeReason.NOT_ENTITLED: Reason("不符合报名条件", "the conditions are not met"),
    NoticeReason.ROSTER: Reason("困难职工家庭优先", "households in hardship come first"),
    NoticeReason.OFFICER: Reason("工会工作人员决定", "an officer decided so"),
    NoticeReason.ERROR: Reason("更正录入错误", "an error was put right"),
}


def due(template: Template, now: datetime) -> datetime:
    """When a message may go out: not between 21:00 and 09:00 in Tai'an, unless it is urgent."""
    local = now.astimezone(_SHANGHAI)
    if template.urgent or QUIET_UNTIL <= local.time() < QUIET_FROM:
        return now
    morning = local if local.time() < QUIET_UNTIL else local + timedelta(days=1)
    return morning.replace(hour=QUIET_UNTIL.hour, minute=0, second=0, microsecond=0).astimezone(now.tzinfo)


def next_try(tries: int, now: datetime) -> datetime:
    """When a message that could not be handed over is tried again: after 30 s, 2 min, 8 min, 32 min, 2 h."""
    return now + timedelta(seconds=30 * 4 ** (tries - 1))


def held_longest(one: Iterable[Mapping[str, str]], other: Iterable[Mapping[str, str]]) -> list[dict[str, str]]:
    """What law keeps in one service or another: each thing once, until the last of its days; without a day: no end."""
    found: dict[str, dict[str, str]] = {}
    for kept in (*one, *other):
        known = found.setdefault(kept["what"], dict(kept))
        if "until" in known and "until" in kept:
            known["until"] = max(known["until"], kept["until"])
        else:
            known.pop("until", None)
    return [found[what] for what in sorted(found)]
