"""Use cases of the stations service: load, decide, write, emit. One function each."""

from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, time, timedelta
from typing import Any, Final

from marshmallow import ValidationError

from contracts.codes import Held
from contracts.events.stations import (
    CheckinApprovedV1,
    CheckinVoidedV1,
    DeviceEnrolledV1,
    DeviceRevokedV1,
    FacilityAddedV1,
    FacilityRemovedV1,
    FaultClearedV1,
    FaultReportedV1,
    HeartbeatMissedV1,
    StationClosedV1,
    StationOpenedV1,
    StationResumedV1,
    StationSuspendedV1,
)
from services.kernel import audit, auth, clock, ids
from services.kernel.act import Act
from services.kernel.errors import Conflict, FieldError, Invalid, NotFound, PreconditionFailed, Stale, field_errors
from services.kernel.forgetting import Forgotten
from services.kernel.mongo import Document
from services.kernel.outbox import Emit, Idempotency, settle
from services.stations import rules
from services.stations.models import Checkin, Device, Fault, Station, Supply
from services.stations.store import Store

DEVICE_KEYS: Final = 2
KEY_PREFIX: Final = "esd_"


# Stations


def propose_station(
    store: Store, act: Act, station: Mapping[str, Any], idempotency: Idempotency | None
) -> tuple[Document, bool]:
    """Registers a station that does not serve yet."""
    if station["county"] not in act.actor.counties:
        raise Invalid([FieldError("county", "outside_your_district")])
    document = {
        **station,
        "_id": ids.new(),
        "state": rules.PROPOSED,
        "state_since": act.now,
        "history": [{"state": rules.PROPOSED, "since": act.now}],
        "facilities": [{"kind": kind, "since": act.today} for kind in station["facilities"]],
    }
    return store.create(Station, document, act.write("station.propose", after=station), idempotency)


def edit_station(store: Store, act: Act, id_: str, rev: int, changes: Mapping[str, Any]) -> Document:
    """Changes name, address, hours or position of the version the caller saw."""
    current = _version(store.get(Station, id_, act.actor), rev)
    try:
        return store.change(
            Station,
            current,
            act.write("station.edit", before={name: current.get(name) for name in changes}, after=changes),
            **changes,
        )
    except Stale:
        raise PreconditionFailed from None


def move_station(store: Store, act: Act, id_: str, move: str, reason: str) -> Document:
    """Opens, suspends, resumes or closes a station."""

    def attempt() -> Document:
        current = store.get(Station, id_, act.actor)
        state = rules.decide_station_move(current["state"], move)
        if state is None:
            raise Conflict("wrong_state", state=current["state"])
        changes: dict[str, Any] = {
            "state": state,
            "state_since": act.now,
            "history": [*current["history"], {"state": state, "since": act.now}],
        }
        if move == "open":  # what it offers, it offers from this day on
            changes["facilities"] = [{**facility, "since": act.today} for facility in current["facilities"]]
        write = act.write(
            f"station.{move}",
            _station_event(act, move, current),
            reason=reason,
            before={"state": current["state"]},
            after={"state": state},
        )
        return store.change(Station, current, write, **changes)

    return settle(attempt)


def _station_event(act: Act, move: str, station: Document) -> Emit:
    day = {"day": act.today}
    if move == "open":
        return Emit(StationOpenedV1, {**day, "facilities": [facility["kind"] for facility in station["facilities"]]})
    if move == "suspend":
        return Emit(StationSuspendedV1, day)
    if move == "resume":
        return Emit(StationResumedV1, day)
    return Emit(
        StationClosedV1,
        {**day, "was_suspended": station["state"] == rules.SUSPENDED, "facilities": station["facilities"]},
    )


def add_facility(store: Store, act: Act, id_: str, kind: str) -> Document:
    """A station gains a facility; one that serves says so."""

    def attempt() -> Document:
        current = store.get(Station, id_, act.actor)
        _refuse_closed(current)
        kinds = [facility["kind"] for facility in current["facilities"]]
        if kind in kinds:
            raise Conflict("facility_present")
        emit = (
            [] if current["state"] == rules.PROPOSED else [Emit(FacilityAddedV1, {"day": act.today, "facility": kind})]
        )
        write = act.write(
            "station.add_facility", *emit, before={"facilities": kinds}, after={"facilities": [*kinds, kind]}
        )
        return store.change(
            Station, current, write, facilities=[*current["facilities"], {"kind": kind, "since": act.today}]
        )

    return settle(attempt)


def remove_facility(store: Store, act: Act, id_: str, kind: str) -> Document:
    """A station loses a facility; one that serves says so."""

    def attempt() -> Document:
        current = store.get(Station, id_, act.actor)
        _refuse_closed(current)
        lost = [facility for facility in current["facilities"] if facility["kind"] == kind]
        kept = [facility for facility in current["facilities"] if facility["kind"] != kind]
        if not lost:
            raise NotFound
        emit = (
            []
            if current["state"] == rules.PROPOSED
            else [Emit(FacilityRemovedV1, {"day": act.today, "facilities": lost})]
        )
        write = act.write(
            "station.remove_facility",
            *emit,
            before={"facilities": [facility["kind"] for facility in current["facilities"]]},
            after={"facilities": [facility["kind"] for facility in kept]},
        )
        return store.change(Station, current, write, facilities=kept)

    return settle(attempt)


def _refuse_closed(station: Document) -> None:
    if station["state"] == rules.CLOSED:
        raise Conflict("wrong_state", state=rules.CLOSED)


def is_open(station: Document, now: datetime) -> bool:
    """Whether the hours of a station that is in service say that it is open."""
    return rules.serves_at(now.astimezone(clock.SHANGHAI).time(), *_hours(station))


def _hours(station: Document) -> tuple[time, time]:
    return time.fromisoformat(station["opens"]), time.fromisoformat(station["closes"])


# Devices


def enroll_device(
    store: Store, act: Act, station_id: str, label: str, idempotency: Idempotency | None
) -> tuple[Document, str | None]:
    """Gives a station a device; its key is shown this once (None where the request was answered before)."""
    station = store.get(Station, station_id, act.actor)
    _refuse_closed(station)
    id_ = ids.new()
    secret = auth.new_secret()
    document = {
        "_id": id_,
        "station": station["_id"],
        "county": station["county"],
        "label": label,
        "state": rules.ENROLLED,
        "enrolled_at": act.now,
        "keys": [auth.digest(secret)],
        "silent": False,
    }
    emit = Emit(DeviceEnrolledV1, {"day": act.today, "station": station["_id"]})
    device, new = store.create(Device, document, act.write("device.enroll", emit), idempotency)
    return device, device_key(id_, secret) if new else None


def device_key(id_: str, secret: str) -> str:
    """What a device sends as its bearer credential."""
    return f"{KEY_PREFIX}{id_}.{secret}"


def rotate_device_key(store: Store, act: Act, id_: str) -> tuple[Document, str]:
    """A further key for a device; the one before stays live until the next rotation."""
    secret = auth.new_secret()

    def attempt() -> Document:
        current = store.get(Device, id_, act.actor)
        if current["state"] == rules.REVOKED:
            raise Conflict("wrong_state", state=rules.REVOKED)
        keys = [auth.digest(secret), *current["keys"]][:DEVICE_KEYS]
        return store.change(Device, current, act.write("device.rotate"), keys=keys)

    return settle(attempt), device_key(id_, secret)


def revoke_device(store: Store, act: Act, id_: str, reason: str) -> Document:
    """Ends a device's credentials for good."""

    def attempt() -> Document:
        current = store.get(Device, id_, act.actor)
        if current["state"] == rules.REVOKED:
            raise Conflict("wrong_state", state=rules.REVOKED)
        emit = Emit(DeviceRevokedV1, {"day": act.today, "station": current["station"]})
        write = act.write(
            "device.revoke", emit, reason=reason, before={"state": current["state"]}, after={"state": rules.REVOKED}
        )
        return store.change(Device, current, write, state=rules.REVOKED, keys=[])

    return settle(attempt)


def hear_device(store: Store, act: Act, device: Document) -> None:
    """Notes that a device was heard of; the first contact makes it active."""
    if device["state"] != rules.ENROLLED:
        store.hear(device["_id"], act.now)
        return
    write = act.write(
        "device.activate", before={"state": rules.ENROLLED}, after={"state": rules.ACTIVE}, reason="first contact"
    )
    try:
        store.change(Device, device, write, state=rules.ACTIVE, last_seen=act.now)
    except Stale:
        store.hear(device["_id"], act.now)  # activated by another request, or revoked meanwhile


def beat(store: Store, act: Act, unsent: int, sent_at: datetime | None) -> None:
    """Notes a device's sign of life: how many rows it still holds, and what its clock lacks."""
    store.hear(act.actor.id, act.now, unsent=unsent, offset_ms=_milliseconds(_clock_offset(act, sent_at)))


def note_silences(store: Store, now: datetime, trace: str) -> int:
    """Says of each device that fell silent while its station serves, once until it is heard of again."""
    act = Act(auth.system("silence watch"), now, trace)
    local = now.astimezone(clock.SHANGHAI)
    said = 0
    for device, station in store.quiet_devices(now - rules.SILENT_AFTER):
        if not rules.is_silent(max(device["last_seen"], station["state_since"]), local, *_hours(station)):
            continue
        silent_seconds = int((now - device["last_seen"]).total_seconds())
        emit = Emit(HeartbeatMissedV1, {"day": act.today, "station": station["_id"], "silent_seconds": silent_seconds})
        try:
            store.change(Device, device, act.write("device.silent", emit), silent=True)
            said += 1
        except Stale:
            continue  # it has just been heard of, or changed: the next round looks again
    return said


# Check-ins


def record_checkins(
    store: Store,
    act: Act,
    device: Mapping[str, Any],
    rows: Sequence[Any],
    sent_at: datetime | None,
    load: Callable[[Any], Mapping[str, Any]],
    *,
    import_reason: str = "",
) -> list[dict[str, Any]]:
    """Judges and stores a batch; one result a row, in the order of the rows.

    ``device``: id, station, county, enrolled_at, history (of its station, maybe seconds old). ``load`` turns a raw
    row into its fields or raises ValidationError. An identical row sent again gets the first answer; nothing is
    dropped in silence. With ``import_reason`` it is an officer who brings them in, and all of them wait.
    """
    offset = _clock_offset(act, sent_at)
    serving = _Serving(store, device)
    results: list[dict[str, Any] | None] = []
    documents: list[Document] = []
    for raw in rows:
        try:
            row = load(raw)
        except ValidationError as error:
            results.append(_rejected(raw, error))
            continue
        if row.get("station", device["station"]) != device["station"]:
            results.append(_result(row["id"], rules.REJECTED, "unknown_station"))
            continue
        served = serving.at(row["captured_at"])
        documents.append(_checkin(act, device, row, offset, served=served, import_reason=import_reason))
        results.append(None)
    earlier = iter(zip(documents, store.insert_checkins(documents), strict=True))
    return [result or _answer(*next(earlier)) for result in results]


class _Serving:
    """When a device's station served. A no is final for the check-in, so it is never said from a cached history."""

    def __init__(self, store: Store, device: Mapping[str, Any]) -> None:
        self._store, self._station, self._history = store, device["station"], device["history"]
        self._fresh = False

    def at(self, instant: datetime) -> bool:
        if not self._fresh and not rules.served_at(self._history, instant):
            self._history, self._fresh = self._store.station_history(self._station), True
        return rules.served_at(self._history, instant)


def _clock_offset(act: Act, sent_at: datetime | None) -> timedelta:
    return act.now - sent_at if sent_at else timedelta()


def _milliseconds(span: timedelta) -> int:
    return round(span.total_seconds() * 1000)


def _checkin(
    act: Act,
    device: Mapping[str, Any],
    row: Mapping[str, Any],
    offset: timedelta,
    *,
    served: bool,
    import_reason: str,
) -> Document:
    captured_at = clock.milliseconds(row["captured_at"])
    reasons = rules.judge(
        captured_at,
        act.now,
        clock_offset=offset,
        enrolled_at=device["enrolled_at"],
        served=served,
        imported=bool(import_reason),
    )
    document = {
        "_id": ids.derived(device["id"], row["id"]),
        "client_id": row["id"],
        "device": device["id"],
        "station": device["station"],
        "county": device["county"],
        "kind": row["kind"],
        "people": row["people"],
        "captured_at": captured_at,
        "received_at": act.now,
        "recorded_at": act.now,
        "offset_ms": _milliseconds(offset),
        "day": clock.day(captured_at),
        "status": rules.QUARANTINED if reasons else rules.ACCEPTED,
        "reasons": list(map(str, reasons)),
        "trace": act.trace,
        "rev": 1,
        "seq": 1,
        "open": True,
        "unsealed": True,
    }
    if import_reason:  # else it is its own audit row: its device is the actor
        document["audit"] = [audit.row(act.actor, "checkin.import", at=act.now, reason=import_reason)]
    return document


def _answer(sent: Document, stored: Document | None) -> dict[str, Any]:
    """The result of a row that was stored now (``stored`` is None) or before."""
    if stored is not None and any(sent[name] != stored[name] for name in ("captured_at", "kind", "people", "station")):
        return _result(sent["client_id"], rules.REJECTED, "content_changed")
    first = stored or sent
    if first["reasons"]:
        return _result(sent["client_id"], rules.QUARANTINED, first["reasons"][0])
    return _result(sent["client_id"], rules.ACCEPTED, "recorded")


def _rejected(raw: object, error: ValidationError) -> dict[str, Any]:
    first = field_errors(error.normalized_messages())[0]  # type: ignore[no-untyped-call]  # marshmallow left it so
    id_ = raw.get("id") if isinstance(raw, dict) and ids.is_uuid(str(raw.get("id"))) else None
    return {**_result(id_, rules.REJECTED, first.code), "field": first.field}


def _result(id_: object, status: str, code: str) -> dict[str, Any]:
    return {"id": id_, "status": status, "code": code, "final": True}


def import_checkins(
    store: Store,
    act: Act,
    device_id: str,
    rows: Sequence[Any],
    reason: str,
    load: Callable[[Any], Mapping[str, Any]],
) -> list[dict[str, Any]]:
    """What a revoked or broken device still held, brought in by an officer: all of it quarantined."""
    device = store.get(Device, device_id, act.actor)
    station = store.get(Station, device["station"], act.actor)
    return record_checkins(store, act, device_view(device, station), rows, None, load, import_reason=reason)


def device_view(device: Document, station: Document) -> dict[str, Any]:
    """What judging a check-in needs to know of its device; instants in the zone that is compared fastest."""
    return {
        "id": device["_id"],
        "station": device["station"],
        "county": device["county"],
        "enrolled_at": device["enrolled_at"].astimezone(UTC),
        "history": [{**entry, "since": entry["since"].astimezone(UTC)} for entry in station["history"]],
    }


def approve_checkin(store: Store, act: Act, id_: str, reason: str, captured_at: datetime | None) -> Document:
    """Lets a quarantined check-in count, on the day it really happened.

    ``captured_at``: what the officer found out; else the device's time, mended by its clock's offset.
    """

    def attempt() -> Document:
        current = store.get(Checkin, id_, act.actor)
        if current["status"] != rules.QUARANTINED:
            raise Conflict("wrong_state", state=current["status"])
        offset = timedelta(milliseconds=current["offset_ms"])
        happened = clock.milliseconds(captured_at or rules.corrected(current["captured_at"], offset))
        if happened > act.now:
            raise Invalid([FieldError("captured_at", "in_the_future")])
        if happened < rules.EARLIEST:  # a clock that lost its battery; the officer has to say when it was
            raise Invalid([FieldError("captured_at", "out_of_range")])
        day = clock.day(happened)
        emit = Emit(
            CheckinApprovedV1,
            {
                "day": day,
                "quarantined_day": clock.day(current["received_at"]),
                "station": current["station"],
                "kind": current["kind"],
                "people": current["people"],
                "corrects": current["_id"],
            },
            at=happened,
        )
        write = act.write(
            "checkin.approve",
            emit,
            reason=reason,
            before={"status": current["status"], "day": current["day"]},
            after={"status": rules.APPROVED, "day": day, "happened_at": happened},
        )
        return store.change(Checkin, current, write, status=rules.APPROVED, day=day, happened_at=happened)

    return settle(attempt)


def void_checkin(store: Store, act: Act, id_: str, reason: str) -> Document:
    """Takes a check-in back, with what it had added to the figures."""

    def attempt() -> Document:
        current = store.get(Checkin, id_, act.actor)
        if current["status"] == rules.VOIDED:
            raise Conflict("wrong_state", state=rules.VOIDED)
        waiting = current["status"] == rules.QUARANTINED
        emit = Emit(
            CheckinVoidedV1,
            {
                "day": clock.day(current["received_at"]) if waiting else current["day"],
                "station": current["station"],
                "kind": current["kind"],
                "people": 0 if waiting else -current["people"],
                "was_quarantined": waiting,
                "corrects": current["_id"],
            },
        )
        write = act.write(
            "checkin.void", emit, reason=reason, before={"status": current["status"]}, after={"status": rules.VOIDED}
        )
        return store.change(Checkin, current, write, status=rules.VOIDED)

    return settle(attempt)


# Faults and supplies


def report_fault(
    store: Store, act: Act, own: str | None, fault: Mapping[str, Any], idempotency: Idempotency | None
) -> tuple[Document, bool]:
    """Notes that something at a station is broken: at the device's ``own``, or at the one that a person names."""
    id_ = own or fault.get("station")
    if id_ is None:
        raise Invalid([FieldError("station", "required")])
    station = store.get(Station, id_, act.actor)
    document = {
        "_id": ids.new(),
        "station": station["_id"],
        "county": station["county"],
        "kind": fault["kind"],
        "note": fault["note"],
        "state": rules.OPEN,
        "reported_at": act.now,
    }
    emit = Emit(FaultReportedV1, {"day": act.today, "station": station["_id"], "kind": fault["kind"]})
    return store.create(Fault, document, act.write("fault.report", emit), idempotency)


def clear_fault(store: Store, act: Act, id_: str, reason: str) -> Document:
    """Notes that a fault was mended."""

    def attempt() -> Document:
        current = store.get(Fault, id_, act.actor)
        if current["state"] == rules.CLEARED:
            raise Conflict("wrong_state", state=rules.CLEARED)
        emit = Emit(
            FaultClearedV1,
            {
                "day": act.today,
                "reported_day": clock.day(current["reported_at"]),
                "station": current["station"],
                "kind": current["kind"],
                "corrects": current["_id"],
            },
        )
        write = act.write(
            "fault.clear", emit, reason=reason, before={"state": rules.OPEN}, after={"state": rules.CLEARED}
        )
        return store.change(Fault, current, write, state=rules.CLEARED, cleared_at=act.now)

    return settle(attempt)


def stock_supply(
    store: Store, act: Act, supply: Mapping[str, Any], idempotency: Idempotency | None
) -> tuple[Document, bool]:
    """Notes a stock at a station."""
    station = store.get(Station, supply["station"], act.actor)
    document = {**supply, "_id": ids.new(), "county": station["county"]}
    return store.create(Supply, document, act.write("supply.stock", after=supply), idempotency)


def edit_supply(store: Store, act: Act, id_: str, rev: int, changes: Mapping[str, Any]) -> Document:
    """Changes quantity or expiry of the version the caller saw."""
    current = _version(store.get(Supply, id_, act.actor), rev)
    try:
        write = act.write("supply.edit", before={name: current.get(name) for name in changes}, after=changes)
        return store.change(Supply, current, write, **changes)
    except Stale:
        raise PreconditionFailed from None


def _version(current: Document, rev: int) -> Document:
    if current["rev"] != rev:
        raise PreconditionFailed
    return current


# Erasure


def forget_person(_account: str, _refs: Sequence[str]) -> Forgotten:
    """Stations keeps nothing of a person but, in audit rows, the number of who acted, which names nobody."""
    return Forgotten(0, {Held.AUDIT_TRAIL: None})
