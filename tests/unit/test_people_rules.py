"""How long a login lives, which roles go together, and where a login leads."""

from datetime import timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.kernel.web import local_path
from services.people import rules
from tests.builders import NOON


def account(*grants: tuple[str, str], declared: tuple[str, ...] = ("worker",)) -> dict[str, Any]:
    """An account with roles over districts."""
    return {"declared": list(declared), "grants": [{"role": role, "scope": scope} for role, scope in grants]}


def session(**changes: Any) -> dict[str, Any]:
    """A session that was opened and used at noon."""
    return {"state": rules.OPEN, "opened_at": NOON, "seen_at": NOON, **changes}


@pytest.mark.parametrize(
    ("held", "unused", "longest"),
    [
        (["worker"], timedelta(days=7), timedelta(days=30)),
        (["worker", "parent"], timedelta(days=7), timedelta(days=30)),
        (["worker", "volunteer"], timedelta(hours=2), timedelta(hours=12)),
        (["worker", "city_officer"], timedelta(hours=2), timedelta(hours=12)),
    ],
)
def test_a_session_ends_unused_and_at_last(held: list[str], unused: timedelta, longest: timedelta) -> None:
    moment = timedelta(milliseconds=1)
    assert rules.lives(session(), held, NOON + unused - moment)
    assert not rules.lives(session(), held, NOON + unused)
    used = session(seen_at=NOON + longest - moment)
    assert rules.lives(used, held, NOON + longest - moment)
    assert not rules.lives(used, held, NOON + longest)


def test_a_session_that_was_ended_is_over() -> None:
    assert not rules.lives(session(state=rules.REVOKED), ["worker"], NOON)


def test_an_account_is_what_it_declared_and_was_granted_over_one_district() -> None:
    officer = account(("volunteer", "370902"), ("station_staff", "370902"), declared=("worker", "parent"))
    assert rules.held(officer) == ["parent", "station_staff", "volunteer", "worker"]
    assert rules.scope(officer) == "370902"
    assert rules.scope(account()) == "", "who was granted nothing reaches no district"


def test_a_second_district_and_a_second_time_are_refused() -> None:
    staff = account(("station_staff", "370902"))
    assert rules.decide_grant(staff, "station_staff", "370902") == "already_granted"
    assert rules.decide_grant(staff, "volunteer", "370982") == "other_district"
    assert rules.decide_grant(staff, "volunteer", "370902") is None
    assert rules.decide_grant(account(), "volunteer", "370982") is None


def test_an_officer_ends_logins_of_whom_the_officer_could_have_made() -> None:
    assert rules.may_manage(["county_officer"], "370902", [])
    assert rules.may_manage(["county_officer"], "370902", account(("station_staff", "370902"))["grants"])
    assert not rules.may_manage(["county_officer"], "370902", account(("city_officer", "370900"))["grants"])
    assert not rules.may_manage(["county_officer"], "370902", account(("station_staff", "370982"))["grants"])


@pytest.mark.parametrize("path", ["/", "/people/sessions", "/a?b=c&d=%E6#e", "/api/v1/x"])
def test_a_login_leads_to_where_one_was_going(path: str) -> None:
    assert rules.own_path(path) == path


@pytest.mark.parametrize(
    "path",
    [
        "",
        "https://evil.example",
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/a\\..\\b",
        " /",
        "/\t/evil.example",
        "/a\r\nSet-Cookie: x=1",
        "/泰安",
        "javascript:alert(1)",
        "evil",
        "/<b>",
    ],
)
def test_a_login_leads_nowhere_else(path: str) -> None:
    assert rules.own_path(path) == "/"


@given(st.text(max_size=30))
def test_wherever_a_login_leads_is_a_place_on_this_site(text: str) -> None:
    path = rules.own_path(text)
    assert path.startswith("/")
    assert not path.startswith("//")
    assert local_path(path).startswith("/")


def test_a_consent_to_an_older_text_is_none_and_ends_with_the_next_one() -> None:
    now = NOON
    old = [{"purpose": rules.SMS, "version": "2025-01", "at": now, "by": rules.ONESELF, "until": None}]
    assert not rules.agreed({"consents": old}, rules.SMS)
    both = rules.with_consent(old, rules.SMS, now, rules.ONESELF)
    assert [(one["version"], one["until"]) for one in both] == [("2025-01", now), (rules.PURPOSES[rules.SMS], None)]
    assert rules.agreed({"consents": both}, rules.SMS)
    assert rules.with_consent(both, rules.SMS, now, rules.ONESELF) == both


def test_what_law_keeps_is_kept_until_its_last_day() -> None:
    ours, theirs = [{"what": "audit_trail"}], [{"what": "grants_paid", "until": "2035-07-31"}, {"what": "audit_trail"}]
    both = [{"what": "audit_trail"}, {"what": "grants_paid", "until": "2035-07-31"}]
    assert rules.held_longest(ours, theirs) == both
    assert rules.held_longest(both, [{"what": "grants_paid", "until": "2031-01-01"}]) == both
    assert rules.held_longest(both, [{"what": "grants_paid", "until": "2040-01-01"}])[1]["until"] == "2040-01-01"
    assert rules.held_longest(both, [{"what": "grants_paid"}])[1] == {"what": "grants_paid"}, "one without an end"
