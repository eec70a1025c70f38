"""A small service that shows the kernel at work, with contracts of its own: see ``tests.run_probe``.

What its handlers do is told by what they are given: fail so many times, take so long, then take effect.
"""

from collections.abc import Callable
from typing import Any, ClassVar, Final

from marshmallow import fields
from pymongo.client_session import ClientSession
from pymongo.database import Database

from contracts.catalogue import METRICS, Catalogue, Entry
from contracts.envelope import Event
from contracts.events import EventData, Number
from services.kernel import (
    audit,
    clock,
    errors,
    ids,
    inbox,
    mongo,
    outbox,
    process,
    relay,
    settings,
    telemetry,
)
from services.kernel.app import DEVICE, BaseApp
from services.kernel.auth import Actor
from services.kernel.mongo import Document
from services.kernel.outbox import Emit, Source, Write
from tests.builders import ID_NUMBER

NAME: Final = "probe"
NEIGHBOUR: Final = "neighbour"
BASE: Final = "/api/v1/probe"
BODY_MAX: Final = 1000
TICK_SECONDS: Final = 0.2
WRITERS: Final = frozenset({"city_officer"})
DEVICE_KEY: Final = "device-"
BUGGY_KEY: Final = "buggy"


class NoteWrittenV1(EventData):
    """A note was written; says how its consumer shall behave."""

    type: ClassVar[str] = "probe.note_written.v1"
    failures = Number(0, 1000)
    before_ms = Number(0, 60_000, required=False)
    after_ms = Number(0, 60_000, required=False)


class LevelSetV1(EventData):
    """The whole new state of a subject."""

    type: ClassVar[str] = "probe.level_set.v1"
    level = Number(0, 10**6)


EVENTS: Final = Catalogue(
    (Entry(NoteWrittenV1, (NAME, NEIGHBOUR)), Entry(LevelSetV1, (NAME,))),
)
SINGLE_ACTIVE: Final = (METRICS,)
SOURCES: Final = (Source("notes"), Source("levels"))


class ProbeApp(BaseApp):
    """The probe's application object."""

    name = NAME
    catalogue = EVENTS

    def authenticate(self, token: str) -> Actor:
        """A device where the key says so, after a look into the database; else the person behind a token."""
        if token.startswith(DEVICE_KEY):
            self.database["devices"].find_one({"_id": token})
            return Actor(id=token, kind=DEVICE, roles=WRITERS, scope="370902")
        if token == BUGGY_KEY:
            raise LookupError(ID_NUMBER)
        return super().authenticate(token)


def ensure_indexes(database: Database[Document]) -> None:
    """What ``estation migrate`` would do."""
    for source in SOURCES:
        outbox.ensure_index(database[source.collection])
        outbox.ensure_idempotency_index(database[source.collection])
    inbox.ensure_index(database)
    database["effects"].create_index("event")


def service() -> type:  # noqa: C901 (a class and its entry points)
    """The nameko class; made here so that the contracts above can be imported without eventlet."""
    import eventlet

    from services.kernel import openapi
    from services.kernel.consumer import on
    from services.kernel.fields import In, Out, number, page_of, text
    from services.kernel.http import Answer, AppProvider, Call, Page, created, endpoint, found
    from services.kernel.timers import every

    class NoteIn(In):
        """A note."""

        title = text(1, 40, required=True)
        failures = number(0, 1000, load_default=0)

    class NoteForm(In):
        """The same in a form, with several titles."""

        titles = fields.List(text(1, 40), required=True)
        failures = fields.Integer(load_default=0)

    class NoteOut(Out):
        """A note as it is kept."""

        id = fields.String(attribute="_id", required=True)
        title = fields.String(required=True)
        rev = fields.Integer(required=True)

    class Size(Out):
        """How much was read."""

        bytes = fields.Integer(required=True)

    class Anything(In):
        """Any object."""

        class Meta:
            """Keeps what it is given."""

            unknown = "include"

    class ProbeService:
        """Every way of the kernel, once."""

        name = NAME
        app: Any = AppProvider()

        @endpoint(
            "POST",
            f"{BASE}/notes",
            "Write a note",
            body=NoteIn,
            answers={201: NoteOut},
            roles=WRITERS,
            creates=True,
            body_bytes=BODY_MAX,
        )
        def post_notes(self, call: Call) -> Answer:
            document = {"_id": ids.new(), "county": "370902", "title": call.body["title"]}
            emit = Emit(NoteWrittenV1, {"failures": call.body["failures"]})
            row = audit.row(call.caller, "note.write", at=call.now, after={"title": 1}, personal=("title",))
            kept, _new = outbox.insert(
                call.app.database["notes"],
                document,
                Write(call.now, call.trace, row, (emit,)),
                idempotency=call.idempotency,
            )
            return created(NoteOut().dump(kept), f"{BASE}/notes/{kept['_id']}", kept["rev"])

        @endpoint(
            "GET", f"{BASE}/notes", "Notes", query=Page, answers={200: page_of(NoteOut)}, roles=WRITERS, limited=False
        )
        def get_notes(self, call: Call) -> Answer:
            rows = list(call.app.database["notes"].find().sort("_id").limit(call.query["limit"]))
            return Answer({"items": NoteOut(many=True).dump(rows), "next": None})

        @endpoint("GET", f"{BASE}/notes/<id>", "One note", answers={200: NoteOut}, roles=WRITERS, limited=False)
        def get_note(self, call: Call) -> Answer:
            note = self._note(call)
            return found(NoteOut().dump(note), note["rev"])

        @endpoint(
            "PUT",
            f"{BASE}/notes/<id>",
            "Change a note",
            body=NoteIn,
            answers={200: NoteOut},
            roles=WRITERS,
            edits=True,
            conflicts=(410,),
        )
        def put_note(self, call: Call) -> Answer:
            note = self._note(call)
            if note["title"] == "gone":
                raise errors.Gone
            if note["title"] == "closed":
                raise errors.Conflict
            if note["rev"] != call.if_match:
                raise errors.PreconditionFailed
            row = audit.row(call.caller, "note.change", at=call.now)
            changed = outbox.update(
                call.app.database["notes"],
                note,
                Write(call.now, call.trace, row),
                changes={"title": call.body["title"]},
            )
            return found(NoteOut().dump(changed), changed["rev"])

        @staticmethod
        def _note(call: Call) -> Document:
            note: Document | None = call.app.database["notes"].find_one({"_id": call.path["id"]})
            if note is None or note["county"] not in call.caller.counties:
                raise errors.NotFound
            return note

        @endpoint("GET", f"{BASE}/hello", "Say hello", answers={200: None})
        def hello(self, call: Call) -> Answer:
            return Answer({"hello": call.language})

        @endpoint("POST", f"{BASE}/echo", "Measure a body", body=Anything, answers={200: Size}, limited=False)
        def echo(self, call: Call) -> Answer:
            return Answer({"bytes": len(str(call.body))})

        @endpoint("GET", f"{BASE}/slow/<int:ms>", "Take a while", answers={200: None}, limited=False)
        def slow(self, call: Call) -> Answer:
            eventlet.sleep(int(call.path["ms"]) / 1000)
            return Answer({"slept": call.path["ms"]})

        @endpoint("GET", f"{BASE}/bug", "Fail", answers={200: None}, limited=False)
        def bug(self, _call: Call) -> Answer:
            raise RuntimeError(f"no such person: {ID_NUMBER}")

        @endpoint("GET", f"{BASE}/twice", "Break a unique index", answers={200: None}, limited=False)
        def twice(self, call: Call) -> Answer:
            for _ in range(2):
                call.app.database["people"].insert_one({"_id": ID_NUMBER})
            return Answer()

        @endpoint("GET", f"{BASE}/nothing", "Say nothing", answers={204: None}, limited=False)
        def nothing(self, _call: Call) -> Answer:
            return Answer(status=204)

        @endpoint("GET", f"{BASE}/openapi.json", "This document", answers={200: None}, limited=False)
        def get_openapi(self, _call: Call) -> Answer:
            return Answer(openapi.document(NAME, "Probe", "The kernel, shown", openapi.endpoints(ProbeService)))

        @endpoint("GET", "/probe", "A page", answers={200: None}, limited=False, media_type="text/html")
        def page(self, call: Call) -> Answer:
            who = {"X-Caller": call.actor.id if call.actor else ""}
            return Answer("<h1>探针</h1>".encode(), headers=who, content_type="text/html; charset=utf-8")

        @endpoint("GET", "/probe/notes", "Notes as a page", answers={200: None}, roles=WRITERS, media_type="text/html")
        def notes_page(self, call: Call) -> Answer:
            return Answer(f"{call.url} {call.csrf}".encode(), content_type="text/html; charset=utf-8")

        @endpoint(
            "POST",
            "/probe/notes",
            "Write a note in a form",
            body=NoteForm,
            form=True,
            answers={303: None},
            roles=WRITERS,
            creates=True,
            body_bytes=BODY_MAX,
            media_type="text/html",
        )
        def post_form(self, call: Call) -> Answer:
            if call.invalid is not None:
                wrong = {"typed": dict(call.typed), "wrong": [[one.field, one.code] for one in call.invalid.errors]}
                return Answer(wrong, call.invalid.status)
            document = {"_id": ids.new(), "county": "370902", "title": ",".join(call.body["titles"])}
            row = audit.row(call.caller, "note.write", at=call.now)
            kept, _new = outbox.insert(
                call.app.database["notes"], document, Write(call.now, call.trace, row), idempotency=call.idempotency
            )
            return Answer(b"", 303, {"Location": f"/probe/notes/{kept['_id']}"}, cookies=("a=1", "b=2"))

        @on(NoteWrittenV1)
        def on_note_written(self, event: Event) -> None:
            database, data = self.app.database, event["data"]
            tries = database["tries"].find_one_and_update(
                {"_id": event["id"]}, {"$inc": {"count": 1}}, upsert=True, return_document=True
            )["count"]
            if tries <= data["failures"]:
                raise RuntimeError(f"cannot apply the note of {ID_NUMBER}")
            if tries == 1:
                eventlet.sleep(data.get("before_ms", 0) / 1000)

            def effect(session: ClientSession) -> None:
                database["effects"].insert_one({"_id": ids.new(), "event": event["id"]}, session=session)

            inbox.once(database, event, self.app.clock(), effect)
            if tries == 1:
                eventlet.sleep(data.get("after_ms", 0) / 1000)

        @on(LevelSetV1)
        def on_level_set(self, event: Event) -> None:
            levels, state = self.app.database["levels_seen"], event["data"]["level"]
            levels.update_one({"_id": event["subject"]}, {"$setOnInsert": {"seq": 0}}, upsert=True)
            levels.update_one(
                {"_id": event["subject"], "seq": {"$lt": event["seq"]}}, {"$set": {"level": state, "seq": event["seq"]}}
            )

        @every(TICK_SECONDS)
        def tick(self) -> None:
            database = self.app.database
            database["ticks"].update_one(
                {"_id": self.app.holder}, {"$inc": {"count": 1}, "$set": {"at": self.app.clock()}}, upsert=True
            )
            if database["orders"].find_one({"_id": "fail the timer"}):
                raise RuntimeError(f"timer broke over {ID_NUMBER}")

    return ProbeService


def run_service(known: settings.Settings) -> None:
    """The service until SIGTERM."""
    from services.kernel import host

    database = mongo.connect(known, NAME, "service")
    process.await_database(database)
    app: Any = ProbeApp(known, database)
    app.holder = process.holder()
    host.run_service(service(), app)


def run_deaf(known: settings.Settings) -> None:
    """A service that lacks a method for what its inbox is bound to."""
    from services.kernel import host
    from services.kernel.consumer import on

    class DeafService:
        """Hears notes only."""

        name = NAME

        @on(NoteWrittenV1)
        def on_note_written(self, _event: Event) -> None:
            """Nothing to do."""

    database = mongo.connect(known, NAME, "service")
    host.run_service(DeafService, ProbeApp(known, database))


def run_relay(known: settings.Settings) -> None:
    """The relay until SIGTERM."""
    database = mongo.connect(known, NAME, "relay")
    process.await_database(database)
    worker = relay.Relay(NAME, database, SOURCES, known.rabbitmq_url, holder=process.holder())
    readiness = telemetry.Readiness()
    readiness.add("database", lambda: bool(database.client.admin.command("ping")["ok"]))
    telemetry.before_scrape(lambda: relay.observe_pending(NAME, database, SOURCES, clock.now))
    process.run_worker(worker, known, readiness)


ROLES: Final[dict[str, Callable[[settings.Settings], None]]] = {
    "service": run_service,
    "deaf": run_deaf,
    "relay": run_relay,
}
