"""Being told: the in-app inbox at once, a message when it may go out, tried until it is out or cannot go."""

from collections.abc import Callable, Mapping
from contextlib import suppress
from datetime import date, datetime, timedelta
from typing import Any, Final

from babel.dates import format_date, format_datetime
from babel.numbers import format_decimal
from pymongo.client_session import ClientSession

from contracts.catalogue import CATALOGUE
from contracts.codes import Channel, NoticeFailure, NoticeReason
from contracts.envelope import Event
from contracts.events.people import NoticeDispatchedV1, NoticeFailedV1
from contracts.roles import ROLES, Role
from services.kernel import audit, auth, clock, ids, inbox, logging
from services.kernel.act import Act
from services.kernel.errors import Conflict, NotFound, Stale
from services.kernel.mongo import Document
from services.kernel.outbox import Emit
from services.people import rules
from services.people.channels import Port, Refused
from services.people.handlers import erasure
from services.people.store import Store
from services.people.vault import Vault

BATCH: Final = 20
DAY: Final = timedelta(days=1)
_MESSENGER: Final = auth.system("messenger")
PhoneOf = Callable[[str, str], str | None]
"""The number of an account for a channel; None where the person does not, or no longer, agree to that."""
_LOCALES: Final = {"zh": "zh_Hans_CN", "en": "en_GB"}


def tell(
    store: Store,
    account: Document,
    template: str,
    now: datetime,
    trace: str,
    *,
    params: Mapping[str, str | int] | None = None,
    about: str | None = None,
    session: ClientSession | None = None,
) -> None:
    """Puts a notice into somebody's inbox, and where the person agreed to that, on its way out by text or chat.

    ``params``: codes, numbers and instants only. ``session``: the transaction of the decision that is told.
    """
    known = rules.TEMPLATES[template]
    document = _notice(account["_id"], account["county"], template, now)
    document |= {"params": dict(params or {}), "about": about}
    if known.leaves and store.messages_since(account["_id"], template, about, now - DAY) < rules.MESSAGES_A_DAY:
        person = store.person(account["_id"])
        waiting = {"state": rules.WAITING, "tries": 0, "due": rules.due(known, now), "reason": None}
        document["messages"] = [{"channel": one, **waiting} for one in rules.CHANNELS if rules.agreed(person, one)]
    act = Act(_MESSENGER, now, trace)
    emit = Emit(NoticeDispatchedV1, _said(act, str(Channel.INBOX), about))
    store.keep_notice(document, act.write("notice.tell", emit, after={"template": template}), session)


def requested(store: Store, vault: Vault, event: Event, now: datetime, trace: str) -> None:
    """Tells whom another service asks to be told, once however often it is asked.

    Who is not, or no longer, known here is answered with a failure: asking again would not change that, so it is
    settled, and nothing is kept of what was to be said.
    """
    asked = CATALOGUE[event["type"]].schema().load(event["data"])  # without what it does not know
    meant = _meant(store, asked)
    there = [account for account in meant if _is_there(store, vault, account["_id"])]

    def told(session: ClientSession) -> None:
        for account in there:
            known = {"params": asked["params"], "about": asked["about"], "session": session}
            tell(store, account, asked["template"], now, trace, **known)
        if not there:
            _tell_nobody(store, Act(_MESSENGER, now, trace), event["county"], asked, session)

    inbox.once(store.database, event, now, told)
    for account in meant:
        with suppress(Conflict):  # erased meanwhile
            erasure.clear_if_erased(store, vault, account["_id"])


def _meant(store: Store, asked: Mapping[str, Any]) -> list[Document]:
    if "ref" in asked:
        return store.accounts_by_ref(asked["ref"])
    try:
        return [store.own_account(asked["account"])]
    except NotFound:
        return []


def _is_there(store: Store, vault: Vault, account: str) -> bool:
    try:
        erasure.refuse_erased(store, vault, account)
    except Conflict:
        return False
    return True


def _tell_nobody(store: Store, act: Act, county: str, asked: Mapping[str, Any], session: ClientSession) -> None:
    said = {**_said(act, str(Channel.INBOX), asked["about"]), "reason": str(NoticeFailure.UNKNOWN_PERSON)}
    emit = Emit(NoticeFailedV1, said)
    write = act.write("notice.failed", emit, reason=said["reason"], after={"template": asked["template"]})
    store.keep_notice(_notice(None, county, asked["template"], act.now), write, session)


def _notice(account: str | None, county: str, template: str, now: datetime) -> Document:
    return {
        "_id": ids.new(),
        "account": account,
        "county": county,
        "template": template,
        "params": {},
        "about": None,
        "at": now,
        "read_at": None,
        "messages": [],
    }


def send_due(store: Store, phone_of: PhoneOf, ports: Mapping[str, Port], now: clock.Clock, trace: str) -> int:
    """Hands over the messages that are due; how many were handed over or given up.

    What dies between the handing over and its note is handed over again, under the same id.
    """
    settled = 0
    for notice in store.due_notices(now(), BATCH):
        try:
            for message in notice["messages"]:
                act = Act(_MESSENGER, now(), trace)  # a slow gateway takes its time
                if message["state"] == rules.WAITING and message["due"] <= act.now:
                    notice, done = _try(store, act, notice, message["channel"], phone_of, ports)  # noqa: PLW2901
                    settled += done
        except Stale:
            continue  # another process had it, or its person was erased
    return settled


def _try(
    store: Store, act: Act, notice: Document, channel: str, phone_of: PhoneOf, ports: Mapping[str, Port]
) -> tuple[Document, bool]:
    """The notice after one try, and whether that was the last one."""
    later = rules.due(rules.TEMPLATES[notice["template"]], act.now)
    if later > act.now:  # it came late, and now people sleep
        write = act.write("notice.wait", after={channel: "quiet"})
        return store.change_notice(notice, write, messages=_with(notice, channel, due=later)), False
    tries = next(one["tries"] for one in notice["messages"] if one["channel"] == channel) + 1
    again = rules.due(rules.TEMPLATES[notice["template"]], rules.next_try(tries, act.now))
    # claimed before it is sent: of two processes one goes on, and one that dies comes back to it later
    write = act.write("notice.try", after={channel: tries})
    claimed = store.change_notice(notice, write, messages=_with(notice, channel, tries=tries, due=again))
    try:
        phone = phone_of(notice["account"], channel)
        if phone is None:
            return _give_up(store, act, claimed, channel, NoticeFailure.NO_ADDRESS)
        ports[channel](phone, words(notice, "zh"), f"{notice['_id']}.{channel}")
    except Stale:
        raise
    except Refused:
        return _give_up(store, act, claimed, channel, NoticeFailure.REFUSED)
    except Exception as error:  # noqa: BLE001 (whatever a gateway's trouble is, it is tried again; its text may quote)
        logging.get().warning("message_not_handed_over", notice=notice["_id"], tries=tries, error=type(error).__name__)
        if tries < rules.TRIES_MAX:
            return claimed, False
        return _give_up(store, act, claimed, channel, NoticeFailure.UNREACHABLE)
    emit = Emit(NoticeDispatchedV1, _said(act, channel, notice["about"]))
    return _settle(store, act, claimed, channel, emit, rules.SENT, None)


def _give_up(store: Store, act: Act, notice: Document, channel: str, reason: NoticeFailure) -> tuple[Document, bool]:
    emit = Emit(NoticeFailedV1, {**_said(act, channel, notice["about"]), "reason": str(reason)})
    return _settle(store, act, notice, channel, emit, rules.FAILED, str(reason))


def _settle(
    store: Store, act: Act, notice: Document, channel: str, emit: Emit, state: str, reason: str | None
) -> tuple[Document, bool]:
    write = act.write("notice." + state, emit, before={channel: rules.WAITING}, after={channel: state})
    messages = _with(notice, channel, state=state, reason=reason, due=None)
    return store.change_notice(notice, write, messages=messages), True


def _with(notice: Document, channel: str, **changes: object) -> list[Document]:
    return [{**one, **changes} if one["channel"] == channel else one for one in notice["messages"]]


def words(notice: Mapping[str, Any], language: str) -> str:
    """A notice in one language; after its person was erased, without its particulars."""
    language = "en" if language == "en" else "zh"
    text: str = getattr(rules.TEMPLATES[notice["template"]], language)
    return text.format_map(_Blank({name: _said_of(name, value, language) for name, value in notice["params"].items()}))


def _said_of(name: str, value: Any, language: str) -> str:
    """A parameter in words; days, moments and numbers as pages write them."""
    locale = _LOCALES[language]
    match name:
        case "role":
            return str(getattr(ROLES[Role(value)], language))
        case "reason":
            return str(getattr(rules.REASONS[NoticeReason(value)], language))
        case "day":
            return format_date(date.fromisoformat(value), "long", locale=locale)
        case "moment":
            return format_datetime(datetime.fromisoformat(value), "medium", tzinfo=clock.SHANGHAI, locale=locale)
        case "count" | "position":
            return format_decimal(value, locale=locale)
        case _:
            return str(value)


class _Blank(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "…"


def _said(act: Act, channel: str, about: str | None) -> dict[str, Any]:
    return {"day": clock.day(act.now), "channel": channel, **({"about": about} if about else {})}


def deliveries(
    store: Store, act: Act, asked: Mapping[str, Any], *, limit: int, cursor: str
) -> tuple[list[Document], str | None]:
    """What people of the actor's district were told, without the words; the look is noted first."""
    named = {"account": "account", "state": "messages__state"}
    where = {field: asked[name] for name, field in named.items() if name in asked}
    rows, following = store.notices_of_district(act.actor, limit=limit, cursor=cursor, where=where)
    seen = sorted({row["account"] for row in rows})
    audit.look(store.database, act.actor, "notice.look", at=act.now, subjects=seen, fields=("notices",))
    return rows, following
