"""What the entry points of a process share: budgets per caller and route, addresses, audit rows."""

from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
from pymongo import MongoClient

from services.kernel import audit
from services.kernel.app import BaseApp, caller_address
from services.kernel.auth import Actor
from services.kernel.errors import TooManyRequests, Unauthenticated
from services.kernel.settings import SettingError, Settings
from tests.builders import NOON, officer

DEVICE = Actor(id="d1", kind="device")


@pytest.fixture
def nowhere() -> Iterator[MongoClient[dict[str, Any]]]:
    """A client that never asks its database."""
    with MongoClient[dict[str, Any]]("mongodb://127.0.0.1:9", connect=False) as client:
        yield client


@pytest.fixture
def app(nowhere: MongoClient[dict[str, Any]]) -> BaseApp:
    """An app with a budget of two requests a minute, three for devices."""
    return BaseApp(Settings(requests_per_minute=2, device_requests_per_minute=3), nowhere["x"])


def spend(app: BaseApp, actor: Actor | None, address: str, route: str) -> int:
    """How many requests a caller has before he is too fast."""
    for count in range(100):
        try:
            app.admit(actor, address, route)
        except TooManyRequests as error:
            assert 1 <= error.retry_after <= 60  # noqa: PT017
            return count
    raise AssertionError("no limit")


def test_each_caller_has_a_budget_for_each_route(app: BaseApp) -> None:
    assert spend(app, officer("a"), "1.1.1.1", "/x") == 2
    assert spend(app, officer("a"), "2.2.2.2", "/x") == 0, "another address is no other caller"
    assert spend(app, officer("a"), "1.1.1.1", "/y") == 2
    assert spend(app, officer("b"), "1.1.1.1", "/x") == 2
    assert spend(app, DEVICE, "1.1.1.1", "/x") == 3


def test_who_is_not_known_is_his_address(app: BaseApp) -> None:
    assert spend(app, None, "1.1.1.1", "/x") == 2
    assert spend(app, None, "1.1.1.1", "/x") == 0
    assert spend(app, None, "1.1.1.2", "/x") == 2


def test_an_address_cannot_spend_the_budget_of_an_actor_of_that_name(app: BaseApp) -> None:
    assert spend(app, None, "d1", "/x") == 2
    assert spend(app, DEVICE, "1.1.1.1", "/x") == 3
    assert spend(app, officer("d1"), "1.1.1.1", "/x") == 2


@pytest.mark.parametrize(
    ("peer", "forwarded_for", "expected"),
    [
        ("127.0.0.1", None, "127.0.0.1"),
        ("127.0.0.1", "", "127.0.0.1"),
        ("127.0.0.1", "8.8.8.8", "8.8.8.8"),
        ("10.1.2.3", "6.6.6.6, 8.8.8.8", "8.8.8.8"),
        ("fd00::1", "2001:4860::8888", "2001:4860::8888"),
        ("8.8.4.4", "10.0.0.1", "8.8.4.4"),
        ("2001:4860::8888", "10.0.0.1", "2001:4860::8888"),
        ("unix", "8.8.8.8", "unix"),
        ("", "8.8.8.8", ""),
    ],
)
def test_an_address_that_is_told_counts_only_from_the_private_side(
    peer: str, forwarded_for: str | None, expected: str
) -> None:
    assert caller_address(peer, forwarded_for) == expected


def test_a_told_address_has_bounded_length() -> None:
    assert len(caller_address("127.0.0.1", "x" * 5000)) == 45


def test_a_stranger_is_refused(app: BaseApp) -> None:
    with pytest.raises(Unauthenticated):
        app.authenticate("anything")


def test_production_with_demo_keys_has_no_app(nowhere: MongoClient[dict[str, Any]], tmp_path: Any) -> None:
    (tmp_path / "jwks.json").write_text('{"keys": [{"kid": "demo-1"}]}')
    with pytest.raises(SettingError, match="demo key"):
        BaseApp(Settings(mode="production", jwks=str(tmp_path / "jwks.json")), nowhere["x"])


def test_readiness_asks_the_database(app: BaseApp) -> None:
    app.database.client.close()
    assert app.readiness.failing() == ["database"]


def test_an_audit_row_names_who_what_when_why_and_what_differs() -> None:
    row = audit.row(
        officer("o1", scope="370902"),
        "station.suspend",
        at=NOON,
        reason="water",
        before={"state": "open", "name": "a", "same": 1, "contact": "张三"},
        after={"state": "suspended", "name": None, "same": 1, "contact": "李四", "new": True},
        personal=("contact",),
    )
    assert row.pop("id")
    assert row == {
        "at": NOON,
        "actor": "o1",
        "kind": "person",
        "scope": "370902",
        "action": "station.suspend",
        "reason": "water",
        "changed": {
            "contact": None,
            "name": ["a", None],
            "new": [None, True],
            "state": ["open", "suspended"],
        },
    }
    assert "张三" not in str(row)


def test_an_audit_row_of_nothing_changed_is_still_a_row() -> None:
    row = audit.row(officer(), "station.look", at=NOON + timedelta(days=1))
    assert (row["changed"], row["reason"]) == ({}, "")
    assert row["id"] != audit.row(officer(), "station.look", at=NOON)["id"]
