"""Being told: the in-app inbox at once, a message when it may go out, tried until it is out or cannot go."""

from collections.abc import Callable, Mapping
from datetime import datetime, timedelta
from typing import Any, Final

from pymongo.client_session import ClientSession

from contracts.codes import Channel, NoticeFailure
from contracts.events.people import NoticeDispatchedV1, NoticeFailedV1
from contracts.roles import ROLES, Role
from services.kernel import auth, clock, ids, logging
from services.kernel.act import Act
from services.kernel.errors import Stale
from services.kernel.mongo import Document
from services.kernel.outbox import Emit
from services.people import rules
from services.people.channels import Port, Refused
from services.people.store import Store

BATCH: Final = 20
DAY: Final = timedelta(days=1)
_MESSENGER: Final = auth.system("messenger")
PhoneOf = Callable[[str, str], str | None]
"""The number of an account for a channel; None where the person does not, or no longer, agree to that."""


def tell(
    store: Store,
    account: Document,
    template: str,
    now: datetime,
    trace: str,
    *,
    params: Mapping[str, str] | None = None,
    about: str | None = None,
    session: ClientSession | None = None,
) -> None:
    """Puts a notice into somebody's inbox, and where the person agreed to that, on its way out by text or chat.

    ``params``: codes, ids and instants only. ``session``: the transaction of the decision that is told.
    """
    known = rules.TEMPLATES[template]
    document: Document = {
        "_id": ids.new(),
        "account": account["_id"],
        "county": account["county"],
        "template": template,
        "params": dict(params or {}),
        "about": about,
        "at": now,
        "read_at": None,
        "messages": [],
    }
    if known.leaves and store.messages_since(account["_id"], template, now - DAY) < rules.MESSAGES_A_DAY:
        person = store.person(account["_id"])
        waiting = {"state": rules.WAITING, "tries": 0, "due": rules.due(known, now), "reason": None}
        document["messages"] = [{"channel": one, **waiting} for one in rules.CHANNELS if rules.agreed(person, one)]
    act = Act(_MESSENGER, now, trace)
    emit = Emit(NoticeDispatchedV1, _said(act, str(Channel.INBOX), about))
    store.keep_notice(document, act.write("notice.tell", emit, after={"template": template}), session)


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
    template = rules.TEMPLATES[notice["template"]]
    text = template.en if language == "en" else template.zh
    return text.format_map(_Blank({name: _said_of(name, value, language) for name, value in notice["params"].items()}))


def _said_of(name: str, value: str, language: str) -> str:
    if name == "role":
        about = ROLES[Role(value)]
        return about.en if language == "en" else about.zh
    return value


class _Blank(dict[str, str]):
    def __missing__(self, name: str) -> str:
        return "…"


def _said(act: Act, channel: str, about: str | None) -> dict[str, Any]:
    return {"day": clock.day(act.now), "channel": channel, **({"about": about} if about else {})}
