"""What officers and staff at a counter do with others' data: find, look, verify, and see who was told what."""

from collections.abc import Callable
from typing import Any, Final

from contracts.roles import OFFICERS, Role
from services.kernel import web
from services.kernel.fields import page_of
from services.kernel.http import HTML, Answer, Call, endpoint
from services.people import schemas
from services.people.entry import BASE, ID, act
from services.people.handlers import notices, persons
from services.people.me import person_view

COUNTER: Final = OFFICERS | {str(Role.STATION_STAFF)}
"""Who may find people that stand before them."""
FEDERATIONS: Final = frozenset({str(Role.COUNTY_OFFICER), str(Role.CITY_OFFICER)})
"""Who may look at people in full: an officer of one grass-roots union has no business with a whole county."""
DESK_PAGE: Final = "/people/desk"


def desk(call: Call, found: list[dict[str, Any]] | None = None, *, more: bool = False) -> Answer:
    """The search, and what it found; ``more``: not all of it. Nobody verifies the own card."""
    status = call.invalid.status if call.invalid else 200
    form = web.form(call, call.typed if found is None else {}, call.invalid)
    return web.page(
        call,
        "desk.html",
        status=status,
        form=form,
        found=found,
        more=more,
        own=call.caller.id,
        officer=not OFFICERS.isdisjoint(call.caller.roles),
    )


def decided(call: Call, decide: Callable[..., dict[str, Any]]) -> dict[str, Any]:
    """What was decided about somebody, with the reason and the version of the person that was looked at."""
    call.app.throttle_look(call.caller.id)
    given = call.body
    return decide(call.app.store, call.app.vault, act(call), call.path["id"], given["reason"], given["rev"])


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
        found, more = persons.find(call.app.store, call.app.vault, act(call), call.body)
        return Answer(schemas.PersonsOut().dump({"items": map(person_view, found), "more": more}))

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
        roles=FEDERATIONS,
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
        return Answer(schemas.PersonOut().dump(person_view(decided(call, persons.verify))))

    @endpoint(
        "POST",
        f"{BASE}/persons/{ID}/release",
        "Somebody else has shown you the card: take the number, which nobody verified, out of this account",
        body=schemas.VerifyIn,
        answers={200: schemas.PersonOut},
        roles=OFFICERS,
        conflicts=(409, 412),
    )
    def post_release(self, call: Call) -> Answer:
        return Answer(schemas.PersonOut().dump(person_view(decided(call, persons.release))))

    @endpoint(
        "GET",
        f"{BASE}/notices",
        "What people of your district were told, and whether it reached them",
        query=schemas.NoticeFilter,
        answers={200: page_of(schemas.DeliveryOut)},
        roles=OFFICERS,
    )
    def get_deliveries(self, call: Call) -> Answer:
        call.app.throttle_look(call.caller.id)
        rows, following = notices.deliveries(
            call.app.store, act(call), call.query, limit=call.query["limit"], cursor=call.query["cursor"]
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
        found, more = persons.find(call.app.store, call.app.vault, act(call), call.body)
        return desk(call, found=found, more=more)

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
        return desk(call, found=[decided(call, persons.verify)])

    @endpoint(
        "POST",
        f"{DESK_PAGE}/{ID}/release",
        "Somebody else has shown you the card",
        body=schemas.VerifyForm,
        form=True,
        answers={200: None},
        roles=OFFICERS,
        conflicts=(409, 412),
        media_type=HTML,
    )
    def post_release_page(self, call: Call) -> Answer:
        if call.invalid is not None:
            return desk(call)
        return desk(call, found=[decided(call, persons.release)])
