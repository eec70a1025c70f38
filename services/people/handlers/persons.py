"""Who somebody is: what people say of themselves and their children, what officers may look at, and the whole of it."""

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from datetime import date
from typing import Any, Final

from pymongo.client_session import ClientSession

from services.kernel import audit, clock, ids, personal
from services.kernel.act import Act
from services.kernel.auth import Actor
from services.kernel.errors import Conflict, FieldError, Forbidden, Invalid, NotFound, PreconditionFailed
from services.kernel.mongo import Document
from services.kernel.outbox import Idempotency, settle
from services.people import rules
from services.people.handlers import erasure, notices
from services.people.store import Store
from services.people.vault import Vault

PERSONAL: Final = ("name", "id_number", "phone")
FOUND_MAX: Final = 20
PAGE: Final = 500
_MASKS: Final = {"name": personal.mask_name, "id_number": personal.mask_id_number, "phone": personal.mask_phone}


def shown(vault: Vault, person: Document, *, whole: Collection[str] = ()) -> Document:
    """A person with the fields of ``whole`` in full and the others masked."""
    opened = vault.persons.open(person)
    fields = {name: value if name in whole or value is None else _MASKS[name](value) for name, value in opened.items()}
    return {**person, **fields}


# Oneself


def own(store: Store, vault: Vault, account: str) -> Document | None:
    """What the person said, ID number masked: it is on the card, and a phone lies about."""
    person = store.person(account)
    return None if person is None else shown(vault, person, whole=("name", "phone"))


def keep_own(store: Store, vault: Vault, act: Act, given: Mapping[str, Any]) -> Document:
    """Keeps who the actor is, with the consent to that; what was verified has to be verified again if it changes.

    Raises:
        Forbidden: consent_required.
        Conflict: identity_in_use; person_erased.
    """
    if not given["consent"]:
        raise Forbidden("consent_required")
    account, agreed = act.actor.id, rules.PURPOSES[rules.IDENTITY]
    erasure.refuse_erased(store, vault, account)

    def attempt() -> Document:
        person = store.person(account)
        values = {name: given[name] for name in PERSONAL}
        changes = {
            **vault.persons.seal(account, account, values),
            "ref": vault.ref(given["id_number"]),
            "consents": rules.with_consent((person or {}).get("consents", ()), rules.IDENTITY, act.now, rules.ONESELF),
        }
        if person is None:
            owner = store.own_account(account)
            return store.keep_person(
                {"_id": account, "county": owner["county"], "verified_at": None, **changes},
                act.write(
                    "person.keep", after={**dict.fromkeys(PERSONAL, "set"), rules.IDENTITY: agreed}, personal=PERSONAL
                ),
            )
        same = vault.persons.open(person)
        changed = [name for name in PERSONAL if same.get(name) != values[name]]
        if {"name", "id_number"} & set(changed):
            changes["verified_at"] = None
        if not changed and changes["consents"] == person["consents"]:
            return person
        verified = person["verified_at"] is not None
        write = act.write(
            "person.change",
            before={"verified": verified, rules.IDENTITY: agreed if rules.agreed(person, rules.IDENTITY) else None},
            after={
                **dict.fromkeys(changed, "set"),
                "verified": verified and "verified_at" not in changes,
                rules.IDENTITY: agreed,
            },
            personal=PERSONAL,
        )
        return store.change_person(person, write, changes)

    kept = settle(attempt)
    erasure.clear_if_erased(store, vault, account)
    return shown(vault, kept, whole=("name", "phone"))


def agree(store: Store, act: Act, purpose: str) -> Document:
    """Records the actor's consent to a purpose.

    Raises:
        Conflict: identity_missing: there is nothing yet that it could be about.
    """

    def attempt() -> Document:
        person = store.person(act.actor.id)
        if person is None or not rules.agreed(person, rules.IDENTITY):
            raise Conflict("identity_missing")
        consents = rules.with_consent(person["consents"], purpose, act.now, rules.ONESELF)
        if len(consents) == len(person["consents"]):
            return person
        write = act.write("consent.give", after={purpose: rules.PURPOSES[purpose]})
        return store.change_person(person, write, {"consents": consents})

    return settle(attempt)


def withdraw(store: Store, vault: Vault, act: Act, purpose: str) -> Document:
    """Ends the actor's consent to a purpose, and what was kept on its ground.

    Raises:
        NotFound: nothing was ever agreed to.
    """

    def attempt() -> Document:
        person = store.person(act.actor.id)
        if person is None:
            raise NotFound
        if not rules.agreed(person, purpose):
            return person
        changes: dict[str, Any] = {"consents": rules.without_consent(person["consents"], purpose, act.now)}
        if purpose == rules.IDENTITY:
            changes |= vault.persons.seal(act.actor.id, act.actor.id, dict.fromkeys(PERSONAL))
            changes |= {"ref": None, "verified_at": None}
            for other in (*rules.CHANNELS, rules.CHILDREN):
                changes["consents"] = rules.without_consent(changes["consents"], other, act.now)
        ended = [one for one in rules.PURPOSES if rules.agreed(person, one) and not rules.agreed(changes, one)]
        cleared = PERSONAL if purpose == rules.IDENTITY else ()
        write = act.write(
            "consent.withdraw",
            before={**{one: rules.PURPOSES[one] for one in ended}, **dict.fromkeys(cleared, "set")},
            after={**dict.fromkeys(ended), **dict.fromkeys(cleared)},
            personal=cleared,
        )
        return store.change_person(person, write, changes)

    if purpose in (rules.IDENTITY, rules.CHILDREN):  # before the consent ends: a kept child has one at any time
        for child in store.children(act.actor.id):
            with suppress(NotFound):  # taken out by another request
                take_out(store, vault, act, child["_id"])
    return settle(attempt)


# Children


def own_children(store: Store, vault: Vault, account: str) -> list[Document]:
    """The actor's children; ID numbers masked."""
    found = store.children(account)
    return [_child(document, values) for document, values in zip(found, vault.children.open_all(found), strict=True)]


def add_child(
    store: Store, vault: Vault, act: Act, given: Mapping[str, Any], idempotency: Idempotency | None
) -> tuple[Document, bool]:
    """Keeps a child of the actor, with the guardian's consent; and whether it is new.

    Raises:
        Forbidden: consent_required.
        Invalid: age_out_of_range: not a child any more.
        Conflict: child_known; too_many; identity_missing; person_erased.
    """
    if not given["consent"]:
        raise Forbidden("consent_required")
    account = act.actor.id
    erasure.refuse_erased(store, vault, account)
    before = store.child_answered(idempotency, act.now) if idempotency else None
    if before is not None:
        return _child(before, vault.children.open(before)), False
    born = personal.id_number(given["id_number"], date.fromisoformat(act.today)).born
    if _years(born, date.fromisoformat(act.today)) >= rules.CHILD_YEARS_MAX:
        raise Invalid([FieldError("id_number", "age_out_of_range")])
    person = agree(store, act, rules.CHILDREN)
    if len(store.children(account)) >= rules.CHILDREN_MAX:
        raise Conflict("too_many")
    id_ = ids.new()
    document = {
        "_id": id_,
        "county": person["county"],
        "ref": vault.ref(given["id_number"]),
        **vault.children.seal(account, id_, {"name": given["name"], "id_number": given["id_number"]}),
    }
    write = act.write("child.add", after={"name": "set", "id_number": "set"}, personal=("name", "id_number"))
    kept, new = store.keep_child(document, write, idempotency)
    erasure.clear_if_erased(store, vault, account)
    if not rules.agreed(store.person(account), rules.CHILDREN):  # withdrawn meanwhile
        take_out(store, vault, act, kept["_id"])
        raise Conflict("identity_missing")
    return _child(kept, vault.children.open(kept)), new


def take_out(store: Store, vault: Vault, act: Act, id_: str) -> None:
    """Takes a child out of the actor's account; what it was goes with it.

    Raises:
        NotFound: not the actor's.
    """

    def attempt() -> None:
        child = store.own_child(id_, act.actor)
        sealed = vault.children.seal(act.actor.id, id_, {"name": None, "id_number": None})
        write = act.write("child.remove", before={"name": "set"}, personal=("name",))
        store.change_child(child, write, {**sealed, "ref": None})

    settle(attempt)


def _child(document: Document, values: Mapping[str, str | None]) -> Document:
    number = values["id_number"]
    return {**document, "name": values["name"], "id_number": personal.mask_id_number(number)}


def _years(born: date, today: date) -> int:
    return today.year - born.year - ((today.month, today.day) < (born.month, born.day))


# For officers and staff at a counter


def find(store: Store, vault: Vault, act: Act, given: Mapping[str, str]) -> tuple[list[Document], bool]:
    """Persons of the actor's district with exactly this ID number, phone or name, masked; and whether there are more.

    The look is noted first.
    """
    field, value = next((name, given[name]) for name in PERSONAL if given.get(name))
    found = store.persons_where(vault.persons.where(field, value), act.actor, FOUND_MAX + 1)
    shown_of = found[:FOUND_MAX]
    _note(store, act, "person.find", [one["_id"] for one in shown_of], PERSONAL)
    opened = [shown(vault, one) for one in shown_of]
    return sorted(opened, key=lambda one: (one["name"] or "", one["_id"])), len(found) > FOUND_MAX


def look(store: Store, vault: Vault, act: Act, account: str) -> Document:
    """One person of the actor's district, masked; the look is noted first.

    Raises:
        NotFound: not there, or not the actor's to see.
    """
    person = store.person_seen(account, act.actor)
    _note(store, act, "person.look", [account], PERSONAL)
    return shown(vault, person)


def reveal(store: Store, vault: Vault, act: Act, account: str, reason: str) -> Document:
    """The same in full; the look is noted with its reason first, and the person is told.

    Raises:
        NotFound: not there, or not the actor's to see.
    """
    person = store.person_seen(account, act.actor)
    _note(store, act, "person.reveal", [account], PERSONAL, reason)
    notices.tell(store, store.own_account(account), "identity_seen", act.now, act.trace)
    return shown(vault, person, whole=PERSONAL)


def verify(store: Store, vault: Vault, act: Act, account: str, reason: str, rev: int) -> Document:
    """Notes that somebody showed the card to the actor, who is somebody else; ``rev``: of what the actor compared.

    Raises:
        NotFound: not there, or not the actor's to see.
        Forbidden: separation_of_duties: one's own.
        Conflict: identity_missing.
        PreconditionFailed: the person has changed something since.
    """
    if account == act.actor.id:
        raise Forbidden("separation_of_duties")
    store.person_seen(account, act.actor)
    _note(store, act, "person.look", [account], PERSONAL)

    def attempt() -> Document:
        person = store.person_seen(account, act.actor)
        if not person["ref"]:
            raise Conflict("identity_missing")
        if person["rev"] != rev:
            raise PreconditionFailed
        if person["verified_at"] is not None:
            return person
        write = act.write("person.verify", reason=reason, before={"verified": False}, after={"verified": True})
        owner = store.own_account(account)

        def told(session: ClientSession) -> Document:
            notices.tell(store, owner, "identity_verified", act.now, act.trace, session=session)
            return store.change_person(person, write, {"verified_at": act.now}, session)

        return store.together(told)

    return shown(vault, settle(attempt))


def release(store: Store, vault: Vault, act: Act, account: str, reason: str, rev: int) -> Document:
    """Takes an ID number that nobody verified out of an account: the card's holder, who is at the counter, needs it.

    Raises:
        NotFound: not there, or not the actor's to see.
        Forbidden: separation_of_duties: one's own.
        Conflict: identity_missing; identity_verified.
        PreconditionFailed: the person has changed something since.
    """
    if account == act.actor.id:
        raise Forbidden("separation_of_duties")
    store.person_seen(account, act.actor)
    _note(store, act, "person.look", [account], PERSONAL)

    def attempt() -> Document:
        person = store.person_seen(account, act.actor)
        if not person["ref"]:
            raise Conflict("identity_missing")
        if person["rev"] != rev:
            raise PreconditionFailed
        if person["verified_at"] is not None:
            raise Conflict("identity_verified")
        changes = {**vault.persons.seal(account, account, {"id_number": None}), "ref": None}
        write = act.write(
            "person.release", reason=reason, before={"id_number": "set"}, after={}, personal=("id_number",)
        )
        owner = store.own_account(account)

        def told(session: ClientSession) -> Document:
            notices.tell(store, owner, "identity_released", act.now, act.trace, session=session)
            return store.change_person(person, write, changes, session)

        return store.together(told)

    return shown(vault, settle(attempt))


def _note(
    store: Store, act: Act, action: str, subjects: Sequence[str], fields: Collection[str], reason: str = ""
) -> None:
    audit.look(store.database, act.actor, action, at=act.now, subjects=subjects, fields=fields, reason=reason)


# All of it


def export(store: Store, vault: Vault, actor: Actor) -> Document:
    """Everything this service keeps of the actor, in full (PIPL, article 45)."""
    account = store.own_account(actor.id)
    person = store.person(actor.id)
    children = store.children(actor.id)
    told, following = store.notices(actor.id, PAGE, "")
    while following:
        more, following = store.notices(actor.id, PAGE, following)
        told += more
    return {
        "account": account,
        "person": shown(vault, person, whole=PERSONAL) if person else None,
        "children": [
            {**child, **values} for child, values in zip(children, vault.children.open_all(children), strict=True)
        ],
        "terms": account["terms"],
        "sessions": store.sessions(actor.id),
        "notices": [{**one, "text": notices.words(one, "zh")} for one in told],
        "looks": store.looks_at(actor.id),
        "exported_on": clock.day(clock.now()),
    }
