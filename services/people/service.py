"""The people service's table of contents: every address, who may call it, which use case answers."""

from datetime import timedelta
from typing import Any, Final
from urllib.parse import quote, urlencode

from contracts.codes import UNITS
from contracts.envelope import Event
from contracts.events import childcare, stations
from contracts.roles import EVERYBODY, ROLES
from services.kernel import auth, body, openapi, telemetry, web
from services.kernel.act import Act
from services.kernel.consumer import on
from services.kernel.host import run_service
from services.kernel.http import HTML, LOGIN_PATH, Answer, AppProvider, Call, endpoint, found
from services.kernel.mongo import Document, connect_documents
from services.kernel.process import await_database
from services.kernel.settings import Settings
from services.kernel.timers import every
from services.people import demo, rules, schemas
from services.people.accounts import Accounts
from services.people.app import People
from services.people.desk import Desk
from services.people.entry import BASE, ID, SESSION_COOKIE, act, choices, cookie, see_other
from services.people.handlers import erasure, logins, notices
from services.people.me import Me
from services.people.models import ALIAS

KEY: Final = "<string(maxlength=31):key>"
LOGIN_COOKIE: Final = "__Host-login"
TOKEN_PATH: Final = "/internal/people/token"
"""For the edge alone, which lets nobody else come here."""
_SECRET_LENGTHS: Final = (40, 100)


def browser_of(call: Call) -> str:
    """The secret that binds a login to the browser that began it; empty where there is none."""
    given = call.cookies.get(LOGIN_COOKIE, "")
    return given if _SECRET_LENGTHS[0] <= len(given) <= _SECRET_LENGTHS[1] else ""


def sessions_of(call: Call) -> list[Document]:
    """The caller's own logins that are still good."""
    account = call.app.store.own_account(call.caller.id)
    sessions = logins.own_live_sessions(call.app.store, account, call.now)
    return [{**one, "current": one["_id"] == call.caller.session} for one in sessions]


def logged_in(call: Call, account: Document, provider: str, onward: str, *, known: bool) -> Answer:
    """Opens a session in this browser, tells the person so, and goes on."""
    secret = logins.open_session(call.app.store, account, provider, call.now, call.trace)
    notices.tell(call.app.store, account, "new_login" if known else "welcome", call.now, call.trace)
    longest, _unused = rules.span(rules.held(account))
    return see_other(onward, cookie(SESSION_COOKIE, secret, int(longest.total_seconds())))


def registration_form(call: Call, ticket: str, status: int = 200) -> Answer:
    """The terms and what a new account needs to know."""
    values = {**call.typed, "ticket": ticket}
    return web.page(
        call,
        "register.html",
        status=status,
        form=web.form(call, values, call.invalid),
        ticket=ticket,
        terms=rules.TERMS,
        counties=choices(call, UNITS, UNITS),
    )


class PeopleService(Me, Accounts, Desk):
    """Logins and sessions; oneself (me.py), others' accounts and roles (accounts.py), others at a desk (desk.py)."""

    name = "people"
    app: Any = AppProvider()

    # Logging in

    @endpoint("GET", LOGIN_PATH, "Log in", query=schemas.LoginQuery, answers={200: None}, media_type=HTML)
    def get_login(self, call: Call) -> Answer:
        onward = rules.own_path(call.query["next"])
        return web.page(call, "login.html", providers=list(call.app.providers.values()), next=quote(onward, safe=""))

    @endpoint(
        "GET",
        f"{LOGIN_PATH}/{KEY}",
        "Go to a provider to log in",
        query=schemas.LoginQuery,
        answers={303: None},
        media_type=HTML,
    )
    def get_login_at(self, call: Call) -> Answer:
        call.app.throttle_start(call.address)
        provider = call.app.provider(call.path["key"])
        browser = browser_of(call) or auth.new_secret()
        address = logins.begin_login(
            call.app.store, provider, call.app.callback(provider.key), browser, call.query["next"], call.now
        )
        return see_other(address, cookie(LOGIN_COOKIE, browser, 2 * rules.LOGIN_MINUTES * 60))

    @endpoint(
        "GET",
        f"/people/callback/{KEY}",
        "Come back from a provider",
        query=schemas.CallbackQuery,
        answers={303: None},
        media_type=HTML,
    )
    def get_callback(self, call: Call) -> Answer:
        app = call.app
        app.throttle_start(call.address)
        provider, browser = app.provider(call.path["key"]), browser_of(call)
        callback = app.callback(provider.key)
        returned = logins.complete_login(app.store, provider, callback, browser, call.query, call.now)
        login = app.login(returned.issuer, returned.subject)
        app.throttle_account(login)
        account = app.store.account_by_login(login)
        if account is not None:
            return logged_in(call, account, provider.key, returned.next, known=True)
        ticket = logins.begin_registration(app.store, login, provider.key, returned.next, browser, call.now)
        return see_other("/people/register?" + urlencode({"ticket": ticket}))

    @endpoint(
        "GET",
        "/people/register",
        "The terms, at a first login",
        query=schemas.TicketQuery,
        answers={200: None},
        media_type=HTML,
    )
    def get_register(self, call: Call) -> Answer:
        logins.registration(call.app.store, call.query["ticket"], browser_of(call), call.now)
        return registration_form(call, call.query["ticket"])

    @endpoint(
        "POST",
        "/people/register",
        "Agree to the terms and have an account",
        body=schemas.RegistrationIn,
        form=True,
        answers={303: None},
        media_type=HTML,
    )
    def post_register(self, call: Call) -> Answer:
        ticket = call.typed.get("ticket", "")
        step = logins.registration(call.app.store, ticket, browser_of(call), call.now)
        if call.invalid is not None:
            return registration_form(call, ticket, call.invalid.status)
        account = logins.register(call.app.store, step, call.body, call.now, call.trace)
        return logged_in(call, account, step["provider"], step["next"], known=False)

    @endpoint("GET", "/people/logout", "Log out?", answers={200: None}, roles=EVERYBODY, media_type=HTML)
    def get_logout(self, call: Call) -> Answer:
        return web.page(call, "logout.html", form=web.form(call))

    @endpoint(
        "POST",
        "/people/logout",
        "Log out",
        body=schemas.NothingIn,
        form=True,
        answers={303: None},
        roles=EVERYBODY,
        media_type=HTML,
    )
    def post_logout(self, call: Call) -> Answer:
        if call.caller.session:
            logins.end_own_session(call.app.store, act(call), call.caller.session)
        return see_other("/", cookie(SESSION_COOKIE, "", 0), cookie(LOGIN_COOKIE, "", 0))

    @endpoint("GET", TOKEN_PATH, "A token for the login behind the cookie", answers={204: None}, limited=False)
    def get_token(self, call: Call) -> Answer:
        token = call.app.token(call.cookies.get(SESSION_COOKIE, ""))
        return Answer(status=204, headers={"Authorization": f"Bearer {token}"} if token else {})

    # Oneself

    @endpoint(
        "GET", "/people/sessions", "My account and my logins", answers={200: None}, roles=EVERYBODY, media_type=HTML
    )
    def get_sessions_page(self, call: Call) -> Answer:
        held = [ROLES[role] for role in ROLES if role in call.caller.roles]
        return web.page(
            call, "sessions.html", sessions=sessions_of(call), held=held, account=call.caller.id, form=web.form(call)
        )

    @endpoint(
        "POST",
        f"/people/sessions/{ID}/revoke",
        "End one of my logins",
        body=schemas.NothingIn,
        form=True,
        answers={303: None},
        roles=EVERYBODY,
        media_type=HTML,
    )
    def post_session_page(self, call: Call) -> Answer:
        logins.end_own_session(call.app.store, act(call), call.path["id"])
        return see_other("/people/sessions")

    @endpoint(
        "POST",
        "/people/sessions/revoke",
        "End all my logins",
        body=schemas.NothingIn,
        form=True,
        answers={303: None},
        roles=EVERYBODY,
        media_type=HTML,
    )
    def post_sessions_page(self, call: Call) -> Answer:
        logins.end_all_sessions(call.app.store, act(call), call.caller.id, "logout everywhere")
        return see_other("/", cookie(SESSION_COOKIE, "", 0), cookie(LOGIN_COOKIE, "", 0))

    @endpoint("GET", f"{BASE}/me", "Who is asking", answers={200: schemas.MeOut}, roles=EVERYBODY)
    def get_me(self, call: Call) -> Answer:
        me = call.caller
        shown = {"id": me.id, "roles": sorted(me.roles), "scope": me.scope, "session": me.session or None}
        return Answer(schemas.MeOut().dump(shown))

    @endpoint(
        "GET",
        f"{BASE}/sessions",
        "One's own logins",
        answers={200: schemas.SessionsOut},
        roles=EVERYBODY,
        conflicts=(404,),
    )
    def get_sessions(self, call: Call) -> Answer:
        return Answer(schemas.SessionsOut().dump({"items": sessions_of(call)}))

    @endpoint(
        "POST",
        f"{BASE}/sessions/{ID}/revoke",
        "End one of one's own logins, at once at the edge and within a minute everywhere",
        answers={200: schemas.SessionOut},
        roles=EVERYBODY,
    )
    def post_session_revoke(self, call: Call) -> Answer:
        session = logins.end_own_session(call.app.store, act(call), call.path["id"])
        shown = {**session, "current": session["_id"] == call.caller.session}
        return found(schemas.SessionOut().dump(shown), session["rev"])

    # What is due, and what others say

    @every(1)
    def send_notices(self) -> None:
        app = self.app
        notices.send_due(app.store, app.phone, app.ports, app.clock, telemetry.continued(None))

    @every(600)
    def close_sessions(self) -> None:
        app = self.app
        logins.close_run_out(app.store, Act(auth.system("sessions"), app.clock(), telemetry.continued(None)))

    @every(5)
    def finish_erasures(self) -> None:
        app = self.app
        erasure.finish(app.store, app.vault, Act(auth.system("erasure"), app.clock(), telemetry.continued(None)))

    @every(3600)
    def empty_old_notices(self) -> None:
        self.app.store.empty_notices(self.app.clock() - timedelta(days=rules.NOTICE_DAYS))

    @on(childcare.NoticeRequestedV1)
    def on_childcare_notice_requested(self, event: Event) -> None:
        app, trace = self.app, telemetry.continued(event.get("traceparent"))
        notices.requested(app.store, app.vault, event, app.clock(), trace)

    @on(stations.ErasureConfirmedV1)
    def on_stations_erasure_confirmed(self, event: Event) -> None:
        trace = telemetry.continued(event.get("traceparent"))
        erasure.confirmed(self.app.store, Act(auth.system("erasure"), self.app.clock(), trace), event)

    @endpoint(
        "GET",
        f"{BASE}/jwks.json",
        "The keys that tokens are signed with",
        answers={200: schemas.JwksOut},
        limited=False,
    )
    def get_jwks(self, call: Call) -> Answer:
        return Answer(call.app.signing.public(), headers={"Cache-Control": "public, max-age=60"})

    @endpoint("GET", f"{BASE}/openapi.json", "This document", answers={200: None}, limited=False)
    def get_openapi(self, call: Call) -> Answer:
        del call
        return Answer(DOCUMENT, headers={"Cache-Control": "public, max-age=60"})

    @endpoint("GET", "/people/docs", "The API of people for people", answers={200: None}, media_type=HTML)
    def get_docs(self, call: Call) -> Answer:
        return web.api(call, {"zh": "账号与登录 people", "en": "people"}, _DESCRIBED)


class PeopleServiceWithDemoIssuer(PeopleService):
    """The same with the demo issuer; a process in production mode never has these addresses."""

    @endpoint("GET", f"{demo.BASE}/.well-known/openid-configuration", "Discovery", answers={200: None}, limited=False)
    def get_demo_discovery(self, call: Call) -> Answer:
        return Answer(call.app.demo.metadata())

    @endpoint("GET", f"{demo.BASE}/jwks.json", "Its keys", answers={200: schemas.JwksOut}, limited=False)
    def get_demo_jwks(self, call: Call) -> Answer:
        return Answer(call.app.signing.public())

    @endpoint(
        "GET",
        f"{demo.BASE}/authorize",
        "Choose who to be",
        query=schemas.DemoQuery,
        answers={200: None},
        media_type=HTML,
    )
    def get_demo_authorize(self, call: Call) -> Answer:
        query = dict(call.query)
        chosen = query.pop("person", None)
        if chosen is not None:
            return see_other(call.app.demo.choose(query, chosen, call.now))
        call.app.demo.check(query)
        return web.page(
            call,
            "demo.html",
            persons=[(person, ROLES[person.role], UNITS.get(person.scope)) for person in demo.PERSONS],
            newcomer=demo.NEWCOMER,
            query=urlencode(query),
        )

    @endpoint(
        "POST",
        f"{demo.BASE}/token",
        "A code for an ID token",
        body=schemas.DemoCodeIn,
        form=True,
        answers={200: None},
        limited=False,
    )
    def post_demo_token(self, call: Call) -> Answer:
        if call.invalid is not None:
            return Answer({"error": "invalid_request"}, 400)
        answer = call.app.demo.exchange(call.body, call.now)
        return Answer(answer) if answer else Answer({"error": "invalid_grant"}, 400)

    @endpoint(
        "POST",
        f"{BASE}/demo-accounts",
        "Accounts and roles of the demo persons",
        answers={200: schemas.DemoAccountsOut},
        roles=frozenset({"city_officer"}),
    )
    def post_demo_accounts(self, call: Call) -> Answer:
        issuer = call.app.demo.issuer
        made = demo.make_accounts(call.app.store, act(call), lambda subject: call.app.login(issuer, subject))
        return Answer(schemas.DemoAccountsOut().dump({"accounts": len(made)}))


_DESCRIBED: Final = openapi.document(
    "people",
    "E-Station: people (账号与登录)",
    "Accounts, their logins and roles; who people are, and what they are told.",
    openapi.endpoints(PeopleService),
)
DOCUMENT: Final = body.dumps(_DESCRIBED)


def run(settings: Settings) -> None:
    """The process ``service people``."""
    database = connect_documents(settings, ALIAS, "service")
    await_database(database)
    app = People(settings, database)
    app.vault.replay()  # whom a restored backup brought back is erased again before anybody can ask
    telemetry.before_scrape(app.observe)
    run_service(PeopleServiceWithDemoIssuer if settings.demo_issuer else PeopleService, app)
