# mypy: ignore-errors
"""What the peers share: the same rows, the same verdicts, the same documents, in the way their own libraries like best.

Runs in the peers' own environments, so it imports nothing of ours. Validation is pydantic's, a whole batch at once;
only where that fails, row by row. Settings come from ``BENCH_*`` variables.
"""

import hashlib
import json
import os
import time
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Annotated, Any
from uuid import NAMESPACE_URL, uuid4, uuid5
from zoneinfo import ZoneInfo

from fastapi import HTTPException, Request, Response
from pydantic import AfterValidator, AwareDatetime, BaseModel, ConfigDict, Field, StringConstraints, ValidationError
from pydantic_core import to_json

MONGODB_URL = os.environ["BENCH_MONGODB_URL"]
DATABASE = os.environ["BENCH_DATABASE"]
AMQP_URL = os.environ["BENCH_AMQP_URL"]
EXCHANGE = os.environ["BENCH_EXCHANGE"]
TYPE = os.environ["BENCH_TYPE"]
OPTIONS = {"w": "majority", "journal": True, "readConcernLevel": "majority", "timeoutMS": 5000, "tz_aware": True}
CACHE_SECONDS = 15.0
TOLERANCE, AGE_MAX, CLOCK_TOLERANCE = timedelta(minutes=5), timedelta(days=30), timedelta(minutes=10)
SHANGHAI = ZoneInfo("Asia/Shanghai")
NAMESPACE = uuid5(NAMESPACE_URL, "https://estation.example/ids")


def _of_this_century(value: datetime) -> datetime:
    if not 2000 <= value.year < 2100:
        raise ValueError("out_of_range")
    return value


Id = Annotated[
    str, StringConstraints(pattern=r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$", max_length=36)
]
Instant = Annotated[AwareDatetime, AfterValidator(_of_this_century)]


class Kind(StrEnum):
    """What a person came for."""

    REST = "rest"
    WATER = "water"
    MEAL = "meal"
    CHARGING = "charging"
    FIRST_AID = "first_aid"
    MOTHER_ROOM = "mother_room"
    OTHER = "other"


class Row(BaseModel):
    """One check-in."""

    model_config = ConfigDict(extra="forbid", strict=True)

    id: Id
    captured_at: Instant
    kind: Kind
    people: Annotated[int, Field(ge=1, le=500)]
    station: Id | None = None


class Batch(BaseModel):
    """All rows right: the usual case, checked in one go."""

    model_config = ConfigDict(extra="forbid", strict=True)

    sent_at: Instant | None = None
    items: Annotated[list[Row], Field(min_length=1, max_length=500)]


class RawBatch(BaseModel):
    """Some row is wrong: each is judged alone."""

    model_config = ConfigDict(extra="forbid")

    sent_at: Instant | None = None
    items: Annotated[list[Any], Field(min_length=1, max_length=500)]


def read(raw: bytes) -> tuple[datetime | None, list[Row | dict[str, Any]]]:
    """The rows of a body; a dict is the result of a row that is wrong."""
    try:
        batch = Batch.model_validate_json(raw)
    except ValidationError:
        pass
    else:
        return batch.sent_at, batch.items
    try:
        loose = RawBatch.model_validate_json(raw)
    except ValidationError as error:
        raise HTTPException(422, json.loads(error.json(include_input=False, include_context=False))) from None
    return loose.sent_at, [_row(item) for item in loose.items]


def _row(item: Any) -> Row | dict[str, Any]:
    try:
        return Row.model_validate_json(to_json(item))
    except ValidationError as error:
        id_ = item.get("id") if isinstance(item, dict) else None
        return {"id": id_, "status": "rejected", "code": error.errors()[0]["type"], "final": True}


def documents(device: dict[str, Any], sent_at: datetime | None, rows: list[Any]) -> list[dict[str, Any]]:
    """The rows that are right, as they are stored."""
    now = datetime.now(UTC)
    now = now.replace(microsecond=now.microsecond // 1000 * 1000)
    offset = now - sent_at if sent_at else timedelta()
    trace = f"00-{uuid4().hex}-{uuid4().hex[:16]}-00"
    return [
        _document(device, row, now, offset, trace)
        for row in rows
        if isinstance(row, Row) and row.station in (None, device["station"])
    ]


def _document(device: dict[str, Any], row: Row, now: datetime, offset: timedelta, trace: str) -> dict[str, Any]:
    captured_at = row.captured_at.replace(microsecond=row.captured_at.microsecond // 1000 * 1000)
    reasons = []
    if captured_at > now + TOLERANCE:
        reasons.append("captured_in_future")
    if captured_at < now - AGE_MAX:
        reasons.append("captured_too_long_ago")
    if captured_at < device["enrolled_at"] - TOLERANCE:
        reasons.append("captured_before_enrolment")
    if abs(offset) > CLOCK_TOLERANCE:
        reasons.append("device_clock_off")
    if not any(one["state"] == "active" and one["since"] <= captured_at + TOLERANCE for one in device["history"]):
        reasons.append("station_not_active")
    return {
        "_id": str(uuid5(NAMESPACE, f"{device['_id']}\x1f{row.id}")),
        "client_id": row.id,
        "device": device["_id"],
        "station": device["station"],
        "county": device["county"],
        "kind": row.kind.value,
        "people": row.people,
        "captured_at": captured_at,
        "received_at": now,
        "recorded_at": now,
        "offset_ms": round(offset.total_seconds() * 1000),
        "day": captured_at.astimezone(SHANGHAI).date().isoformat(),
        "status": "quarantined" if reasons else "accepted",
        "reasons": reasons,
        "trace": trace,
        "rev": 1,
        "seq": 1,
        "open": True,
    }


def event(document: dict[str, Any]) -> bytes:
    """The event of a document, as ours looks on the wire."""
    return to_json(
        {
            "specversion": "1.0",
            "id": document["_id"],
            "source": "/services/stations",
            "type": TYPE,
            "subject": document["_id"],
            "time": document["captured_at"],
            "datacontenttype": "application/json",
            "dataschema": f"https://estation.example/schemas/{TYPE}.json",
            "seq": 1,
            "county": document["county"],
            "recordedtime": document["received_at"],
            "traceparent": document["trace"],
            "data": {name: document[name] for name in ("day", "station", "kind", "people")},
        }
    )


def answer(rows: list[Any], stored: list[dict[str, Any]]) -> Response:
    """One result a row."""
    by_id = {document["client_id"]: document for document in stored}
    return Response(to_json({"received_at": datetime.now(UTC), "results": [_result(row, by_id) for row in rows]}))


def _result(row: Any, stored: dict[str, dict[str, Any]]) -> dict[str, Any]:
    if isinstance(row, dict):
        return row
    document = stored.get(row.id)
    if document is None:
        return {"id": row.id, "status": "rejected", "code": "unknown_station", "final": True}
    code = document["reasons"][0] if document["reasons"] else "recorded"
    return {"id": row.id, "status": document["status"], "code": code, "final": True}


class Devices:
    """Devices by their keys, believed for 15 s without a look."""

    def __init__(self) -> None:
        self._known: dict[str, tuple[dict[str, Any], float]] = {}

    def known(self, request: Request) -> tuple[str, dict[str, Any] | None]:
        """The key's digest, and its device if it was looked up lately."""
        key = request.headers.get("authorization", "").removeprefix("Bearer ")
        digest = hashlib.sha256(key.encode()).hexdigest()
        found = self._known.get(digest)
        return digest, found[0] if found and time.monotonic() < found[1] else None

    def remember(self, digest: str, device: dict[str, Any] | None) -> dict[str, Any]:
        """The device that was looked up.

        Raises:
            HTTPException: 401, there is none.
        """
        if device is None:
            raise HTTPException(401)
        self._known[digest] = (device, time.monotonic() + CACHE_SECONDS)
        return device
