"""Rebuilding from the log gives the live figures to the digit; what drifted is found and mended under load."""

import threading
from collections.abc import Iterator
from datetime import datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pymongo.database import Database
from pymongo.errors import PyMongoError

from contracts.catalogue import CATALOGUE
from contracts.envelope import Event
from services.kernel import clock, ids, mongo
from services.kernel.mongo import Document
from services.kernel.settings import Settings
from services.metrics import log, rebuild, store
from services.metrics.log import Fact
from tests.metrics import RECORDED, checkins, event, lives

COUNTED = ("rollups", "totals")


@pytest.fixture
def database(mongodb_url: str) -> Iterator[Database[Document]]:
    """An empty database of metrics."""
    known = Settings(mongodb_url=mongodb_url, mongodb_prefix=f"t{ids.new()[-8:]}_")
    made = mongo.connect(known, "metrics", "test")
    store.ensure_indexes(made)
    yield made
    made.client.drop_database(made.name)
    made.client.close()


def _apply(database: Database[Document], events: list[Event]) -> None:
    facts = {one["id"]: Fact(one, CATALOGUE.counts(one), datetime.fromisoformat(one["recordedtime"])) for one in events}
    conflicts = 0
    while True:
        try:
            log.apply(database, list(facts.values()), clock.now(), look_first=True)
        except PyMongoError as error:
            conflicts += 1
            assert error.has_error_label("TransientTransactionError"), error  # noqa: PT017 (a repair met this write)
            assert conflicts < 1000
        else:
            return


def _figures(database: Database[Document]) -> dict[str, list[Document]]:
    return {name: list(database[name].find().sort("_id", 1)) for name in COUNTED}


@settings(deadline=None, max_examples=30, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(lives(), st.data())
def test_log_gives_the_live_figures_to_the_digit(
    database: Database[Document], events: list[Event], data: st.DataObject
) -> None:
    for name in ("events", "state", *COUNTED):
        database[name].delete_many({})
    cuts = sorted(data.draw(st.lists(st.integers(0, len(events)), max_size=4)))
    for start, end in zip([0, *cuts], [*cuts, len(events)], strict=True):
        again = events[: data.draw(st.integers(0, 3))]  # deliveries come again
        if events[start:end]:
            _apply(database, [*again, *events[start:end]])
    report = rebuild.check(database)
    assert report.agrees, [str(one) for one in report.differences]
    assert report.events == len(events)
    live = _figures(database)
    for name in COUNTED:
        database[name].drop()
    rebuild.repair(database)
    assert _figures(database) == live


def test_nothing_agrees_with_nothing(database: Database[Document]) -> None:
    report = rebuild.check(database)
    assert report.agrees
    assert (report.n, report.events, report.rollups, report.totals) == (0, 0, 0, 0)


def _spoil(database: Database[Document]) -> None:
    """Drift of every kind: too much, too little, missing, and out of nowhere."""
    day = "stations.checkins|stations|370902|2025-07-16"
    database["rollups"].update_one({"_id": day}, {"$inc": {"value": 5}})
    database["totals"].update_one({"_id": "stations.checkins|stations|370902|2025"}, {"$inc": {"value": -2}})
    database["rollups"].delete_one({"_id": "stations.checkin_records|stations|370902|2025-07-16"})
    nowhere = {"measure": "stations.faults", "programme": "stations", "county": "370982", "year": "2025"}
    database["totals"].insert_one({"_id": "stations.faults|stations|370982|2025", **nowhere, "value": 9})


def test_drift_is_found_and_mended(database: Database[Document]) -> None:
    _apply(database, checkins(10, people=3))
    live = _figures(database)
    _spoil(database)
    report = rebuild.check(database)
    assert not report.agrees
    assert sorted(map(str, report.differences)) == [
        "rollups stations.checkin_records|stations|370902|2025-07-16: log 10, found None",
        "rollups stations.checkins|stations|370902|2025-07-16: log 30, found 35",
        "totals stations.checkins|stations|370902|2025: log 30, found 28",
        "totals stations.faults|stations|370982|2025: log None, found 9",
    ]
    assert _figures(database) != live, "checking changes nothing"
    mended = rebuild.repair(database)
    assert mended.differences == report.differences
    assert _figures(database) == live
    assert rebuild.check(database).agrees


def test_mending_commutes_with_what_is_counted_after_the_snapshot(database: Database[Document]) -> None:
    events = checkins(10, people=3)
    _apply(database, events)
    _spoil(database)
    report = rebuild.check(database)
    late = [*checkins(4, people=2), event("stations.fault_reported.v1", county="370982")]
    _apply(database, late)
    rebuild.mend(database, report)
    after = rebuild.check(database)
    assert after.agrees, [str(one) for one in after.differences]
    assert after.events == 15


def test_checking_and_mending_while_events_arrive(database: Database[Document]) -> None:
    stop = threading.Event()
    written: list[int] = []
    failures: list[BaseException] = []

    def arrive() -> None:
        try:
            while not stop.is_set():
                events = [*checkins(20), *checkins(20, county="370982", day="2026-01-01")]
                _apply(database, events)
                written.append(len(events))
        except BaseException as error:  # noqa: BLE001 (raised again in the test)
            failures.append(error)

    _apply(database, checkins(1))
    writer = threading.Thread(target=arrive)
    writer.start()
    counted = []
    try:
        for _ in range(8):
            report = rebuild.check(database)
            assert report.agrees, [str(one) for one in report.differences]
            counted.append(report.n)
            _spoil_one(database)
            assert len(rebuild.repair(database).differences) == 1
            database["rollups"].drop()
            assert rebuild.repair(database).differences
    finally:
        stop.set()
        writer.join()
    assert failures == []
    assert counted[-1] > counted[0], "events arrived all the while"
    last = rebuild.check(database)
    assert last.agrees, [str(one) for one in last.differences]
    assert last.n == 1 + sum(written)


def _spoil_one(database: Database[Document]) -> None:
    database["totals"].update_one({"_id": "stations.checkins|stations|370902|2025"}, {"$inc": {"value": 1}})


def test_more_figures_than_fit_in_one_transaction_are_mended(
    database: Database[Document], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rebuild, "CHUNK", 7)
    days = [f"2025-07-{day:02}" for day in range(1, 31)]
    _apply(database, [event(RECORDED, day=day) for day in days])
    live = _figures(database)
    database["rollups"].drop()
    assert len(rebuild.repair(database).differences) == 60
    assert _figures(database) == live


def test_two_repairs_of_one_finding_add_it_once(database: Database[Document]) -> None:
    _apply(database, checkins(3))
    live = _figures(database)
    _spoil_one(database)
    one, other = rebuild.check(database), rebuild.check(database)
    rebuild.mend(database, one)
    with pytest.raises(rebuild.RebuildError, match="check again"):
        rebuild.mend(database, other)
    assert _figures(database) == live


def test_log_with_gaps_proves_nothing(database: Database[Document]) -> None:
    events = checkins(3)
    _apply(database, events)
    live = _figures(database)
    database["events"].delete_one({"_id": events[1]["id"]})
    report = rebuild.check(database)
    assert not report.agrees
    assert (report.events, report.n) == (2, 3)
    with pytest.raises(rebuild.RebuildError, match="2 of 3 events"):
        rebuild.repair(database)
    assert _figures(database) == live


def test_changed_counting_restates_the_past(database: Database[Document]) -> None:
    _apply(database, checkins(3, people=2))

    class Twofold:
        """Counts every event twice."""

        def counts(self, one: Event) -> tuple[Any, ...]:
            return CATALOGUE.counts(one) * 2

    rebuild.repair(database, Twofold())  # type: ignore[arg-type]
    row = database["totals"].find_one({"_id": "stations.checkins|stations|370902|2025"})
    assert row is not None
    assert row["value"] == 12
