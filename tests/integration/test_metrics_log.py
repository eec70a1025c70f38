"""The log and its figures on a real MongoDB: every event once, in one transaction, whoever else writes."""

import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from pymongo.database import Database
from pymongo.errors import BulkWriteError, OperationFailure, PyMongoError

from contracts.catalogue import CATALOGUE
from contracts.envelope import Event
from services.kernel import clock, ids, mongo
from services.kernel.errors import BadRequest
from services.kernel.mongo import Document
from services.kernel.settings import Settings
from services.metrics import figures, log, store
from services.metrics.log import Fact
from tests.metrics import RECORDED, assert_counted_once, checkins, event

NOW = datetime(2025, 7, 16, 4, 0, tzinfo=UTC)


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Database[Document]]:
    """An empty database of metrics."""
    settings = Settings(mongodb_url=mongodb_url, mongodb_prefix=f"t{ids.new()[-8:]}_")
    made = mongo.connect(settings, "metrics", "test")
    store.ensure_indexes(made)
    log.begin(made)
    yield made
    made.client.drop_database(made.name)
    made.client.close()


def _facts(events: list[Event]) -> list[Fact]:
    return [Fact(one, CATALOGUE.counts(one), datetime.fromisoformat(one["recordedtime"])) for one in events]


def _apply(database: Database[Document], events: list[Event], **more: Any) -> int:
    return len(log.apply(database, _facts(events), NOW, **{"look_first": True, **more}))


def test_batch_is_logged_numbered_and_added_up(database: Database[Document]) -> None:
    events = [*checkins(3, people=2), event("stations.fault_reported.v1"), *checkins(2, county="370982")]
    assert _apply(database, events) == 6
    assert_counted_once(database, events)
    row = database["events"].find_one({"_id": events[0]["id"]})
    assert row is not None
    assert row["event"] == events[0]
    assert row["at"] == NOW


def test_known_events_change_nothing(database: Database[Document]) -> None:
    events = checkins(5)
    _apply(database, events)
    before = log.state(database)
    assert _apply(database, events) == 0
    assert log.state(database) == before
    more = checkins(2)
    assert _apply(database, [*events, *more]) == 2
    assert_counted_once(database, [*events, *more])


def test_known_event_fails_the_batch_that_does_not_look_and_leaves_no_trace(database: Database[Document]) -> None:
    known, fresh = checkins(2), checkins(2)
    _apply(database, known)
    with pytest.raises(BulkWriteError) as failure:
        _apply(database, [*fresh, known[0]], look_first=False)
    assert log.is_known(failure.value)
    assert not log.is_events_own(failure.value)
    assert_counted_once(database, known)


def test_two_writers_of_the_same_events_count_them_once(database: Database[Document]) -> None:
    events = checkins(400, people=3)
    errors: list[Exception] = []
    gate = threading.Barrier(4)

    def write(part: int) -> None:
        gate.wait()
        for start in range(0, len(events), 20):
            batch = events[start : start + 20] if part % 2 else events[::-1][start : start + 20]
            look_first, done = part < 2, False
            while not done:
                try:
                    _apply(database, batch, look_first=look_first)
                    done = True
                except PyMongoError as error:
                    look_first |= log.is_known(error)
                    if not (log.is_known(error) or error.has_error_label("TransientTransactionError")):
                        errors.append(error)
                        return

    writers = [threading.Thread(target=write, args=(part,)) for part in range(4)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    assert errors == []
    assert_counted_once(database, events)


def test_lost_counter_is_found_again_in_the_log(database: Database[Document]) -> None:
    events = checkins(5)
    _apply(database, events)
    database["state"].delete_one({"_id": "applied"})
    with pytest.raises(BulkWriteError) as failure:
        _apply(database, checkins(1))
    assert log.is_known(failure.value)
    log.begin(database)
    more = checkins(1)
    _apply(database, more)
    assert_counted_once(database, [*events, *more])


def test_event_that_cannot_be_stored_is_told_from_a_database_that_is_away(
    database: Database[Document], mongodb_url: str
) -> None:
    huge = event(RECORDED)
    huge["note"] = "x" * 17_000_000
    for one in (huge, {**event(RECORDED), "note": 2**70}):
        with pytest.raises((OperationFailure, OverflowError)) as refused:
            _apply(database, [*checkins(1), one])
        assert log.is_events_own(refused.value)
    database["rollups"].update_one(
        {"_id": "stations.checkins|stations|370902|2025-07-16"}, {"$set": {"value": "seven"}}, upsert=True
    )
    with pytest.raises(PyMongoError) as mistyped:
        _apply(database, checkins(1))
    assert log.is_events_own(mistyped.value)
    nowhere = Settings(mongodb_url="mongodb://127.0.0.1:1/?serverSelectionTimeoutMS=200")
    away = mongo.connect(nowhere, "metrics", "test")
    with pytest.raises(PyMongoError) as lost:
        _apply(away, checkins(1))
    away.client.close()
    assert not log.is_events_own(lost.value)
    assert not log.is_known(lost.value)
    assert not log.is_events_own(OperationFailure("not authorized", 13))
    assert database["events"].count_documents({}) == 0


def test_state_tells_the_newest_fact_of_each_service_and_believes_no_clock_that_runs_ahead(
    database: Database[Document],
) -> None:
    old, new, ahead = checkins(3)
    old["recordedtime"] = "2025-07-16T08:00:00+08:00"
    new["recordedtime"] = "2025-07-16T03:59:59.500Z"
    ahead["recordedtime"] = "2999-01-01T00:00:00Z"
    _apply(database, [new])
    _apply(database, [old])
    heard = log.state(database)["heard"]
    assert heard == {"stations": NOW - timedelta(milliseconds=500)}
    _apply(database, [ahead])
    assert log.state(database)["heard"] == {"stations": NOW}


def test_current_at_is_the_newest_word_even_where_the_clock_was_set_back(database: Database[Document]) -> None:
    assert "current_at" not in log.state(database)
    log.mark_current(database, NOW)
    assert log.state(database)["current_at"] == NOW
    log.mark_current(database, NOW - timedelta(days=1))
    assert log.state(database)["current_at"] == NOW - timedelta(days=1)
    _apply(database, checkins(1))
    assert log.state(database)["current_at"] == NOW - timedelta(days=1)
    _apply(database, checkins(1), current_at=NOW + timedelta(seconds=1))
    assert log.state(database)["current_at"] == NOW + timedelta(seconds=1)


def test_knowledge_is_empty_before_the_first_event(database: Database[Document]) -> None:
    database["state"].drop()
    known = store.knowledge(database, NOW)
    assert (known.totals, known.heard, known.current_at) == ({}, {}, None)
    assert known.status("stations") == figures.NO_SOURCE


def test_pages_of_rollups_hold_every_row_once_in_order_of_days(database: Database[Document]) -> None:
    days = ["2025-07-15", "2025-07-16", "2025-07-17"]
    counties = ["370902", "370911", "370911-gx", "370982"]
    _apply(database, [one for day in days for county in counties for one in checkins(1, county=county, day=day)])
    seen: list[tuple[str, str]] = []
    cursor: str | None = ""
    while cursor is not None:
        rows, cursor = store.rollups(
            database, "stations.checkins", None, "2025-07-01", "2025-07-31", limit=5, cursor=cursor
        )
        seen += [(row["day"], row["county"]) for row in rows]
    assert [day for day, _county in seen] == sorted(days * len(counties))
    assert sorted(seen) == sorted((day, county) for day in days for county in counties)
    rows, more = store.rollups(database, "stations.checkins", "370911", "2025-07-16", "2025-07-16", limit=5, cursor="")
    assert [(row["day"], row["county"], row["value"]) for row in rows] == [("2025-07-16", "370911", 1)]
    assert more is None
    with pytest.raises(BadRequest):
        store.rollups(database, "stations.checkins", None, "2025-07-01", "2025-07-31", limit=5, cursor="x")


def test_series_adds_counties_up_and_carries_levels(database: Database[Document]) -> None:
    _apply(
        database,
        [
            *checkins(2, day="2025-07-15", people=5),
            *checkins(1, day="2025-07-15", county="370982", people=7),
            *checkins(1, day="2025-07-17", people=1),
            event("stations.station_opened.v1", day="2025-07-10", facilities=[]),
            event("stations.station_opened.v1", day="2025-07-12", facilities=[], county="370982"),
            event("stations.station_closed.v1", day="2025-07-16", facilities=[], was_suspended=False),
        ],
    )
    july = ("2025-07-14", "2025-07-31")
    assert store.series(database, "stations.checkins", None, *july) == [("2025-07-15", 17), ("2025-07-17", 1)]
    assert store.series(database, "stations.checkins", "370982", *july) == [("2025-07-15", 7)]
    assert store.series(database, "stations.stations", None, *july) == [("2025-07-14", 2), ("2025-07-16", 1)]
    assert store.series(database, "stations.stations", "370982", *july) == [("2025-07-14", 1)]
    assert store.series(database, "stations.stations", None, "2025-07-01", "2025-07-10") == [("2025-07-10", 1)]
    assert store.series(database, "stations.faults", None, *july) == []


def test_events_behind_a_figure_add_up_to_it(database: Database[Document]) -> None:
    behind = [*checkins(7, people=2), event("stations.checkin_voided.v1", people=-2)]
    _apply(database, [*behind, *checkins(3, county="370982"), *checkins(3, day="2025-07-15")])
    found: list[Event] = []
    cursor: int | None = 0
    while cursor is not None:
        page, cursor = store.events(database, "stations.checkins", "370902", "2025-07-16", limit=3, cursor=cursor)
        found += page
    assert found == behind
    assert sum(one["data"]["people"] for one in found) == 12
    assert clock.day(NOW) == "2025-07-16"
