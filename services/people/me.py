"""What people do with their own data: who they are, their children, consents, inbox; taking all of it along or away."""

from contextlib import suppress
from dataclasses import replace
from typing import Any, Final

from contracts.roles import EVERYBODY
from services.kernel import web
from services.kernel.errors import Conflict, EStationError, Invalid, NotFound
from services.kernel.fields import page_of
from services.kernel.http import HTML, Answer, Call, Page, created, endpoint
from services.people import rules, schemas
from services.people.entry import BASE, ID, SESSION_COOKIE, act, cookie, see_other
from services.people.handlers import erasure, notices, persons
from services.people.models import ALIAS

PURPOSE: Final = f"<any({', '.join(rules.PURPOSES)}):purpose>"
PERSON_PAGE, CHILDREN_PAGE, INBOX_PAGE, ERASE_PAGE = (
    f"/{ALIAS}/{name}" for name in ("person", "children", "inbox", "erase")
)


def person_view(person: dict[str, Any] | None) -> dict[str, Any]:
    """A person as the API shows it; of nobody, nothing."""
    known = person or {"_id": None, "county": None, "verified_at": None, "rev": None, "consents": []}
    return {name: known.get(name) for name in ("name", "id_number", "phone")} | known


def own_person(call: Call) -> dict[str, Any]:
    """The caller, as the API shows it."""
    return person_view(persons.own(call.app.store, call.app.vault, call.caller.id))


def person_form(call: Call, error: EStationError | None = None) -> Answer:
    """Who I am, to look at and to change; ``error``: what is wrong with what was typed."""
    person = own_person(call)
    known = {"name": person["name"] or "", "phone": (person["phone"] or "").removeprefix("+86")}
    return web.page(
        call,
        "person.html",
        status=error.status if error else 200,
        person=person,
        form=web.form(call, call.typed or known, error),
        agreed=[purpose for purpose in rules.PURPOSES if rules.agreed(person, purpose)],
    )


def children_form(call: Call, error: EStationError | None = None) -> Answer:
    """My children, and one more; ``error``: what is wrong with what was typed."""
    return web.page(
        call,
        "children.html",
        status=error.status if error else 200,
        children=persons.own_children(call.app.store, call.app.vault, call.caller.id),
        form=web.form(call, call.typed, error),
        known=rules.agreed(call.app.store.person(call.caller.id), rules.IDENTITY),
    )


class Me:
    """Entry points of oneself."""

    app: Any

    # Who I am

    @endpoint("GET", f"{BASE}/me/person", "Who I am, as I said", answers={200: schemas.PersonOut}, roles=EVERYBODY)
    def get_person(self, call: Call) -> Answer:
        return Answer(schemas.PersonOut().dump(own_person(call)))

    @endpoint(
        "PUT",
        f"{BASE}/me/person",
        "Say who I am, and consent to that being kept",
        body=schemas.PersonIn,
        answers={200: schemas.PersonOut},
        roles=EVERYBODY,
        conflicts=(404, 409, 410),
    )
    def put_person(self, call: Call) -> Answer:
        call.app.throttle_identity(call.caller.id)
        person = persons.keep_own(call.app.store, call.app.vault, act(call), call.body)
        return Answer(schemas.PersonOut().dump(person_view(person)))

    @endpoint(
        "POST",
        f"{BASE}/me/consents/{PURPOSE}",
        "Consent to a purpose",
        answers={200: schemas.PersonOut},
        roles=EVERYBODY,
        conflicts=(409,),
    )
    def post_consent(self, call: Call) -> Answer:
        persons.agree(call.app.store, act(call), call.path["purpose"])
        return Answer(schemas.PersonOut().dump(own_person(call)))

    @endpoint(
        "POST",
        f"{BASE}/me/consents/{PURPOSE}/withdraw",
        "End a consent, and what was kept on its ground",
        answers={200: schemas.PersonOut},
        roles=EVERYBODY,
        conflicts=(409, 410),
    )
    def post_consent_withdraw(self, call: Call) -> Answer:
        persons.withdraw(call.app.store, call.app.vault, act(call), call.path["purpose"])
        return Answer(schemas.PersonOut().dump(own_person(call)))

    # My children

    @endpoint("GET", f"{BASE}/children", "My children", answers={200: schemas.ChildrenOut}, roles=EVERYBODY)
    def get_children(self, call: Call) -> Answer:
        found = persons.own_children(call.app.store, call.app.vault, call.caller.id)
        return Answer(schemas.ChildrenOut().dump({"items": found}))

    @endpoint(
        "POST",
        f"{BASE}/children",
        "Add a child of mine, and consent to that being kept",
        body=schemas.ChildIn,
        answers={201: schemas.ChildOut},
        roles=EVERYBODY,
        creates=True,
        conflicts=(404, 410),
    )
    def post_children(self, call: Call) -> Answer:
        child, _new = persons.add_child(call.app.store, call.app.vault, act(call), call.body, call.idempotency)
        return created(schemas.ChildOut().dump(child), f"{BASE}/children/{child['_id']}", child["rev"])

    @endpoint(
        "DELETE",
        f"{BASE}/children/{ID}",
        "Take a child out of my account",
        answers={204: None},
        roles=EVERYBODY,
        conflicts=(409, 410),
    )
    def delete_child(self, call: Call) -> Answer:
        persons.take_out(call.app.store, call.app.vault, act(call), call.path["id"])
        return Answer(status=204)

    # My inbox

    @endpoint(
        "GET",
        f"{BASE}/me/notices",
        "What I was told, the newest first",
        query=Page,
        answers={200: page_of(schemas.NoticeOut)},
        roles=EVERYBODY,
    )
    def get_notices(self, call: Call) -> Answer:
        rows, following = call.app.store.notices(call.caller.id, call.query["limit"], call.query["cursor"])
        items = [{**row, "text": notices.words(row, call.language)} for row in rows]
        return Answer({"items": schemas.NoticeOut(many=True).dump(items), "next": following})

    @endpoint("POST", f"{BASE}/me/notices/read", "I have read them", answers={200: schemas.ReadOut}, roles=EVERYBODY)
    def post_notices_read(self, call: Call) -> Answer:
        return Answer(schemas.ReadOut().dump({"read": call.app.store.read_notices(call.caller.id, call.now)}))

    # All of it

    @endpoint(
        "GET",
        f"{BASE}/me/export",
        "All that this service keeps of me, in full",
        answers={200: schemas.ExportOut},
        roles=EVERYBODY,
        conflicts=(404,),
    )
    def get_export(self, call: Call) -> Answer:
        kept = persons.export(call.app.store, call.app.vault, call.caller)
        name = f"estation-people-{kept['exported_on']}.json"
        return Answer(schemas.ExportOut().dump(kept), headers={"Content-Disposition": f'attachment; filename="{name}"'})

    @endpoint(
        "DELETE",
        f"{BASE}/me",
        "Erase me, here and in every service; what law keeps is named",
        answers={202: schemas.ErasureOut},
        roles=EVERYBODY,
        conflicts=(404, 409),
    )
    def delete_me(self, call: Call) -> Answer:
        erased = erasure.erase(call.app.store, call.app.vault, act(call))
        receipt = f"{BASE}/erasures/{erased['_id']}"
        return Answer(schemas.ErasureOut().dump(erased), 202, {"Location": receipt})

    @endpoint(
        "GET",
        f"{BASE}/erasures/{ID}",
        "What became of an erasure, for whoever knows the account's number",
        answers={200: schemas.ErasureOut},
    )
    def get_erasure(self, call: Call) -> Answer:
        return Answer(schemas.ErasureOut().dump(erasure.receipt(call.app.store, call.path["id"])))

    # The same as pages

    @endpoint("GET", PERSON_PAGE, "Who I am", answers={200: None}, roles=EVERYBODY, media_type=HTML)
    def get_person_page(self, call: Call) -> Answer:
        return person_form(call)

    @endpoint(
        "POST",
        PERSON_PAGE,
        "Say who I am",
        body=schemas.PersonForm,
        form=True,
        answers={303: None},
        roles=EVERYBODY,
        conflicts=(404, 409, 410),
        media_type=HTML,
    )
    def post_person_page(self, call: Call) -> Answer:
        if call.invalid is not None:
            return person_form(call, call.invalid)
        call.app.throttle_identity(call.caller.id)
        try:
            persons.keep_own(call.app.store, call.app.vault, act(call), call.body)
        except Conflict as error:
            return person_form(call, error)
        return see_other(PERSON_PAGE)

    @endpoint(
        "POST",
        f"{PERSON_PAGE}/consents/{PURPOSE}",
        "Consent to a purpose, or end that",
        body=schemas.ConsentForm,
        form=True,
        answers={303: None},
        roles=EVERYBODY,
        conflicts=(409, 410),
        media_type=HTML,
    )
    def post_consent_page(self, call: Call) -> Answer:
        if call.invalid is not None:
            return person_form(call, call.invalid)
        if call.body["agree"]:
            persons.agree(call.app.store, act(call), call.path["purpose"])
        else:
            persons.withdraw(call.app.store, call.app.vault, act(call), call.path["purpose"])
        return see_other(PERSON_PAGE)

    @endpoint("GET", CHILDREN_PAGE, "My children", answers={200: None}, roles=EVERYBODY, media_type=HTML)
    def get_children_page(self, call: Call) -> Answer:
        return children_form(call)

    @endpoint(
        "POST",
        CHILDREN_PAGE,
        "Add a child of mine",
        body=schemas.ChildForm,
        form=True,
        creates=True,
        answers={303: None},
        roles=EVERYBODY,
        conflicts=(404, 410),
        media_type=HTML,
    )
    def post_children_page(self, call: Call) -> Answer:
        if call.invalid is not None:
            return children_form(call, call.invalid)
        try:
            persons.add_child(call.app.store, call.app.vault, act(call), call.body, call.idempotency)
        except (Conflict, Invalid) as error:
            return children_form(call, error)
        return see_other(CHILDREN_PAGE)

    @endpoint(
        "POST",
        f"{CHILDREN_PAGE}/{ID}/remove",
        "Take a child out of my account",
        body=schemas.NothingIn,
        form=True,
        answers={303: None},
        roles=EVERYBODY,
        conflicts=(409, 410),
        media_type=HTML,
    )
    def post_child_remove_page(self, call: Call) -> Answer:
        with suppress(NotFound):  # a second tap
            persons.take_out(call.app.store, call.app.vault, act(call), call.path["id"])
        return see_other(CHILDREN_PAGE)

    @endpoint(
        "GET",
        INBOX_PAGE,
        "What I was told",
        query=Page,
        answers={200: None},
        roles=EVERYBODY,
        media_type=HTML,
    )
    def get_inbox_page(self, call: Call) -> Answer:
        rows, following = call.app.store.notices(call.caller.id, call.query["limit"], call.query["cursor"])
        told = [{**row, "text": notices.words(row, call.language)} for row in rows]
        call.app.store.read_notices(call.caller.id, call.now, [row["_id"] for row in rows])
        return web.page(call, "inbox.html", notices=told, following=following)

    @endpoint("GET", ERASE_PAGE, "Erase my account?", answers={200: None}, roles=EVERYBODY, media_type=HTML)
    def get_erase_page(self, call: Call) -> Answer:
        return web.page(call, "erase.html", form=web.form(call), days=rules.ERASURE_DAYS, erased=None)

    @endpoint(
        "POST",
        ERASE_PAGE,
        "Erase my account",
        body=schemas.EraseForm,
        form=True,
        answers={200: None},
        roles=EVERYBODY,
        conflicts=(404, 409),
        media_type=HTML,
    )
    def post_erase_page(self, call: Call) -> Answer:
        if call.invalid is not None:
            form = web.form(call, call.typed, call.invalid)
            return web.page(
                call, "erase.html", status=call.invalid.status, form=form, days=rules.ERASURE_DAYS, erased=None
            )
        erased = erasure.erase(call.app.store, call.app.vault, act(call))
        answer = web.page(replace(call, actor=None), "erase.html", form=None, days=rules.ERASURE_DAYS, erased=erased)
        return Answer(answer.body, answer.status, answer.headers, answer.content_type, (cookie(SESSION_COOKIE, "", 0),))
