"""Ending somebody's data for good: here at once, in every other service by events, and again after a restore."""

from datetime import timedelta
from typing import Final

from contracts.catalogue import ERASERS
from contracts.codes import Held
from contracts.envelope import Event
from contracts.events.people import ErasureCompletedV1, SubjectErasedV1
from services.kernel import auth, clock, logging
from services.kernel.act import Act
from services.kernel.errors import Conflict, NotFound
from services.kernel.mongo import Document
from services.kernel.outbox import Emit, settle
from services.people import rules
from services.people.handlers import logins
from services.people.store import Store
from services.people.vault import Vault

BATCH: Final = 50
_ERASER: Final = auth.system("erasure")


def erase(store: Store, vault: Vault, act: Act) -> Document:
    """Erases the actor's account; asked for before, what became of it.

    The first write decides it and tells the other services; what dies after that is finished by :func:`finish`.
    """
    account = store.own_account(act.actor.id)
    known = store.erasure(account["_id"])
    if known is None:
        person = store.person(account["_id"])
        # only of who showed the card: whoever types a stranger's number must not erase what others hold under it
        refs = [person["ref"]] if person and person["ref"] and person["verified_at"] else []
        due = clock.day(act.now + timedelta(days=rules.ERASURE_DAYS))
        document = {
            "_id": account["_id"],
            "county": account["county"],
            "state": rules.REQUESTED,
            "requested_at": act.now,
            "due": due,
            "here": False,
            "waits": list(ERASERS),
            "held": [{"what": str(Held.AUDIT_TRAIL)}],
            "documents": 0,
        }
        emit = Emit(SubjectErasedV1, {"day": act.today, "due": due, "refs": refs})
        write = act.write("person.erase", emit, reason="by the person", after={"state": rules.REQUESTED, "due": due})
        known = store.begin_erasure(document, write)
    return _here(store, vault, Act(_ERASER, act.now, act.trace), known)


def finish(store: Store, vault: Vault, act: Act) -> int:
    """Does what a process that died left undone; how many erasures that were."""
    found = store.unfinished_erasures(BATCH)
    for one in found:
        try:
            _here(store, vault, act, one)
        except Exception as error:  # noqa: BLE001 (one person's trouble must not keep the others)
            logging.get().error("erasure_not_finished", exc_info=error)
    return len(found)


def _here(store: Store, vault: Vault, act: Act, erasure: Document) -> Document:
    """Erases what this service holds; each step may be done again."""
    account = erasure["_id"]
    logins.end_all_sessions(store, act, account, "erased")

    def emptied() -> None:
        current = store.own_account(account)
        store.forget_steps(current["logins"])
        if current["logins"] or current["grants"]:
            write = act.write("account.erase", before={"grants": len(current["grants"])}, after={"grants": 0})
            store.change_account(current, write, logins=[], grants=[], declared=[])

    settle(emptied)
    documents = vault.shred(account)

    def noted() -> Document:
        current = store.erasure(account) or erasure
        if current["here"]:
            return current
        write = act.write("person.forget", after={"documents": documents})
        return store.change_erasure(current, write, here=True, documents=current["documents"] + documents)

    return _completed(store, act, settle(noted))


def confirmed(store: Store, act: Act, event: Event) -> None:
    """Notes that a service has erased what it held; with the last one the account is gone.

    Raises:
        NotFound: nobody asked for it (a database older than the event: it is tried again, then parked).
    """
    service = event["type"].split(".", 1)[0]

    def noted() -> Document:
        current = store.erasure(event["subject"])
        if current is None:
            raise NotFound
        if service not in current["waits"]:
            return current
        data = event["data"]
        waits = [one for one in current["waits"] if one != service]
        write = act.write("person.forget", reason=service, before={"waits": current["waits"]}, after={"waits": waits})
        return store.change_erasure(
            current,
            write,
            waits=waits,
            held=rules.held_longest(current["held"], data["held"]),
            documents=current["documents"] + data["documents"],
        )

    _completed(store, act, settle(noted))


def _completed(store: Store, act: Act, erasure: Document) -> Document:
    def attempt() -> Document:
        current = store.erasure(erasure["_id"]) or erasure
        if current["waits"] or not current["here"] or current["state"] == rules.COMPLETED:
            return current
        emit = Emit(ErasureCompletedV1, {"day": act.today})
        write = act.write("person.erased", emit, before={"state": rules.REQUESTED}, after={"state": rules.COMPLETED})
        return store.change_erasure(current, write, state=rules.COMPLETED)

    return settle(attempt)


def receipt(store: Store, account: str) -> Document:
    """What became of an erasure, for whoever knows the account's number.

    Raises:
        NotFound: nobody asked for it.
    """
    found = store.erasure(account)
    if found is None:
        raise NotFound
    return found


def refuse_erased(store: Store, vault: Vault, account: str) -> None:
    """Lets nothing new be kept of somebody who is being erased, or was before the backup that was restored.

    Raises:
        Conflict: person_erased.
    """
    if _erased(store, vault, account):
        raise Conflict("person_erased")


def clear_if_erased(store: Store, vault: Vault, account: str) -> None:
    """After a write of personal data: what an erasure meanwhile did not see goes too.

    Raises:
        Conflict: person_erased.
    """
    if _erased(store, vault, account):
        vault.forget([account])
        raise Conflict("person_erased")


def _erased(store: Store, vault: Vault, account: str) -> bool:
    return store.erasure(account) is not None or vault.keys.destroyed(account)
