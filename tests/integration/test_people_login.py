"""Logging in and out as a browser does it, against the demo issuer and the running service."""

import base64
import hmac
import json
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl, quote, urlencode, urlsplit

import pytest
from bson import json_util
from joserfc import jwt
from joserfc.jwk import ECKey

from services.kernel import auth, clock, masterkeys, telemetry
from services.kernel.act import Act
from services.kernel.settings import Settings
from services.people import app, rules, tokens
from services.people.demo import NEWCOMER
from services.people.entry import SESSION_COOKIE
from services.people.handlers import grants, logins
from services.people.service import LOGIN_COOKIE, TOKEN_PATH
from tests.builders import officer
from tests.parts import World, until
from tests.people import API, Browser, People


@pytest.fixture(scope="module")
def people(shared_world: World) -> Iterator[People]:
    """The service with its demo persons."""
    with People(shared_world) as running:
        running.seed()
        yield running


def me(browser: Browser) -> dict[str, Any]:
    """Who the services take the browser's person for."""
    found: dict[str, Any] = browser.call("GET", f"{API}/me").json
    return found


def callback_of(browser: Browser, person: str, onward: str = "/people/sessions") -> str:
    """Chooses a person at the demo issuer; the address that it sends the browser back to, not yet followed."""
    page = browser.get("/people/login/demo?" + urlencode({"next": onward}))
    choice = next(link for link in page.links() if dict(parse_qsl(urlsplit(link).query)).get("person") == person)
    return str(browser.call("GET", choice).headers["Location"])


# Coming in


def test_a_known_person_logs_in_is_known_and_gets_where_one_was_going(people: People) -> None:
    browser = people.browser()
    asked = browser.call("GET", "/people/sessions?a=%E7%AB%99")
    assert asked.status == 303
    assert asked.headers["Location"] == "/people/login?next=" + quote("/people/sessions?a=%E7%AB%99", safe="")
    login = browser.get(asked.headers["Location"])
    there = browser.get(next(link for link in login.links() if "/people/login/demo" in link))
    reached = browser.get(next(link for link in there.links() if "person=demo-county-1" in link))
    assert (reached.status, urlsplit(reached.url).path, urlsplit(reached.url).query) == (
        200,
        "/people/sessions",
        "a=%E7%AB%99",
    )
    found = me(browser)
    assert (found["roles"], found["scope"]) == (["county_officer", "worker"], "370902")
    assert found["id"] in reached.text


def test_the_browser_holds_one_opaque_secret_that_no_script_reads_and_no_other_site_uses(people: People) -> None:
    browser = people.browser()
    answer = browser.call("GET", callback_of(browser, "demo-worker-1"))
    cookie = answer.headers["Set-Cookie"]
    name, _, rest = cookie.partition("=")
    secret, *attributes = rest.split("; ")
    assert name == SESSION_COOKIE == "__Host-session"
    assert {"Path=/", "Secure", "HttpOnly", "SameSite=Lax"} <= set(attributes)
    assert not any(attribute.startswith("Domain") for attribute in attributes)
    assert len(secret) == 43, "256 bits"


def test_each_login_is_a_session_of_its_own(people: People) -> None:
    one, other = people.logged_in("demo-parent-1"), people.logged_in("demo-parent-1")
    assert one.cookies[SESSION_COOKIE] != other.cookies[SESSION_COOKIE]
    assert me(one)["id"] == me(other)["id"]
    assert me(one)["session"] != me(other)["session"]


def test_a_first_login_agrees_to_the_terms_and_the_second_goes_straight(people: People) -> None:
    tap = people.world.tap("people")
    relay = people.world.process("relay", "people").start()
    browser = people.browser()
    form = browser.choose(NEWCOMER, "/people/logout")
    assert urlsplit(form.url).path == "/people/register"
    assert SESSION_COOKIE not in browser.cookies
    ticket = form.hidden("ticket")
    refused = browser.call("POST", "/people/register", form={"ticket": ticket, "parent": "yes", "county": ""})
    assert refused.status == 422
    assert refused.text.count('aria-invalid="true"') == 2, "county and terms"
    assert refused.hidden("ticket") == ticket
    before = clock.now()
    agreed = {"ticket": ticket, "parent": "yes", "county": "370982", "terms": "yes"}
    done = browser.call("POST", "/people/register", form=agreed)
    assert (done.status, done.headers["Location"]) == (303, "/people/logout")
    assert me(browser)["roles"] == ["parent", "worker"]
    account = people.database["accounts"].find_one({"_id": me(browser)["id"]})
    assert account is not None
    assert (account["county"], account["grants"]) == ("370982", [])
    assert account["terms"]["version"] == rules.TERMS
    assert account["terms"]["at"] >= before
    again = people.browser()
    assert again.choose(NEWCOMER).url.endswith("/people/sessions")
    assert me(again)["id"] == account["_id"]

    def registered() -> list[dict[str, Any]]:
        return [event for event in tap.drain() if event["subject"] == account["_id"]]

    (event,) = until(registered, "the registration is published")
    assert (event["type"], event["county"], event["data"]["by"]) == ("people.person_registered.v1", "370982", "self")
    relay.stop()


def test_a_form_sent_twice_makes_one_account(people: People) -> None:
    browser = people.browser()
    page = browser.get("/people/login/demo")
    choice = next(link for link in page.links() if NEWCOMER in link).replace(NEWCOMER, "demo-twice")
    ticket = browser.get(choice).hidden("ticket")
    agreed = {"ticket": ticket, "county": "370902", "terms": "yes"}
    for _time in range(2):
        assert browser.call("POST", "/people/register", form=agreed).status == 303
    ids = {browser.call("GET", f"{API}/me").json["id"] for _time in range(2)}
    assert len(ids) == 1
    browser.post("/people/logout")
    again = browser.call("POST", "/people/register", form=agreed)
    assert again.status in {403, 410}, "whoever sits down next and goes back logs in as nobody"
    assert SESSION_COOKIE not in browser.cookies


def test_a_registration_ends_with_the_login_it_made(people: People) -> None:
    browser = people.browser()
    page = browser.get("/people/login/demo")
    choice = next(link for link in page.links() if NEWCOMER in link).replace(NEWCOMER, "demo-leaves")
    agreed = {"ticket": browser.get(choice).hidden("ticket"), "county": "370902", "terms": "yes"}
    assert browser.call("POST", "/people/register", form=agreed).status == 303
    kept = dict(browser.cookies)
    browser.post("/people/sessions/revoke")
    browser.cookies = {name: value for name, value in kept.items() if name != SESSION_COOKIE}
    assert browser.call("POST", "/people/register", form=agreed).status == 410, "not even with the old cookie"


def test_an_officers_login_that_ran_out_stays_so_when_the_role_ends(people: People) -> None:
    account = people.account("370902", ("volunteer", "370902"))
    timed, ended = people.account("370902", ("volunteer", "370902")), people.account("370902")
    sessions, now = people.database["sessions"], clock.now()
    unused = {"$set": {"seen_at": now - timedelta(hours=2, seconds=5)}}
    over, other, private = (people.session(one) for one in (account, timed, ended))
    for session in (over, other, private):
        sessions.update_one({"_id": session}, unused)
    act = Act(officer(), now, telemetry.continued(None))
    grants.withdraw_role(people.store, act, account, "volunteer", "as planned")
    logins.close_run_out(people.store, act)
    states = {one["_id"]: one["state"] for one in sessions.find({"_id": {"$in": [over, other, private]}})}
    assert states == {over: "expired", other: "expired", private: "open"}


def test_logins_that_nobody_can_use_any_more_are_closed(people: People) -> None:
    account = people.account("370902")
    long_ago, unused, fresh = (people.session(account) for _time in range(3))
    sessions, now = people.database["sessions"], clock.now()
    sessions.update_one({"_id": long_ago}, {"$set": {"opened_at": now - timedelta(days=30, seconds=5)}})
    sessions.update_one({"_id": unused}, {"$set": {"seen_at": now - timedelta(days=7, seconds=5)}})
    act = Act(auth.system("sessions"), now, telemetry.continued(None))
    assert logins.close_run_out(people.store, act) >= 2
    states = {one["_id"]: (one["state"], one["digest"] is None) for one in sessions.find({"account": account})}
    assert states == {long_ago: ("expired", True), unused: ("expired", True), fresh: ("open", False)}
    closed: Any = sessions.find_one({"_id": unused})
    assert (closed["audit"][-1]["action"], closed["seq"]) == ("session.expire", 0), "recorded, and no event"
    assert logins.close_run_out(people.store, act) == 0
    assert logins.end_all_sessions(people.store, act, account, "over") == 1


# What is refused


def test_a_callback_is_good_once_and_in_the_browser_that_asked(people: People) -> None:
    browser = people.browser()
    address = callback_of(browser, "demo-worker-1")
    stranger = people.browser()
    assert stranger.call("GET", address).status == 400
    assert SESSION_COOKIE not in stranger.cookies
    callback_of(stranger, "demo-worker-2")
    assert stranger.call("GET", address).status == 400, "a cookie of its own is not the right one"
    assert browser.call("GET", address).status == 303
    assert browser.call("GET", address).status == 400


@pytest.mark.parametrize(
    "change",
    [
        {"state": "another"},
        {"state": None},
        {"code": "another"},
        {"code": None},
        {"code": None, "error": "access_denied"},
        {"iss": "https://evil.example"},
    ],
)
def test_a_callback_that_is_not_what_was_asked_for_is_refused(people: People, change: dict[str, str | None]) -> None:
    browser = people.browser()
    address = urlsplit(callback_of(browser, "demo-worker-1"))
    query: dict[str, str | None] = {**dict(parse_qsl(address.query)), **change}
    given = urlencode({name: value for name, value in query.items() if value is not None})
    answer = browser.call("GET", f"{address.path}?{given}")
    assert answer.status == 400
    assert "text/html" in answer.headers["Content-Type"]
    assert SESSION_COOKIE not in browser.cookies


def test_a_login_that_took_too_long_is_refused(people: People) -> None:
    browser = people.browser()
    address = callback_of(browser, "demo-worker-1")
    late = clock.now() - timedelta(minutes=rules.LOGIN_MINUTES, seconds=1)
    people.database["login_steps"].update_many({"kind": "login"}, {"$set": {"at": late}})
    assert browser.call("GET", address).status == 400
    ticket = browser.get("/people/register?ticket=unknown")
    assert ticket.status == 410


def test_a_login_leads_to_places_on_this_site_only(people: People) -> None:
    browser = people.browser()
    for evil in ("https://evil.example/", "//evil.example/", "/\\evil.example"):
        assert browser.call("GET", callback_of(browser, "demo-worker-1", evil)).headers["Location"] == "/"


def test_the_demo_issuer_sends_codes_nowhere_else(people: People) -> None:
    browser = people.browser()
    there = urlsplit(browser.call("GET", "/people/login/demo").headers["Location"])
    query = {**dict(parse_qsl(there.query)), "person": "demo-city"}
    for change in ({"redirect_uri": "https://evil.example/"}, {"client_id": "x"}, {"code_challenge_method": "plain"}):
        assert browser.call("GET", f"{there.path}?{urlencode({**query, **change})}").status == 400


def test_a_demo_code_is_for_who_began_once_and_for_a_minute(people: People) -> None:
    browser = people.browser()
    code = dict(parse_qsl(urlsplit(callback_of(browser, "demo-city")).query))["code"]
    form = {
        "grant_type": "authorization_code",
        "code": code,
        "code_verifier": "guessed" * 8,
        "client_id": "estation",
        "redirect_uri": f"{people.origin}/people/callback/demo",
    }
    for _time in range(2):
        answer = people.browser().call("POST", "/people/demo-issuer/token", form=form)
        assert (answer.status, answer.json) == (400, {"error": "invalid_grant"})


def test_an_unknown_provider_is_not_there(people: People) -> None:
    assert people.browser().call("GET", "/people/login/nobody").status == 404
    assert people.browser().call("GET", "/people/callback/nobody?code=a&state=b").status == 404


def test_logging_in_over_and_over_is_slowed_down(people: People) -> None:
    browser = people.browser()
    most = app.LOGINS_PER_ACCOUNT.amount
    answers = [browser.call("GET", callback_of(browser, "demo-finance")).status for _login in range(most + 1)]
    assert answers == [303] * most + [429]
    assert browser.call("GET", callback_of(browser, "demo-ops")).status == 303, "others are not"


# Going out


def test_a_logout_ends_the_login_at_once_and_takes_the_cookie(people: People) -> None:
    browser = people.logged_in("demo-parent-2")
    token, secret = browser.token(), browser.cookies[SESSION_COOKIE]
    assert token is not None
    assert browser.post("/people/logout").status in {200, 404}  # the start page is another service's
    assert SESSION_COOKIE not in browser.cookies
    assert browser.token(secret) is None
    refused = browser.call("GET", f"{API}/me", headers={"Authorization": token, "Accept": "application/json"})
    assert (refused.status, refused.code) == (401, "unauthenticated")


def test_all_logins_are_ended_from_any_of_them(people: People) -> None:
    one, other = people.logged_in("demo-volunteer"), people.logged_in("demo-volunteer")
    bystander = people.logged_in("demo-staff")
    one.post("/people/sessions/revoke")
    assert other.token() is None
    assert bystander.token() is not None


def test_one_of_several_logins_is_ended_from_another(people: People) -> None:
    one, other = people.logged_in("demo-unit"), people.logged_in("demo-unit")
    session = me(other)["session"]
    page = one.post(f"/people/sessions/{session}/revoke")
    assert page.status == 200
    assert session not in page.text
    assert other.token() is None
    assert one.token() is not None


def test_somebody_elses_login_is_not_there(people: People) -> None:
    one, other = people.logged_in("demo-worker-1"), people.logged_in("demo-worker-2")
    session = me(other)["session"]
    csrf = one.get("/people/sessions").hidden("csrf")
    page = one.call("POST", f"/people/sessions/{session}/revoke", form={"csrf": csrf})
    api = one.call("POST", f"{API}/sessions/{session}/revoke", headers={"Origin": one.origin, "X-CSRF-Token": csrf})
    assert (page.status, api.status) == (404, 404)
    assert other.token() is not None


@pytest.mark.parametrize("field", ["opened_at", "seen_at"])
def test_a_login_ends_by_itself(people: People, field: str) -> None:
    browser = people.logged_in("demo-county-2")
    long_ago = clock.now() - timedelta(hours=13)
    people.database["sessions"].update_one({"_id": me(browser)["session"]}, {"$set": {field: long_ago}})
    assert browser.token() is None
    answer = browser.call("GET", "/people/sessions")
    assert (answer.status, answer.headers["Location"]) == (303, "/people/login?next=%2Fpeople%2Fsessions")


def test_a_use_is_noted_so_that_a_login_in_use_goes_on(people: People) -> None:
    browser = people.logged_in("demo-county-2")
    session = me(browser)["session"]
    earlier = clock.now() - timedelta(hours=1)
    people.database["sessions"].update_one({"_id": session}, {"$set": {"seen_at": earlier}})
    assert browser.token() is not None
    kept = people.database["sessions"].find_one({"_id": session})
    assert kept is not None
    assert kept["seen_at"] > earlier + timedelta(minutes=59)


# Forms


def test_a_form_that_stood_open_while_its_person_logged_in_again_still_sends(people: People) -> None:
    browser = people.logged_in("demo-parent-1")
    open_form = browser.get("/people/logout").hidden("csrf")
    browser.post("/people/sessions/revoke")
    assert browser.call("POST", "/people/logout", form={"csrf": open_form}).status == 401
    browser.choose("demo-parent-1")
    assert browser.call("POST", "/people/logout", form={"csrf": open_form}).status == 303


@pytest.mark.parametrize("path", ["/people/logout", "/people/sessions/revoke"])
def test_another_site_cannot_use_a_login(people: People, path: str) -> None:
    browser, other = people.logged_in("demo-worker-1"), people.logged_in("demo-worker-2")
    csrf = browser.get("/people/sessions").hidden("csrf")
    foreign = other.get("/people/sessions").hidden("csrf")
    assert csrf != foreign
    attacks: list[tuple[dict[str, str], str | None]] = [
        ({"csrf": csrf}, "https://evil.example"),
        ({"csrf": csrf}, "null"),
        ({"csrf": csrf}, None),
        ({"csrf": foreign}, browser.origin),
        ({}, browser.origin),
    ]
    for form, origin in attacks:
        refused = browser.call("POST", path, form=form, headers={"Origin": origin})
        assert refused.status == 403
        assert "<code>403 csrf</code>" in refused.text, "a page, as the form was"
    assert browser.token() is not None


def test_an_api_call_with_a_browsers_login_needs_the_accounts_token_too(people: People) -> None:
    browser = people.logged_in("demo-worker-1")
    path = f"{API}/sessions/{me(browser)['session']}/revoke"
    refused = browser.call("POST", path, headers={"Origin": browser.origin, "Accept": "application/json"})
    assert (refused.status, refused.code) == (403, "csrf")
    csrf = browser.get("/people/sessions").hidden("csrf")
    assert browser.call("POST", path, headers={"Origin": browser.origin, "X-CSRF-Token": csrf}).status == 200


# What is kept


def test_nothing_that_is_kept_logs_anybody_in_or_says_who_it_is(people: People) -> None:
    browser = people.logged_in("demo-worker-1")
    token = browser.token()
    assert token is not None
    kept = "".join(
        json_util.dumps(document)
        for name in people.database.list_collection_names()
        for document in people.database[name].find()
        if document.get("kind") != "demo code"
    )
    said = people.process.log.read_text()
    for secret in (browser.cookies[SESSION_COOKIE], browser.cookies[LOGIN_COOKIE], token, "demo-worker-1"):
        assert secret not in kept
        assert secret not in said


def test_every_login_and_its_end_is_in_the_audit_trail(people: People) -> None:
    browser = people.logged_in("demo-worker-2")
    account, session = me(browser)["id"], me(browser)["session"]
    browser.post("/people/logout")
    kept = people.database["sessions"].find_one({"_id": session})
    assert kept is not None
    assert [(row["actor"], row["action"], row["reason"]) for row in kept["audit"]] == [
        (account, "session.open", ""),
        (account, "session.revoke", "logout"),
    ]
    assert kept["digest"] is None


# Tokens


def b64(value: object) -> str:
    """A segment of a token."""
    return base64.urlsafe_b64encode(json.dumps(value).encode()).rstrip(b"=").decode()


class Forger:
    """Has the public key and, where a test wants it, the private one, too."""

    def __init__(self, world: World) -> None:
        self.key = ECKey.import_key(json.loads((world.issuer / "issuer.json").read_text()))
        self.settings = Settings()

    def claims(self, **changes: Any) -> dict[str, Any]:
        """Those of a city officer."""
        now = int(time.time())
        return {
            "iss": self.settings.token_issuer,
            "aud": self.settings.token_audience,
            "sub": "x",
            "roles": ["city_officer"],
            "scope": "370900",
            "iat": now,
            "exp": now + 60,
            **changes,
        }

    def signed(self, key: Any = None, **changes: Any) -> str:
        """A token."""
        signer = key or self.key
        return jwt.encode({"alg": "ES256", "kid": signer.kid}, self.claims(**changes), signer)

    def unsigned(self) -> str:
        """The algorithm none."""
        return f"{b64({'alg': 'none', 'kid': self.key.kid})}.{b64(self.claims())}."

    def confused(self) -> str:
        """HS256 with the public key as the shared secret."""
        text = f"{b64({'alg': 'HS256', 'kid': self.key.kid})}.{b64(self.claims())}"
        signature = hmac.digest(self.key.as_pem(private=False), text.encode(), "sha256")
        return f"{text}.{base64.urlsafe_b64encode(signature).rstrip(b'=').decode()}"


FORGED: dict[str, Callable[[Forger], str]] = {
    "alg none": Forger.unsigned,
    "key confusion": Forger.confused,
    "wrong audience": lambda forger: forger.signed(aud="another"),
    "expired": lambda forger: forger.signed(exp=int(time.time()) - 1),
    "foreign issuer": lambda forger: forger.signed(iss="https://evil.example"),
    "unknown key": lambda forger: forger.signed(ECKey.generate_key("P-256", {"kid": "k"}, private=True)),
    "login that is not there": lambda forger: forger.signed(sid="0190a0a0-0000-7000-8000-000000000000"),
}


@pytest.mark.parametrize("case", FORGED)
def test_a_forged_token_is_answered_401(people: People, case: str) -> None:
    forger = Forger(people.world)
    assert people.api("GET", "/accounts", token=forger.signed()).status == 200
    refused = people.api("GET", "/accounts", token=FORGED[case](forger))
    assert (refused.status, refused.code) == (401, "unauthenticated")
    assert refused.headers["WWW-Authenticate"].startswith("Bearer")


def test_a_cookie_that_is_not_known_is_nobody(people: People) -> None:
    browser = people.browser()
    for secret in ("", "x", "x" * 43, "x" * 5000, '{"$ne":1}'):
        assert browser.token(secret) is None
    assert browser.call("GET", TOKEN_PATH).headers.get("Authorization") is None


# The real thing


def test_production_has_no_demo_issuer_and_no_demo_keys(world: World, tmp_path: Path) -> None:
    masterkeys.create_key_file(tmp_path / "keys/people.json", demo=False, federation=True)
    (tmp_path / "erasures").mkdir()
    (tmp_path / "erasures/people.jsonl").touch()
    signing = tmp_path / "signing.json"
    key = tokens.new_key()
    signing.write_text(json.dumps({"current": key["kid"], "keys": [key]}))
    signing.chmod(0o600)
    (tmp_path / "jwks.json").write_text(json.dumps(tokens.SigningKeys(signing, production=True).public()))
    real = {
        "ESTATION_MODE": "production",
        "ESTATION_TOKEN_ISSUER": "https://e.example",
        "ESTATION_TOKEN_AUDIENCE": "estation",
        "ESTATION_ORIGIN": "https://e.example",
        "ESTATION_JWKS": str(tmp_path / "jwks.json"),
        "ESTATION_SIGNING_KEYS": str(signing),
        "ESTATION_KEYS": str(tmp_path / "keys"),
        "ESTATION_ERASURES": str(tmp_path / "erasures"),
    }
    for wrong, named in (
        ({"ESTATION_DEMO_ISSUER": "on"}, "ESTATION_DEMO_ISSUER"),
        ({"ESTATION_SIGNING_KEYS": str(world.issuer / "issuer.json")}, "ESTATION_SIGNING_KEYS"),
    ):
        refused = world.process("service", "people", **{**real, **wrong}).start(ready=False)
        assert refused.popen is not None
        assert refused.popen.wait(30) == 1
        assert f"{named}: " in refused.log.read_text()
    process = world.process("service", "people", **real).start()
    browser = Browser(f"http://127.0.0.1:{process.http_port}")
    for path in ("authorize", ".well-known/openid-configuration", "jwks.json"):
        assert browser.call("GET", f"/people/demo-issuer/{path}").status == 404
    assert browser.call("POST", "/people/demo-issuer/token", form={}).status == 404
    assert browser.call("POST", f"{API}/demo-accounts").status == 404
    assert browser.call("GET", "/people/login/demo").status == 404
    assert browser.call("GET", "/people/login").status == 200
    assert auth.DEMO_KEY_PREFIX not in browser.call("GET", f"{API}/jwks.json").text
