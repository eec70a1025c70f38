"""Roles: granted at or below the own district, never to oneself, seen in the next token, and audited."""

import subprocess
import sys
from collections.abc import Iterator
from datetime import date
from typing import Any

import pytest

from tests.builders import id_number
from tests.parts import PROJECT, World, outside
from tests.people import API, Browser, People, Reply

REASON = {"reason": "as decided"}


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    """The service with its demo persons."""
    with People(shared_world) as running:
        running.seed()
        yield running


class Officer:
    """A demo person's browser that calls the API as our pages' scripts do."""

    def __init__(self, people: People, person: str) -> None:
        self.browser: Browser = people.logged_in(person)
        self.id: str = self.call("GET", "/me").json["id"]
        self._csrf = self.browser.get("/people/sessions").hidden("csrf")

    def call(self, method: str, path: str, body: object = None) -> Reply:
        """One call."""
        headers = {"Accept": "application/json", "Origin": self.browser.origin}
        csrf = getattr(self, "_csrf", None)
        return self.browser.call(
            method, API + path, body=body, headers={**headers, **({"X-CSRF-Token": csrf} if csrf else {})}
        )

    def grant(self, account: str, role: str, scope: str) -> Reply:
        """Grants a role."""
        return self.call("POST", f"/accounts/{account}/grants", {"role": role, "scope": scope, **REASON})

    def withdraw(self, account: str, role: str) -> Reply:
        """Ends a role."""
        return self.call("POST", f"/accounts/{account}/grants/{role}/withdraw", REASON)


@pytest.fixture(scope="module")
def county(people: People) -> Officer:
    """The county officer of 370902."""
    return Officer(people, "demo-county-1")


@pytest.fixture(scope="module")
def city(people: People) -> Officer:
    """The city officer."""
    return Officer(people, "demo-city")


def account_of(people: People, person: str) -> str:
    """The account of a demo person."""
    return str(people.logged_in(person).call("GET", f"{API}/me").json["id"])


def test_a_granted_role_is_in_the_next_token_and_gone_after_it_is_ended(people: People, county: Officer) -> None:
    worker = people.logged_in("demo-worker-1")
    account = worker.call("GET", f"{API}/me").json["id"]
    granted = county.grant(account, "station_staff", "370902-js")
    assert granted.status == 200, granted.raw
    assert [(one["role"], one["scope"]) for one in granted.json["grants"]] == [("station_staff", "370902-js")]
    me = worker.call("GET", f"{API}/me").json
    assert (me["roles"], me["scope"]) == (["station_staff", "worker"], "370902-js")
    assert county.grant(account, "station_staff", "370902-js").code == "already_granted"
    assert county.grant(account, "volunteer", "370902").code == "other_district"
    assert county.withdraw(account, "station_staff").status == 200
    assert county.withdraw(account, "station_staff").code == "not_granted"
    me = worker.call("GET", f"{API}/me").json
    assert (me["roles"], me["scope"]) == (["worker"], "")


def test_every_grant_is_audited_with_who_when_why_before_and_after(people: People, county: Officer) -> None:
    account = account_of(people, "demo-parent-1")
    county.grant(account, "volunteer", "370902")
    county.withdraw(account, "volunteer")
    kept: Any = people.database["accounts"].find_one({"_id": account})
    granted, ended = kept["audit"][-2:]
    assert (granted["actor"], granted["action"], granted["reason"]) == (county.id, "account.grant", "as decided")
    assert granted["changed"] == {"grants": [[], ["volunteer 370902"]]}
    assert (ended["action"], ended["changed"]) == ("account.withdraw", {"grants": [["volunteer 370902"], []]})


def test_nobody_makes_oneself_more(city: Officer, county: Officer) -> None:
    for officer, role, scope in ((city, "ops", "370900"), (county, "volunteer", "370902")):
        assert officer.grant(officer.id, role, scope).code == "not_to_oneself"
    assert city.withdraw(city.id, "city_officer").code == "not_to_oneself"


@pytest.mark.parametrize(
    ("role", "scope", "status"),
    [
        ("county_officer", "370902", 200),
        ("station_staff", "370982", 403),
        ("city_officer", "370900", 403),
        ("finance", "370902", 403),
        ("ops", "370900", 403),
        ("county_officer", "370900", 422),
        ("ops", "370902", 422),
        ("worker", "370902", 422),
        ("device", "370902", 422),
        ("station_staff", "370999", 422),
    ],
)
def test_a_county_officer_grants_at_or_below_the_own_district(
    people: People, county: Officer, role: str, scope: str, status: int
) -> None:
    account = account_of(people, "demo-worker-1")
    answer = county.grant(account, role, scope)
    assert answer.status == status, answer.raw
    if status == 200:
        assert county.withdraw(account, role).status == 200


def test_a_county_officer_ends_no_role_of_the_city(people: People, county: Officer) -> None:
    assert county.withdraw(account_of(people, "demo-city"), "city_officer").status == 403
    assert county.call("POST", f"/accounts/{account_of(people, 'demo-city')}/sign-out", REASON).status == 403


def test_an_account_of_another_district_is_not_there(people: People, county: Officer) -> None:
    account = account_of(people, "demo-worker-2")
    assert county.call("GET", f"/accounts/{account}").status == 404
    assert county.grant(account, "volunteer", "370902").status == 404
    assert county.withdraw(account, "volunteer").status == 404
    assert county.call("POST", f"/accounts/{account}/sign-out", REASON).status == 404
    listed = county.call("GET", "/accounts?limit=200").json["items"]
    assert {one["county"] for one in listed} == {"370902"}
    assert account not in {one["id"] for one in listed}
    assert county.call("GET", "/accounts?county=370982").json["items"] == []


def test_an_officer_ends_all_logins_of_somebody_in_the_district(people: People, county: Officer) -> None:
    lost, kept = people.logged_in("demo-staff"), people.logged_in("demo-volunteer")
    account = lost.call("GET", f"{API}/me").json["id"]
    answer = county.call("POST", f"/accounts/{account}/sign-out", {"reason": "the phone was lost"})
    assert answer.status == 200
    assert answer.json["ended"] >= 1
    assert lost.token() is None
    assert kept.token() is not None
    row: Any = people.database["sessions"].find_one({"account": account}, sort=[("_id", -1)])
    assert (row["audit"][-1]["actor"], row["audit"][-1]["reason"]) == (county.id, "the phone was lost")


def test_an_operator_appoints_the_first_officers(people: People) -> None:
    account = people.account("370911")
    environ = {**outside(), **people.world.environ("people")}
    command = [sys.executable, "-m", "deploy.cli", "appoint", account, "city_officer", "370900", "--reason", "founding"]
    for status in (0, 1):
        done = subprocess.run(command, cwd=PROJECT, env=environ, capture_output=True, text=True)
        assert done.returncode == status, done.stderr
    assert "already_granted" in done.stderr
    kept: Any = people.database["accounts"].find_one({"_id": account})
    assert [(grant["role"], grant["scope"]) for grant in kept["grants"]] == [("city_officer", "370900")]
    assert kept["audit"][-1]["actor"].startswith("cli:")


def test_accounts_are_found_by_role_and_page_by_page(people: People, city: Officer) -> None:
    officers = city.call("GET", "/accounts?role=county_officer").json["items"]
    assert len(officers) == 2
    seen: list[str] = []
    cursor: str | None = ""
    while cursor is not None:
        page = city.call("GET", f"/accounts?limit=5&cursor={cursor}").json
        seen += [one["id"] for one in page["items"]]
        cursor = page["next"]
    assert len(seen) == len(set(seen)) == people.database["accounts"].count_documents({})


def test_an_account_shows_nothing_of_how_its_person_logs_in(people: People, city: Officer) -> None:
    shown = city.call("GET", f"/accounts/{city.id}")
    assert set(shown.json) == {"id", "county", "declared", "grants", "rev"}
    kept: Any = people.database["accounts"].find_one({"_id": city.id})
    assert kept["logins"][0] not in shown.text


def test_an_officer_grants_and_ends_roles_on_pages(people: People, county: Officer) -> None:
    account, page = account_of(people, "demo-volunteer"), "/people/accounts"
    listed = county.browser.get(page + "?role=volunteer&county=")
    assert account in listed.text
    assert account_of(people, "demo-county-2") not in county.browser.get(page).text, "of another district"
    own = f"{page}/{account}"
    shown = county.browser.get(own)
    assert "志愿者" in shown.text
    assert "市总工会经办人" not in shown.text, "a county grants no role of the city"
    refused = county.browser.post(f"{own}/grants", {"role": "volunteer", "scope": "370902", "reason": "as planned"})
    assert (refused.status, "此人已有该角色。" in refused.text) == (409, True)
    unnamed = county.browser.post(
        f"{own}/grants", {"role": "station_staff", "scope": "370902", "reason": "张三 13800000000"}
    )
    assert unnamed.status == 422, "a reason names nobody"
    granted = county.browser.post(f"{own}/grants", {"role": "station_staff", "scope": "370902", "reason": "as planned"})
    assert (granted.status, granted.url.endswith(own)) == (200, True)
    assert "驿站工作人员" in granted.text
    ending = f"{own}/grants/station_staff/withdraw"
    assert "驿站工作人员" in county.browser.get(ending).text
    assert county.browser.post(ending, {"reason": ""}).status == 422
    ended = county.browser.post(ending, {"reason": "as planned"})
    assert ended.url.endswith(own)
    assert f'href="{ending}"' not in ended.text
    assert county.call("GET", f"/accounts/{account}").json["grants"][0]["role"] == "volunteer"


def test_no_page_of_an_account_shows_or_changes_what_is_elsewhere(people: People, county: Officer) -> None:
    elsewhere, own = account_of(people, "demo-county-2"), f"/people/accounts/{county.id}"
    for path in ("", "/sign-out", "/grants/county_officer/withdraw"):
        assert county.browser.get(f"/people/accounts/{elsewhere}{path}").status == 404
    asked = {"role": "volunteer", "scope": "370902", "reason": "as planned"}
    assert county.browser.post(f"/people/accounts/{elsewhere}/grants", asked).status == 404
    for path in ("/sign-out", "/grants/county_officer/withdraw"):
        assert county.browser.post(f"/people/accounts/{elsewhere}{path}", {"reason": "as planned"}).status == 404
    assert county.browser.post(f"{own}/grants", asked).status == 403, "to oneself"
    assert people.logged_in("demo-volunteer").get("/people/accounts").status == 403


def test_an_officer_ends_somebodys_logins_on_a_page(people: People, county: Officer) -> None:
    staff = people.logged_in("demo-staff")
    account = staff.call("GET", f"{API}/me").json["id"]
    ending = f"/people/accounts/{account}/sign-out"
    assert county.browser.get(ending).status == 200
    assert county.browser.post(ending, {"reason": "device lost"}).url.endswith(account)
    assert staff.token() is None


def test_no_page_acts_on_what_is_somebody_elses(people: People, county: Officer) -> None:
    elsewhere = people.account("370982")
    people.identify(elsewhere, "王小明", id_number(801))
    rev = people.store.person(elsewhere)["rev"]  # type: ignore[index]
    asked = {"rev": str(rev), "reason": "card shown"}
    for action in ("verify", "release"):
        assert county.browser.post(f"/people/desk/{elsewhere}/{action}", asked).status == 404
    kept: Any = people.store.person(elsewhere)
    assert (kept["rev"], kept["verified_at"]) == (rev, None)
    child = people.child(elsewhere, "王小妹", id_number(802, date(2018, 6, 1)))
    assert county.browser.post(f"/people/children/{child}/remove").status == 200, "as if it had been taken out before"
    assert [one["_id"] for one in people.store.children(elsewhere)] == [child]
    session = people.session(elsewhere)
    assert county.browser.post(f"/people/sessions/{session}/revoke").status == 404
    assert [one["_id"] for one in people.store.open_sessions(elsewhere)] == [session]


def test_what_was_agreed_to_can_be_ended_also_without_a_number(people: People, county: Officer) -> None:
    worker = Officer(people, "demo-worker-1")
    body = {"name": "王小明", "id_number": id_number(803), "phone": "13805480001", "consent": True}
    kept = worker.call("PUT", "/me/person", body)
    assert kept.status == 200, kept.raw
    asked = {"rev": str(kept.json["rev"]), "reason": "another has the card"}
    released = county.browser.post(f"/people/desk/{worker.id}/release", asked)
    assert released.status == 200
    assert "None" not in released.text
    page = worker.browser.get("/people/person").text
    assert "短信通知" in page
    assert "撤回并删除这些信息" in page
