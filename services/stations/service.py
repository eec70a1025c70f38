"""The stations service's table of contents: every address, who may call it, which use case answers."""

from typing import Any, Final

from contracts.codes import Facility
from contracts.envelope import Event
from contracts.events.people import SessionRevokedV1, SubjectErasedV1
from contracts.events.stations import ErasureConfirmedV1
from services.kernel import body, clock, forgetting, openapi, sessions, telemetry, web
from services.kernel.act import Act
from services.kernel.consumer import on
from services.kernel.fields import Out, page_of
from services.kernel.host import run_service
from services.kernel.http import Answer, AppProvider, Call, Page, created, endpoint, found
from services.kernel.mongo import Document, connect_documents
from services.kernel.process import await_database
from services.kernel.settings import Settings
from services.kernel.timers import every
from services.stations import handlers, rules, schemas
from services.stations.app import StationsApp
from services.stations.models import ALIAS, Checkin, Device, Fault, Station, Supply
from services.stations.store import Model

BASE = "/api/v1/stations"
ID = "<string(length=36):id>"
"""Of the length of our ids, so that none of them is taken for ``checkins/import``."""
MOVE = f"<any({', '.join(rules.STATION_MOVES)}):move>"
FACILITY = f"<any({', '.join(Facility)}):kind>"
SILENCE_WATCH_SECONDS = 60


def act(call: Call) -> Act:
    """Who does it, when, in whose trace."""
    return Act(call.caller, call.now, call.trace)


def listing(call: Call, model: Model, out: type[Out], **where: Any) -> Answer:
    """One page of a list in the caller's district."""
    rows, following = call.app.store.page(
        model, call.caller, limit=call.query["limit"], cursor=call.query["cursor"], where=where
    )
    return Answer({"items": out(many=True).dump(rows), "next": following})


def given(call: Call, *names: str) -> dict[str, Any]:
    """The filters that the caller gave."""
    return {name: call.query[name] for name in names if name in call.query}


def one(document: Document, out: type[Out]) -> Answer:
    """One document with its version."""
    return found(out().dump(document), document["rev"])


class StationsService:
    """Stations, devices, check-ins, heartbeats, faults, supplies."""

    name = "stations"
    app: Any = AppProvider()

    # Stations

    @endpoint(
        "POST",
        f"{BASE}/stations",
        "Register a station",
        body=schemas.StationIn,
        answers={201: schemas.StationOut},
        roles=rules.OFFICERS,
        creates=True,
    )
    def post_stations(self, call: Call) -> Answer:
        station, _new = handlers.propose_station(call.app.store, act(call), call.body, call.idempotency)
        return created(schemas.StationOut().dump(station), f"{BASE}/stations/{station['_id']}", station["rev"])

    @endpoint(
        "GET",
        f"{BASE}/stations",
        "Stations of your district",
        query=schemas.StationFilter,
        answers={200: page_of(schemas.StationOut)},
        roles=rules.READERS,
    )
    def get_stations(self, call: Call) -> Answer:
        return listing(call, Station, schemas.StationOut, **given(call, "county", "state"))

    @endpoint(
        "GET",
        f"{BASE}/open",
        "Stations in service, for anyone, and whether they are open now",
        query=schemas.OpenStationFilter,
        answers={200: page_of(schemas.PublicStationOut)},
    )
    def get_open(self, call: Call) -> Answer:
        where = given(call, "county")
        if "facility" in call.query:
            where["facilities__kind"] = call.query["facility"]
        rows, following = call.app.store.open_stations(
            limit=call.query["limit"], cursor=call.query["cursor"], where=where
        )
        items = [{**row, "open_now": handlers.is_open(row, call.now)} for row in rows]
        return Answer({"items": schemas.PublicStationOut(many=True).dump(items), "next": following})

    @endpoint("GET", f"{BASE}/stations/{ID}", "One station", answers={200: schemas.StationOut}, roles=rules.READERS)
    def get_station(self, call: Call) -> Answer:
        return one(call.app.store.get(Station, call.path["id"], call.caller), schemas.StationOut)

    @endpoint(
        "PATCH",
        f"{BASE}/stations/{ID}",
        "Edit a station's name, address, hours or position",
        body=schemas.StationEdit,
        answers={200: schemas.StationOut},
        roles=rules.OFFICERS,
        edits=True,
    )
    def patch_station(self, call: Call) -> Answer:
        assert call.if_match is not None
        station = handlers.edit_station(call.app.store, act(call), call.path["id"], call.if_match, call.body)
        return one(station, schemas.StationOut)

    @endpoint(
        "POST",
        f"{BASE}/stations/{ID}/{MOVE}",
        "Open, suspend, resume or close a station",
        body=schemas.ReasonIn,
        answers={200: schemas.StationOut},
        roles=rules.OFFICERS,
        conflicts=(409,),
    )
    def post_station_move(self, call: Call) -> Answer:
        station = handlers.move_station(
            call.app.store, act(call), call.path["id"], call.path["move"], call.body["reason"]
        )
        return one(station, schemas.StationOut)

    @endpoint(
        "POST",
        f"{BASE}/stations/{ID}/facilities",
        "Add a facility",
        body=schemas.FacilityIn,
        answers={200: schemas.StationOut},
        roles=rules.OFFICERS,
        conflicts=(409,),
    )
    def post_facility(self, call: Call) -> Answer:
        station = handlers.add_facility(call.app.store, act(call), call.path["id"], call.body["facility"])
        return one(station, schemas.StationOut)

    @endpoint(
        "DELETE",
        f"{BASE}/stations/{ID}/facilities/{FACILITY}",
        "Remove a facility",
        answers={200: schemas.StationOut},
        roles=rules.OFFICERS,
        conflicts=(409,),
    )
    def delete_facility(self, call: Call) -> Answer:
        station = handlers.remove_facility(call.app.store, act(call), call.path["id"], call.path["kind"])
        return one(station, schemas.StationOut)

    # Devices

    @endpoint(
        "POST",
        f"{BASE}/stations/{ID}/devices",
        "Enroll a device; its key is shown once",
        body=schemas.DeviceIn,
        answers={201: schemas.DeviceKeyOut},
        roles=rules.OFFICERS,
        creates=True,
    )
    def post_devices(self, call: Call) -> Answer:
        device, key = handlers.enroll_device(
            call.app.store, act(call), call.path["id"], call.body["label"], call.idempotency
        )
        return created(
            schemas.DeviceKeyOut().dump({**device, "key": key}), f"{BASE}/devices/{device['_id']}", device["rev"]
        )

    @endpoint(
        "GET",
        f"{BASE}/stations/{ID}/devices",
        "A station's devices",
        query=Page,
        answers={200: page_of(schemas.DeviceOut)},
        roles=rules.READERS,
    )
    def get_devices(self, call: Call) -> Answer:
        station = call.app.store.get(Station, call.path["id"], call.caller)
        return listing(call, Device, schemas.DeviceOut, station=station["_id"])

    @endpoint("GET", f"{BASE}/devices/{ID}", "One device", answers={200: schemas.DeviceOut}, roles=rules.READERS)
    def get_device(self, call: Call) -> Answer:
        return one(call.app.store.get(Device, call.path["id"], call.caller), schemas.DeviceOut)

    @endpoint(
        "POST",
        f"{BASE}/devices/{ID}/rotate",
        "A further key; the one before stays live until the next rotation",
        answers={200: schemas.DeviceKeyOut},
        roles=rules.OFFICERS,
        conflicts=(409,),
    )
    def post_rotate(self, call: Call) -> Answer:
        device, key = handlers.rotate_device_key(call.app.store, act(call), call.path["id"])
        return found(schemas.DeviceKeyOut().dump({**device, "key": key}), device["rev"])

    @endpoint(
        "POST",
        f"{BASE}/devices/{ID}/revoke",
        "End a device's credentials for good, effective within a minute",
        body=schemas.ReasonIn,
        answers={200: schemas.DeviceOut},
        roles=rules.OFFICERS,
        conflicts=(409,),
    )
    def post_revoke(self, call: Call) -> Answer:
        device = handlers.revoke_device(call.app.store, act(call), call.path["id"], call.body["reason"])
        return one(device, schemas.DeviceOut)

    @endpoint(
        "POST",
        f"{BASE}/heartbeats",
        "A device's sign of life",
        body=schemas.HeartbeatIn,
        answers={204: None},
        roles=rules.DEVICES,
    )
    def post_heartbeats(self, call: Call) -> Answer:
        handlers.beat(call.app.store, act(call), call.body["unsent"], call.body.get("sent_at"))
        return Answer(status=204)

    @every(SILENCE_WATCH_SECONDS)
    def watch_silences(self) -> None:
        """Looks for devices that fell silent."""
        handlers.note_silences(self.app.store, self.app.clock(), telemetry.continued(None))

    # Check-ins

    @endpoint(
        "POST",
        f"{BASE}/checkins",
        "Post 1 to 500 check-ins",
        description="Each row gets its own result. A row whose result is final is settled: identical rows sent again "
        "get the first answer. No result (no connection, 429, 503): send the same rows again.",
        body=schemas.CheckinBatchIn,
        answers={200: schemas.CheckinBatchOut},
        roles=rules.DEVICES,
        body_bytes=schemas.BATCH_BYTES,
    )
    def post_checkins(self, call: Call) -> Answer:
        results = handlers.record_checkins(
            call.app.store,
            act(call),
            call.caller.attributes,
            call.body["items"],
            call.body.get("sent_at"),
            schemas.load_row,
        )
        return Answer({"received_at": clock.rfc3339(call.now), "results": results})

    @endpoint(
        "POST",
        f"{BASE}/checkins/import",
        "Bring in what a revoked or broken device still held; all of it is quarantined",
        body=schemas.CheckinImportIn,
        answers={200: schemas.CheckinBatchOut},
        roles=rules.OFFICERS,
        conflicts=(404,),
        body_bytes=schemas.BATCH_BYTES,
    )
    def post_import(self, call: Call) -> Answer:
        results = handlers.import_checkins(
            call.app.store, act(call), call.body["device"], call.body["items"], call.body["reason"], schemas.load_row
        )
        return Answer({"received_at": clock.rfc3339(call.now), "results": results})

    @endpoint(
        "GET",
        f"{BASE}/checkins/quarantine",
        "Check-ins that wait for an officer, those received first at the top",
        query=Page,
        answers={200: page_of(schemas.CheckinOut)},
        roles=rules.READERS,
    )
    def get_quarantine(self, call: Call) -> Answer:
        rows, following = call.app.store.quarantine(call.caller, limit=call.query["limit"], cursor=call.query["cursor"])
        return Answer({"items": schemas.CheckinOut(many=True).dump(rows), "next": following})

    @endpoint("GET", f"{BASE}/checkins/{ID}", "One check-in", answers={200: schemas.CheckinOut}, roles=rules.READERS)
    def get_checkin(self, call: Call) -> Answer:
        return one(call.app.store.get(Checkin, call.path["id"], call.caller), schemas.CheckinOut)

    @endpoint(
        "POST",
        f"{BASE}/checkins/{ID}/approve",
        "Let a quarantined check-in count, on the day it happened",
        body=schemas.ApprovalIn,
        answers={200: schemas.CheckinOut},
        roles=rules.OFFICERS,
        conflicts=(409,),
    )
    def post_approve(self, call: Call) -> Answer:
        checkin = handlers.approve_checkin(
            call.app.store, act(call), call.path["id"], call.body["reason"], call.body.get("captured_at")
        )
        return one(checkin, schemas.CheckinOut)

    @endpoint(
        "POST",
        f"{BASE}/checkins/{ID}/void",
        "Take a check-in back, with what it had added to the figures",
        body=schemas.ReasonIn,
        answers={200: schemas.CheckinOut},
        roles=rules.OFFICERS,
        conflicts=(409,),
    )
    def post_void(self, call: Call) -> Answer:
        checkin = handlers.void_checkin(call.app.store, act(call), call.path["id"], call.body["reason"])
        return one(checkin, schemas.CheckinOut)

    @endpoint(
        "GET",
        f"{BASE}/counts",
        "The service's own counts by county and day, to hold against metrics",
        query=schemas.DayRange,
        answers={200: schemas.CountsOut},
        roles=rules.READERS,
    )
    def get_counts(self, call: Call) -> Answer:
        rows = call.app.store.counts(call.caller, call.query["first_day"], call.query["last_day"])
        return Answer({"items": [{**row.pop("_id"), **row} for row in rows]})

    # Faults and supplies

    @endpoint(
        "POST",
        f"{BASE}/faults",
        "Report that something is broken",
        body=schemas.FaultIn,
        answers={201: schemas.FaultOut},
        roles=rules.DEVICES | rules.OFFICERS | rules.STAFF,
        creates=True,
        conflicts=(404,),
    )
    def post_faults(self, call: Call) -> Answer:
        fault, _new = handlers.report_fault(
            call.app.store, act(call), call.caller.attributes.get("station"), call.body, call.idempotency
        )
        return created(schemas.FaultOut().dump(fault), f"{BASE}/faults/{fault['_id']}", fault["rev"])

    @endpoint(
        "GET",
        f"{BASE}/faults",
        "Faults of your district",
        query=schemas.FaultFilter,
        answers={200: page_of(schemas.FaultOut)},
        roles=rules.READERS,
    )
    def get_faults(self, call: Call) -> Answer:
        return listing(call, Fault, schemas.FaultOut, **given(call, "state", "station"))

    @endpoint("GET", f"{BASE}/faults/{ID}", "One fault", answers={200: schemas.FaultOut}, roles=rules.READERS)
    def get_fault(self, call: Call) -> Answer:
        return one(call.app.store.get(Fault, call.path["id"], call.caller), schemas.FaultOut)

    @endpoint(
        "POST",
        f"{BASE}/faults/{ID}/clear",
        "Note that a fault was mended",
        body=schemas.ReasonIn,
        answers={200: schemas.FaultOut},
        roles=rules.OFFICERS | rules.STAFF,
        conflicts=(409,),
    )
    def post_clear(self, call: Call) -> Answer:
        return one(
            handlers.clear_fault(call.app.store, act(call), call.path["id"], call.body["reason"]), schemas.FaultOut
        )

    @endpoint(
        "POST",
        f"{BASE}/supplies",
        "Note a stock",
        body=schemas.SupplyIn,
        answers={201: schemas.SupplyOut},
        roles=rules.OFFICERS | rules.STAFF,
        creates=True,
        conflicts=(404,),
    )
    def post_supplies(self, call: Call) -> Answer:
        supply, _new = handlers.stock_supply(call.app.store, act(call), call.body, call.idempotency)
        return created(schemas.SupplyOut().dump(supply), f"{BASE}/supplies/{supply['_id']}", supply["rev"])

    @endpoint(
        "GET",
        f"{BASE}/supplies",
        "Supplies of your district",
        query=schemas.SupplyFilter,
        answers={200: page_of(schemas.SupplyOut)},
        roles=rules.READERS,
    )
    def get_supplies(self, call: Call) -> Answer:
        where = given(call, "station")
        if "expires_before" in call.query:
            where["expires_on__lt"] = call.query["expires_before"]
        return listing(call, Supply, schemas.SupplyOut, **where)

    @endpoint("GET", f"{BASE}/supplies/{ID}", "One stock", answers={200: schemas.SupplyOut}, roles=rules.READERS)
    def get_supply(self, call: Call) -> Answer:
        return one(call.app.store.get(Supply, call.path["id"], call.caller), schemas.SupplyOut)

    @endpoint(
        "PATCH",
        f"{BASE}/supplies/{ID}",
        "Edit a stock's quantity or expiry",
        body=schemas.SupplyEdit,
        answers={200: schemas.SupplyOut},
        roles=rules.OFFICERS | rules.STAFF,
        edits=True,
    )
    def patch_supply(self, call: Call) -> Answer:
        assert call.if_match is not None
        supply = handlers.edit_supply(call.app.store, act(call), call.path["id"], call.if_match, call.body)
        return one(supply, schemas.SupplyOut)

    # What others say

    @on(SessionRevokedV1)
    def on_session_revoked(self, event: Event) -> None:
        sessions.note(self.app.database, event["data"]["session"], self.app.clock())

    @on(SubjectErasedV1)
    def on_subject_erased(self, event: Event) -> None:
        forgetting.confirm(self.app.database, event, ErasureConfirmedV1, handlers.forget_person, self.app.clock())

    @endpoint("GET", f"{BASE}/openapi.json", "This document", answers={200: None}, limited=False)
    def get_openapi(self, call: Call) -> Answer:
        del call
        return Answer(DOCUMENT, headers={"Cache-Control": "public, max-age=60"})

    @endpoint("GET", "/stations/docs", "The API of stations for people", answers={200: None}, media_type=web.HTML)
    def get_docs(self, call: Call) -> Answer:
        return web.api(call, {"zh": "工会驿站 stations", "en": "Union stations"}, _DESCRIBED)


_DESCRIBED: Final = openapi.document(
    "stations",
    "E-Station: stations (工会驿站)",
    "Union stations, their devices and the check-ins they post.",
    openapi.endpoints(StationsService),
)
DOCUMENT: Final = body.dumps(_DESCRIBED)


def run(settings: Settings) -> None:
    """The process ``service stations``."""
    database = connect_documents(settings, ALIAS, "service")
    await_database(database)
    run_service(StationsService, StationsApp(settings, database))
