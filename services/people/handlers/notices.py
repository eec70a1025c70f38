"""Being told: the in-app inbox at once, a text message when it may go out, tried until it is out or cannot go."""

from collections.abc import Callable, Mapping
from datetime import datetime
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
from services.people.channels import Refused
from services.people.store import Store

BATCH: Final = 20
_MESSENGER: Final = auth.system("messenger")
Send = Callable[[str, str, str], None]
"""Hands a text to a number under an id, by which the gateway knows it again; raises Refused, or anything else."""


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
    """Puts a notice into somebody's inbox, and where the person agreed to that, on its way as a text message.

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
        "sms": None,
    }
    if known.sms and rules.agreed(store.person(account["_id"]), rules.SMS):
        document["sms"] = {"state": rules.WAITING, "tries": 0, "due": rules.due(known, now), "reason": None}
    act = Act(_MESSENGER, now, trace)
    emit = Emit(NoticeDispatchedV1, _said(act, Channel.INBOX, about))
    store.keep_notice(document, act.write("notice.tell", emit, after={"template": template}), session)


def send_due(store: Store, phone_of: Callable[[str], str | None], send: Send, now: datetime, trace: str) -> int:
    """Hands over the text messages that are due; how many were handed over or given up.

    What dies between the handing over and its note is handed over again, under the same id.
    """
    settled = 0
    for notice in store.due_notices(now, BATCH):
        act = Act(_MESSENGER, now, trace)
        try:
            settled += _try(store, act, notice, phone_of, send)
        except Stale:
            continue  # another process had it, or its person was erased
    return settled


def _try(store: Store, act: Act, notice: Document, phone_of: Callable[[str], str | None], send: Send) -> bool:
    tries = notice["sms"]["tries"] + 1
    again = rules.due(rules.TEMPLATES[notice["template"]], rules.next_try(tries, act.now))
    # claimed before it is sent: of two processes one goes on, and one that dies comes back to it later
    claimed = store.change_notice(
        notice, act.write("notice.try", after={"tries": tries}), sms={**notice["sms"], "tries": tries, "due": again}
    )
    phone = phone_of(notice["account"])
    if phone is None:
        return _give_up(store, act, claimed, NoticeFailure.NO_ADDRESS)
    try:
        send(phone, words(notice, "zh"), notice["_id"])
    except Refused:
        return _give_up(store, act, claimed, NoticeFailure.REFUSED)
    except Exception as error:  # noqa: BLE001 (whatever a gateway's trouble is, it is tried again; its text may quote)
        logging.get().warning("message_not_handed_over", notice=notice["_id"], tries=tries, error=type(error).__name__)
        if tries < rules.TRIES_MAX:
            return False
        return _give_up(store, act, claimed, NoticeFailure.UNREACHABLE)
    emit = Emit(NoticeDispatchedV1, _said(act, Channel.SMS, notice["about"]))
    _settle(store, act, claimed, emit, rules.SENT, None)
    return True


def _give_up(store: Store, act: Act, notice: Document, reason: NoticeFailure) -> bool:
    emit = Emit(NoticeFailedV1, {**_said(act, Channel.SMS, notice["about"]), "reason": str(reason)})
    _settle(store, act, notice, emit, rules.FAILED, reason)
    return True


def _settle(store: Store, act: Act, notice: Document, emit: Emit, state: str, reason: NoticeFailure | None) -> None:
    sms = {**notice["sms"], "state": state, "reason": str(reason) if reason else None, "due": None}
    write = act.write("notice." + state, emit, before={"sms": notice["sms"]["state"]}, after={"sms": state})
    store.change_notice(notice, write, sms=sms)


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


def _said(act: Act, channel: Channel, about: str | None) -> dict[str, Any]:
    return {"day": clock.day(act.now), "channel": str(channel), **({"about": about} if about else {})}
