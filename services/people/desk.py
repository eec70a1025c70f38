"""What officers and staff at a counter do with others' data: find, look, verify, and see who was told what."""

from typing import Any, Final

from contracts.roles import OFFICERS, Role
from services.kernel import web
from services.kernel.fields import page_of
from services.kernel.http import HTML, Answer, Call, endpoint
from services.people import schemas
from services.people.entry import BASE, ID, act
from services.people.handlers import persons
from services.people.me import person_view

COUNTER: Final = OFFICERS | {str(Role.STATION_STAFF)}
"""Who may find people that stand before them."""
DESK_PAGE: Final = "/people/desk"


def desk(call: Call, found: list[dict[str, Any]] | None = None) -> Answer:
    """The search, and what it found; nobody verifies the own card."""
    status = call.invalid.status if call.invalid else 200
    form = web.form(call, call.typed if found is None else {}, call.invalid)
    return web.page(
        call,
        "desk.html",
        status=status,
        form=form,
        found=found,
        own=call.caller.id,
        officer=not OFFICERS.isdisjoint(call.caller.roles),
    )


class Desk:
    """Entry points of a desk."""

    app: Any

    @endpoint(
        "POST",
        f"{BASE}/persons/find",
        "Find people of your district by exactly one ID number, phone or name; masked, and noted",
        body=schemas.FindIn,
        answers={200: schemas.PersonsOut},
        roles=COUNTER,
    )
    def post_find(self, call: Call) -> Answer:
        call.app.throttle_look(call.caller.id)
        found = persons.find(call.app.store, call.app.vault, act(call), call.body)
        return Answer(schemas.PersonsOut().dump({"items": map(person_view, found)}))

    @endpoint(
        "GET",
        f"{BASE}/persons/{ID}",
        "A person of your district, masked, and noted",
        answers={200: schemas.PersonOut},
        roles=COUNTER,
    )
    def get_one_person(self, call: Call) -> Answer:
        call.app.throttle_look(call.caller.id)
        person = persons.look(call.app.store, call.app.vault, act(call), call.path["id"])
        return Answer(schemas.PersonOut().dump(person_view(person)))

    @endpoint(
        "POST",
        f"{BASE}/persons/{ID}/reveal",
        "The same in full, with the reason noted; the person is told",
        body=schemas.ReasonIn,
        answers={200: schemas.PersonOut},
        roles=OFFICERS,
    )
    def post_reveal(self, call: Call) -> Answer:
        call.app.throttle_look(call.caller.id)
        person = persons.reveal(call.app.store, call.app.vault, act(call), call.path["id"], call.body["reason"])
        return Answer(schemas.PersonOut().dump(person_view(person)))

    @endpoint(
        "POST",
        f"{BASE}/persons/{ID}/verify",
        "Somebody has shown you the card",
        body=schemas.VerifyIn,
        answers={200: schemas.PersonOut},
        roles=COUNTER,
        conflicts=(409, 412),
    )
    def post_verify(self, call: Call) -> Answer:
        call.app.throttle_look(call.caller.id)
        given = call.body
        person = persons.verify(
            call.app.store, call.app.vault, act(call), call.path["id"], given["reason"], given["rev"]
        )
        return Answer(schemas.PersonOut().dump(person_view(person)))

    @endpoint(
        "GET",
        f"{BASE}/notices",
        "What people of your district were told, and whether it reached them",
        query=schemas.NoticeFilter,
        answers={200: page_of(schemas.DeliveryOut)},
        roles=OFFICERS,
    )
    def get_deliveries(self, call: Call) -> Answer:
        named = {"account": "account", "state": "messages__state"}
        where = {field: call.query[name] for name, field in named.items() if name in call.query}
        rows, following = call.app.store.notices_of_district(
            call.caller, limit=call.query["limit"], cursor=call.query["cursor"], where=where
        )
        return Answer({"items": schemas.DeliveryOut(many=True).dump(rows), "next": following})

    @endpoint("GET", DESK_PAGE, "Find somebody", answers={200: None}, roles=COUNTER, media_type=HTML)
    def get_desk_page(self, call: Call) -> Answer:
        return desk(call)

    @endpoint(
        "POST",
        DESK_PAGE,
        "Find somebody",
        body=schemas.FindForm,
        form=True,
        answers={200: None},
        roles=COUNTER,
        media_type=HTML,
    )
    def post_desk_page(self, call: Call) -> Answer:
        if call.invalid is not None:
            return desk(call)
        call.app.throttle_look(call.caller.id)
        return desk(call, found=persons.find(call.app.store, call.app.vault, act(call), call.body))

    @endpoint(
        "POST",
        f"{DESK_PAGE}/{ID}/verify",
        "Somebody has shown you the card",
        body=schemas.VerifyForm,
        form=True,
        answers={200: None},
        roles=COUNTER,
        conflicts=(409, 412),
        media_type=HTML,
    )
    def post_verify_page(self, call: Call) -> Answer:
        if call.invalid is not None:
            return desk(call)
        call.app.throttle_look(call.caller.id)
        given = call.body
        person = persons.verify(
            call.app.store, call.app.vault, act(call), call.path["id"], given["reason"], given["rev"]
        )
        return desk(call, found=[person])
