"""Who may say who somebody is: a provider that lies, errs or is away, and a chat app that is no OpenID Connect."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, parse_qsl, urlsplit

import pytest
from authlib.oauth2.rfc7636 import create_s256_code_challenge
from joserfc import jwt
from joserfc.jwk import ECKey

from services.kernel.errors import BadRequest, EStationError, Unavailable
from services.kernel.settings import SettingError, Settings
from services.people import providers
from services.people.providers import About, Attempt, ChatProvider, Dialect, OpenIdProvider
from tests.unit.test_kernel_auth import b64

CLIENT, SECRET, CALLBACK = "wx0123", "hush-hush", "https://e.example/people/callback/x"
LABEL = {"zh": "某某登录", "en": "Login"}


class Server:
    """A provider as a test wants it: the answers by path, and what it was asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Callable[[dict[str, str]], tuple[int, Any]]] = {}
        self.asked: list[tuple[str, str, dict[str, str], str]] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                outer.answer(self, dict(parse_qsl(urlsplit(self.path).query)))

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", "0"))).decode()
                outer.answer(self, dict(parse_qsl(body)))

            def log_message(self, *_args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.origin = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True)
        self._thread.start()

    def answer(self, request: Any, given: dict[str, str]) -> None:
        """Answers as told, else 404."""
        path = urlsplit(request.path).path
        self.asked.append((request.command, path, given, request.headers.get("Authorization", "")))
        status, value = self.answers[path](given) if path in self.answers else (404, {})
        body = value if isinstance(value, bytes) else json.dumps(value).encode()
        request.send_response(status)
        request.send_header("Content-Length", str(len(body)))
        request.end_headers()
        request.wfile.write(body)

    def count(self, path: str) -> int:
        """How often a path was asked for."""
        return sum(asked == path for _method, asked, _given, _header in self.asked)

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


@pytest.fixture
def server() -> Iterator[Server]:
    """A provider's server."""
    made = Server()
    yield made
    made.close()


class OpenId:
    """An OpenID Connect provider on a server, which says what a test tells it to say."""

    def __init__(self, server: Server) -> None:
        self.server, self.issuer = server, server.origin
        self.key = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
        self.attempt = Attempt()
        self.claims: dict[str, Any] = {}
        self.metadata: dict[str, Any] = {
            "issuer": self.issuer,
            "authorization_endpoint": self.issuer + "/authorize",
            "token_endpoint": self.issuer + "/token",
            "jwks_uri": self.issuer + "/jwks",
        }
        server.answers["/.well-known/openid-configuration"] = lambda _given: (200, self.metadata)
        server.answers["/jwks"] = lambda _given: (200, {"keys": [self.key.as_dict(private=False)]})
        server.answers["/token"] = lambda _given: (200, {"access_token": "x", "token_type": "Bearer", **self.tokens()})
        self.monotonic = 1000.0
        self.provider = OpenIdProvider(About("x", LABEL, CLIENT, SECRET, "openid"), self.issuer, lambda: self.monotonic)

    def tokens(self) -> dict[str, Any]:
        """The ID token."""
        return {"id_token": self.id_token()}

    def id_token(self, *, header: dict[str, Any] | None = None, key: Any = None) -> str:
        """A good one, but for what the test has changed; a claim that is None is left out."""
        now = int(time.time())
        known = {
            "iss": self.issuer,
            "aud": CLIENT,
            "sub": "u1",
            "nonce": self.attempt.nonce,
            "iat": now,
            "exp": now + 60,
        }
        claims = {name: value for name, value in {**known, **self.claims}.items() if value is not None}
        signer = key or self.key
        return jwt.encode(
            {"alg": "ES256", "kid": signer.kid, **(header or {})}, claims, signer, algorithms=["ES256", "HS256", "none"]
        )

    def subject(self) -> str:
        """Who came back."""
        return self.provider.subject(self.attempt, CALLBACK, "the-code")


@pytest.fixture
def openid(server: Server) -> OpenId:
    """A provider that is all right."""
    return OpenId(server)


def test_a_browser_is_sent_away_with_state_nonce_and_challenge(openid: OpenId) -> None:
    url = urlsplit(openid.provider.authorize(openid.attempt, CALLBACK))
    query = {name: values[0] for name, values in parse_qs(url.query).items()}
    assert f"{url.scheme}://{url.netloc}{url.path}" == openid.issuer + "/authorize"
    assert query == {
        "response_type": "code",
        "client_id": CLIENT,
        "redirect_uri": CALLBACK,
        "scope": "openid",
        "state": openid.attempt.state,
        "nonce": openid.attempt.nonce,
        "code_challenge": create_s256_code_challenge(openid.attempt.verifier),
        "code_challenge_method": "S256",
    }
    assert len({openid.attempt.state, openid.attempt.nonce, openid.attempt.verifier, Attempt().state}) == 4


def test_the_code_comes_back_with_the_verifier_and_the_clients_secret(openid: OpenId) -> None:
    assert openid.subject() == "u1"
    _method, _path, given, header = next(asked for asked in openid.server.asked if asked[1] == "/token")
    assert given["code"] == "the-code"
    assert given["code_verifier"] == openid.attempt.verifier
    assert given["redirect_uri"] == CALLBACK
    assert header.startswith("Basic ")
    assert SECRET not in str(given)


NOW = int(time.time())
LIES: dict[str, dict[str, Any]] = {
    "foreign issuer": {"iss": "https://evil.example"},
    "no issuer": {"iss": None},
    "for another client": {"aud": "another"},
    "for nobody": {"aud": None},
    "for several, and this one did not ask": {"aud": [CLIENT, "another"], "azp": "another"},
    "for several, and nobody asked": {"aud": [CLIENT, "another"]},
    "asked for by another": {"azp": "another"},
    "expired": {"exp": NOW - 3600},
    "without an end": {"exp": None},
    "without a beginning": {"iat": None},
    "another login's": {"nonce": "another"},
    "no login's": {"nonce": None},
    "of nobody": {"sub": None},
    "of nobody at all": {"sub": ""},
    "of a number": {"sub": 7},
    "of an endless name": {"sub": "x" * 256},
}


@pytest.mark.parametrize("lie", LIES)
def test_an_id_token_that_is_not_right_is_refused_without_a_reason(openid: OpenId, lie: str) -> None:
    openid.claims = LIES[lie]
    with pytest.raises(BadRequest) as refused:
        openid.subject()
    assert (refused.value.code, refused.value.params) == ("login_failed", {})


def test_several_audiences_are_taken_where_this_client_asked(openid: OpenId) -> None:
    openid.claims = {"aud": [CLIENT, "another"], "azp": CLIENT}
    assert openid.subject() == "u1"


def test_a_clock_may_be_a_minute_off(openid: OpenId) -> None:
    openid.claims = {"exp": int(time.time()) - 50}
    assert openid.subject() == "u1"
    openid.claims = {"exp": int(time.time()) - 70}
    with pytest.raises(BadRequest):
        openid.subject()


def test_a_forged_signature_is_refused(openid: OpenId, monkeypatch: pytest.MonkeyPatch) -> None:
    stranger = ECKey.generate_key("P-256", {"kid": "k1"}, private=True)
    for token in (
        openid.id_token(key=stranger),
        f"{b64({'alg': 'none'})}.{openid.id_token().split('.')[1]}.",
        openid.id_token().rpartition(".")[0] + ".",
        "",
        "x.y.z",
    ):
        monkeypatch.setattr(openid, "tokens", lambda token=token: {"id_token": token})
        with pytest.raises(BadRequest):
            openid.subject()
    monkeypatch.setattr(openid, "tokens", dict)
    with pytest.raises(BadRequest):
        openid.subject()


def test_keys_and_addresses_are_fetched_once_and_a_new_key_is_found(openid: OpenId) -> None:
    for _login in range(3):
        openid.subject()
    assert openid.server.count("/.well-known/openid-configuration") == 1
    assert openid.server.count("/jwks") == 1
    openid.key = ECKey.generate_key("P-256", {"kid": "k2"}, private=True)
    with pytest.raises(BadRequest):
        openid.subject()  # too soon after the last look: strangers cannot make us ask at will
    openid.monotonic += providers.REFETCH_SECONDS
    assert openid.subject() == "u1"
    assert openid.server.count("/jwks") == 2


@pytest.mark.parametrize(
    ("status", "answer", "expected"),
    [
        (400, {"error": "invalid_grant"}, BadRequest),
        (200, {"error": "access_denied"}, BadRequest),
        (200, b"<html>", BadRequest),
        (500, b"", Unavailable),
    ],
)
def test_a_refused_code_is_a_failed_login(
    openid: OpenId, status: int, answer: Any, expected: type[EStationError]
) -> None:
    openid.server.answers["/token"] = lambda _given: (status, answer)
    with pytest.raises(expected):
        openid.subject()


@pytest.mark.parametrize(
    "change",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": None},
        {"jwks_uri": "file:///etc/passwd"},
        {"authorization_endpoint": "javascript:alert(1)"},
    ],
)
def test_a_discovery_that_is_not_the_issuers_is_not_used(openid: OpenId, change: dict[str, Any]) -> None:
    openid.metadata |= change
    with pytest.raises(Unavailable) as away:
        openid.provider.authorize(openid.attempt, CALLBACK)
    assert away.value.code == "provider_away"


def test_a_provider_that_is_away_is_said_to_be(openid: OpenId) -> None:
    openid.provider.authorize(openid.attempt, CALLBACK)
    openid.server.close()
    with pytest.raises(Unavailable):
        openid.subject()


def test_a_provider_that_has_just_failed_is_left_alone_for_a_moment(openid: OpenId) -> None:
    path = "/.well-known/openid-configuration"
    good = openid.server.answers.pop(path)
    for _login in range(3):
        with pytest.raises(Unavailable):
            openid.provider.authorize(openid.attempt, CALLBACK)
    assert openid.server.count(path) == 1
    openid.server.answers[path] = good
    openid.monotonic += providers.SECONDS
    assert openid.provider.authorize(openid.attempt, CALLBACK)


class Chat:
    """A chat app's login server: codes are exchanged by GET, errors come as 200."""

    def __init__(self, server: Server, subject: str = "openid") -> None:
        self.server = server
        self.codes = {"good": {"openid": "o-1", "unionid": "u-1", "access_token": "x", "expires_in": 7200}}
        server.answers["/sns/oauth2/access_token"] = self.exchange
        dialect = Dialect(
            server.origin + "/authorize", server.origin + "/sns/oauth2/access_token", subject, "wechat_redirect"
        )
        self.provider = ChatProvider(About("chat", LABEL, CLIENT, SECRET, "snsapi_base"), dialect)

    def exchange(self, given: dict[str, str]) -> tuple[int, Any]:
        """As the app's manual says."""
        if (given.get("appid"), given.get("secret")) != (CLIENT, SECRET):
            return 200, {"errcode": 40125, "errmsg": "invalid appsecret"}
        if given.get("grant_type") != "authorization_code" or given.get("code") not in self.codes:
            return 200, {"errcode": 40029, "errmsg": f"invalid code {given.get('code')}"}
        return 200, self.codes.pop(given["code"])


def test_a_chat_app_is_spoken_to_in_its_own_dialect(server: Server) -> None:
    chat = Chat(server)
    url = urlsplit(chat.provider.authorize(Attempt(state="the-state"), CALLBACK))
    assert url.fragment == "wechat_redirect"
    assert dict(parse_qsl(url.query)) == {
        "appid": CLIENT,
        "redirect_uri": CALLBACK,
        "response_type": "code",
        "scope": "snsapi_base",
        "state": "the-state",
    }
    assert chat.provider.subject(Attempt(), CALLBACK, "good") == "o-1"
    with pytest.raises(BadRequest):
        chat.provider.subject(Attempt(), CALLBACK, "good")


def test_a_person_is_the_same_in_all_apps_of_an_owner_by_unionid(server: Server) -> None:
    one, union = Chat(server), Chat(server, "unionid")
    assert union.provider.subject(Attempt(), CALLBACK, "good") == "u-1"
    assert union.provider.issuer != one.provider.issuer, "two kinds of names never meet"
    assert CLIENT in one.provider.issuer
    assert CLIENT not in union.provider.issuer


@pytest.mark.parametrize("answer", [{"openid": ""}, {"openid": 7}, {"access_token": "x"}, {"openid": "x" * 256}])
def test_a_chat_app_that_names_nobody_logs_nobody_in(server: Server, answer: dict[str, Any]) -> None:
    chat = Chat(server)
    chat.server.answers["/sns/oauth2/access_token"] = lambda _given: (200, answer)
    with pytest.raises(BadRequest):
        chat.provider.subject(Attempt(), CALLBACK, "good")


@pytest.mark.parametrize("answer", [(500, {}), (200, b"<html>"), (200, []), (302, {}), (200, b"[" * 300_000)])
def test_a_chat_app_that_answers_otherwise_is_away(server: Server, answer: tuple[int, Any]) -> None:
    chat = Chat(server)
    chat.server.answers["/sns/oauth2/access_token"] = lambda _given: answer
    with pytest.raises(Unavailable):
        chat.provider.subject(Attempt(), CALLBACK, "good")


def test_the_secret_reaches_no_log(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    chat = Chat(server)
    server.answers["/sns/oauth2/access_token"] = lambda _given: (500, {})
    with pytest.raises(Unavailable):
        chat.provider.subject(Attempt(), CALLBACK, "good")
    assert SECRET not in "".join(capsys.readouterr())
    assert SECRET not in repr(About("chat", LABEL, CLIENT, SECRET, ""))


OIDC = {"key": "city", "kind": "oidc", "label": LABEL, "client_id": "c", "issuer": "https://id.example"}
CHAT = {
    "key": "chat",
    "kind": "chat",
    "label": LABEL,
    "client_id": "c",
    "secret_file": "secret",
    "authorize_url": "https://open.example/connect",
    "token_url": "https://api.example/token",
    "subject": "unionid",
}


def configured(folder: Path, *entries: Any, mode: str = "production") -> Settings:
    """Settings with a providers' file."""
    path = folder / "providers.json"
    path.write_text(json.dumps({"providers": entries}))
    return Settings(mode=mode, identity_providers=str(path))


def test_providers_are_data_and_secrets_lie_beside_them(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("hush-hush\n")
    found = providers.load(configured(tmp_path, OIDC, CHAT))
    assert list(found) == ["city", "chat"]
    assert found["city"].issuer == "https://id.example"
    assert found["chat"].issuer == "chat:api.example:unionid"
    assert providers.load(Settings()) == {}


@pytest.mark.parametrize(
    "entries",
    [
        [{}],
        [{**OIDC, "key": "../x"}],
        [{**OIDC, "kind": "saml"}],
        [{**OIDC, "colour": "red"}],
        [{**OIDC, "issuer": ""}],
        [{**OIDC, "issuer": "http://id.example"}],
        [{**OIDC, "label": "x"}],
        [{**CHAT, "secret_file": "none"}],
        [{**CHAT, "token_url": "http://api.example"}],
        [OIDC, OIDC],
        "x",
    ],
)
def test_a_wrong_providers_file_ends_the_start_in_one_line(tmp_path: Path, entries: Any) -> None:
    (tmp_path / "secret").write_text("hush-hush\n")
    with pytest.raises(SettingError) as refused:
        providers.load(configured(tmp_path, *entries))
    assert str(refused.value).startswith("ESTATION_IDENTITY_PROVIDERS: ")
    assert "hush-hush" not in str(refused.value)


def test_plain_http_does_for_trying_out_only(tmp_path: Path) -> None:
    plain = {**OIDC, "issuer": "http://127.0.0.1:9400"}
    assert "city" in providers.load(configured(tmp_path, plain, mode="local"))
