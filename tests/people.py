"""The people service in a world of its own, and a browser without a screen that logs in as a person does."""

import html
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, Self
from urllib.parse import parse_qsl, urlencode, urljoin, urlsplit

import mongoengine
from pymongo.database import Database
from urllib3 import HTTPHeaderDict, PoolManager

from contracts.events.people import PersonRegisteredV1
from services.kernel import clock, ids, masterkeys, mongo, settings, telemetry
from services.kernel.act import Act
from services.kernel.auth import Actor, digest, new_secret
from services.kernel.mongo import Document
from services.kernel.outbox import Emit
from services.people import rules, store, vault
from services.people.entry import SESSION_COOKIE
from services.people.handlers import erasure, logins, persons
from services.people.models import ALIAS
from services.people.service import TOKEN_PATH
from services.people.store import Store
from services.people.vault import Vault
from tests.builders import NOON, write
from tests.integration import stations_api
from tests.parts import Process, World, free_port, listens, until

API: Final = "/api/v1/people"
UNLIMITED: Final = {"ESTATION_REQUESTS_PER_MINUTE": "1000000"}


@dataclass(frozen=True, slots=True)
class Reply(stations_api.Reply):
    """What was answered, and from where."""

    url: str

    @property
    def text(self) -> str:
        """The body as text."""
        return self.raw.decode()

    def links(self) -> list[str]:
        """Where its links lead to."""
        return [urljoin(self.url, html.unescape(link)) for link in re.findall(r'href="([^"]*)"', self.text)]

    def hidden(self, name: str) -> str:
        """A hidden field's value."""
        found = re.search(rf'<input type="hidden" name="{name}" value="([^"]*)"', self.text)
        assert found is not None, f"no field {name}"
        return html.unescape(found[1])


class Browser:
    """Keeps cookies as browsers do, and turns a login into a bearer token as the edge does."""

    def __init__(self, origin: str, *, edge: bool = False) -> None:
        self.origin, self.cookies = origin, dict[str, str]()
        self._edge, self._pool = edge, PoolManager()

    def call(
        self,
        method: str,
        url: str,
        *,
        form: Mapping[str, str | list[str]] | None = None,
        body: object = None,
        headers: Mapping[str, str | None] | None = None,
    ) -> Reply:
        """One request, without following. A form comes with our own Origin unless told."""
        address = urljoin(self.origin, url)
        known: dict[str, str | None] = {"Accept": "text/html,*/*"}
        content: str | None = None
        if form is not None:
            content = urlencode(form, doseq=True)
            known |= {"Content-Type": "application/x-www-form-urlencoded", "Origin": self.origin}
        elif body is not None:
            content = json.dumps(body)
            known |= {"Content-Type": "application/json"}
        if address.startswith(self.origin) and self.cookies:
            known["Cookie"] = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
            token = None if self._edge else self.token()
            if token:
                known["Authorization"] = token
        wanted = {name: value for name, value in {**known, **(headers or {})}.items() if value is not None}
        answer = self._pool.request(method, address, body=content, headers=wanted, redirect=False, retries=False)
        self._keep(answer.headers)
        return Reply(answer.status, answer.headers, answer.data, address)

    def get(self, url: str, **headers: str) -> Reply:
        """GET, following redirects."""
        reply = self.call("GET", url, headers={name.replace("_", "-"): text for name, text in headers.items()})
        return self.follow(reply)

    def post(self, url: str, form: Mapping[str, str | list[str]] | None = None) -> Reply:
        """A form with the token of the page it stands on, following redirects."""
        page = self.get("/people/sessions")
        return self.follow(self.call("POST", url, form={"csrf": page.hidden("csrf"), **(form or {})}))

    def follow(self, reply: Reply) -> Reply:
        """Where a reply leads to in the end."""
        for _hop in range(10):
            if reply.status not in {302, 303}:
                return reply
            reply = self.call("GET", urljoin(reply.url, reply.headers["Location"]))
        raise AssertionError("redirected in circles")

    def token(self, secret: str | None = None) -> str | None:
        """What the edge is told of the login behind the cookie."""
        secret = self.cookies.get(SESSION_COOKIE) if secret is None else secret
        if secret is None:
            return None
        cookie = {"Cookie": f"{SESSION_COOKIE}={secret}"}
        answer = self._pool.request("GET", self.origin + TOKEN_PATH, headers=cookie, retries=False)
        assert answer.status == 204
        return answer.headers.get("Authorization")

    def choose(self, person: str, onward: str = "/people/sessions") -> Reply:
        """Logs in at the demo issuer as one of its persons; where that leads to."""
        page = self.get("/people/login/demo?" + urlencode({"next": onward}))
        assert page.status == 200, page.text
        choice = next(link for link in page.links() if dict(parse_qsl(urlsplit(link).query)).get("person") == person)
        return self.get(choice)

    def _keep(self, headers: HTTPHeaderDict) -> None:
        for cookie in headers.getlist("Set-Cookie"):
            name, _, rest = cookie.partition("=")
            value, *attributes = [part.strip() for part in rest.split(";")]
            if "Max-Age=0" in attributes:
                self.cookies.pop(name, None)
            else:
                self.cookies[name] = value


class People:
    """The running service, with its demo issuer unless told, and an officer who may call its API."""

    def __init__(self, world: World, **environ: str) -> None:
        self.world = world
        self.database: Database[Document] = mongo.connect_documents(world.settings("people"), ALIAS, "test")
        store.ensure_indexes(self.database)
        self.files = {"ESTATION_KEYS": str(world.folder / "keys"), "ESTATION_ERASURES": str(world.folder / "erasures")}
        self.settings = settings.read({**world.environ("people"), **self.files})
        masterkeys.create_key_file(self.settings.key_file(ALIAS), demo=True, federation=True)
        vault.prepare(self.settings, self.database)
        port = free_port()
        self.origin = f"http://127.0.0.1:{port}"
        known = {
            "ESTATION_HTTP_PORT": str(port),
            "ESTATION_ORIGIN": self.origin,
            "ESTATION_SIGNING_KEYS": str(world.issuer / "issuer.json"),
            **self.files,
            "ESTATION_SMS": f"file://{world.folder / 'sms.jsonl'}",
            "ESTATION_DEMO_ISSUER": "on",
        }
        (world.issuer / "issuer.json").chmod(0o600)
        self.process: Process = world.process("service", "people", **{**UNLIMITED, **known, **environ})
        self.process.start()
        until(lambda: listens(port), "the service listens")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_args: object) -> None:
        mongoengine.disconnect(ALIAS)

    def browser(self) -> Browser:
        """A new browser, which nobody has logged in with."""
        return Browser(self.origin)

    def seed(self) -> None:
        """Accounts and roles for the demo persons."""
        made = self.api("POST", "/demo-accounts")
        assert made.status == 200, made.raw

    def account(self, county: str, *grants: tuple[str, str]) -> str:
        """A new account in a county with roles over districts, which nobody has logged in to; its id."""
        id_ = ids.new()
        document = {
            "_id": id_,
            "county": county,
            "logins": [new_secret()],
            "terms": {"version": rules.TERMS, "at": NOON},
            "declared": ["worker"],
            "grants": [{"role": role, "scope": scope, "since": NOON} for role, scope in grants],
        }
        registered = Emit(PersonRegisteredV1, {"day": clock.day(NOON), "by": "counter"})
        self.store.register(document, write(registered))
        return id_

    @property
    def store(self) -> Store:
        """Its store, in the test's own process."""
        return Store(self.database)

    @property
    def vault(self) -> Vault:
        """Its vault, in the test's own process."""
        return Vault(self.settings, self.database)

    def identify(self, account: str, name: str, number: str, phone: str = "13805480001") -> None:
        """Says who an account is, as its person would."""
        given = {"name": name, "id_number": number, "phone": phone, "consent": True}
        persons.keep_own(self.store, self.vault, self.act(account), given)

    def child(self, account: str, name: str, number: str) -> str:
        """Adds a child, as its guardian would; its id."""
        given = {"name": name, "id_number": number, "consent": True}
        return str(persons.add_child(self.store, self.vault, self.act(account), given, None)[0]["_id"])

    def erase(self, account: str) -> None:
        """Erases an account, as its person would."""
        erasure.erase(self.store, self.vault, self.act(account))

    @staticmethod
    def act(account: str) -> Act:
        """What somebody does now."""
        return Act(Actor(account, "person"), clock.now(), telemetry.continued(None))

    def session(self, account: str) -> str:
        """A session of an account as a login makes one; its id."""
        opened = self.store
        trace = telemetry.continued(None)
        secret = logins.open_session(opened, opened.own_account(account), "demo", clock.now(), trace)
        found = opened.session_by_digest(digest(secret))
        assert found is not None
        return str(found["_id"])

    def api(self, method: str, path: str, body: object = None, token: str | None = None) -> Reply:
        """A call below ``/api/v1/people``, as a city officer unless told."""
        bearer = f"Bearer {token or self.world.token()}"
        return self.browser().call(
            method, API + path, body=body, headers={"Authorization": bearer, "Accept": "application/json"}
        )

    def logged_in(self, person: str) -> Browser:
        """A browser of one of the demo persons."""
        browser = self.browser()
        reached = browser.choose(person)
        assert reached.status == 200, reached.text
        assert reached.url.endswith("/people/sessions"), reached.url
        return browser
