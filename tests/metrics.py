"""What the tests of metrics share: events with ids of their own, whole lives with their compensations, a publisher."""

from collections.abc import Sequence
from contextlib import closing
from typing import Any

from hypothesis import strategies as st
from pymongo.database import Database

from contracts import catalogue, envelope
from contracts.codes import REPORTING_UNITS
from contracts.envelope import Event
from services.kernel import clock, ids, mongo
from services.kernel.amqp import Message, Publisher
from services.kernel.mongo import Document
from services.kernel.relay import pack
from services.metrics import rebuild, store
from tests.contract.builders import build
from tests.parts import World

RECORDED = "stations.checkin_recorded.v1"


def event(type_: str, /, *, county: str = "370902", **data: object) -> Event:
    """A valid event of a type that was recorded just now, with an id of its own."""
    id_ = ids.new()
    return {
        **build(type_, county=county, **data),
        "id": id_,
        "subject": id_,
        "recordedtime": clock.rfc3339(clock.now()),
    }


def checkins(count: int, *, county: str = "370902", day: str = "2025-07-16", people: int = 1) -> list[Event]:
    """So many recorded check-ins."""
    return [event(RECORDED, county=county, day=day, people=people) for _ in range(count)]


@st.composite
def lives(draw: st.DrawFn) -> list[Event]:
    """Events of some stations, devices, check-ins and faults, compensations among them, in any order."""
    told: list[Event] = []
    for _ in range(draw(st.integers(1, 25))):
        county = draw(st.sampled_from(REPORTING_UNITS))
        day, later = sorted((draw(_DAYS), draw(_DAYS)))
        told += draw(st.sampled_from(_STORIES))(county, day, later, draw(st.integers(1, 500)))
    return draw(st.permutations(told))


_DAYS = st.sampled_from(["2024-12-31", "2025-01-01", "2025-07-16", "2025-12-31", "2026-01-01"])


def _counted(county: str, day: str, _later: str, people: int) -> list[Event]:
    return [event(RECORDED, county=county, day=day, people=people)]


def _voided(county: str, day: str, _later: str, people: int) -> list[Event]:
    return [
        event(RECORDED, county=county, day=day, people=people),
        event("stations.checkin_voided.v1", county=county, day=day, people=-people),
    ]


def _approved(county: str, day: str, later: str, people: int) -> list[Event]:
    return [
        event("stations.checkin_quarantined.v1", county=county, day=later, people=people),
        event("stations.checkin_approved.v1", county=county, day=day, quarantined_day=later, people=people),
    ]


def _refused(county: str, day: str, _later: str, people: int) -> list[Event]:
    return [
        event("stations.checkin_quarantined.v1", county=county, day=day, people=people),
        event("stations.checkin_voided.v1", county=county, day=day, people=0, was_quarantined=True),
    ]


def _opened_and_closed(county: str, day: str, later: str, people: int) -> list[Event]:
    mother_room = [{"kind": "mother_room", "since": day}]
    return [
        event("stations.station_opened.v1", county=county, day=day, facilities=["mother_room"]),
        event("stations.station_closed.v1", county=county, day=later, was_suspended=False, facilities=mother_room),
    ][: 1 + people % 2]


def _broken(county: str, day: str, later: str, people: int) -> list[Event]:
    return [
        event("stations.fault_reported.v1", county=county, day=day),
        event("stations.fault_cleared.v1", county=county, day=later, reported_day=day),
    ][: 1 + people % 2]


_STORIES = (_counted, _voided, _approved, _refused, _opened_and_closed, _broken)


def database_of(world: World) -> Database[Document]:
    """The database of metrics in a world, with its indexes."""
    database = mongo.connect(world.settings("metrics"), "metrics", "test")
    store.ensure_indexes(database)
    return database


def assert_counted_once(database: Database[Document], events: Sequence[Event]) -> None:
    """Exactly these events are in the log, numbered without a gap, and every figure is what they add up to."""
    expected = {one["id"] for one in events}
    assert {row["_id"] for row in database["events"].find({}, {"_id": 1})} == expected
    assert sorted(row["n"] for row in database["events"].find({}, {"n": 1})) == list(range(1, len(expected) + 1))
    report = rebuild.check(database)
    assert report.agrees, [str(one) for one in report.differences]


def publish(world: World, events: Sequence[Event]) -> None:
    """Publishes events of one service as its relay does: batches by type."""
    send(world, [message for message, _count in pack(events)], events[0]["type"].split(".", 1)[0])


def publish_batch(world: World, raw: Sequence[Any]) -> None:
    """Publishes whatever it is as one batch on the exchange of stations."""
    body = b"[" + b",".join(envelope.dump(one) if isinstance(one, dict) else one for one in raw) + b"]"
    send(world, [Message(catalogue.exchange("stations"), RECORDED, body, envelope.BATCH_CONTENT_TYPE)])


def send(world: World, messages: Sequence[Message], owner: str = "stations") -> None:
    """Publishes messages as the user ``owner``; each must be confirmed."""
    publisher = Publisher(world.broker.url_for(owner), "test")
    with closing(publisher):
        assert all(publisher.publish(messages))
