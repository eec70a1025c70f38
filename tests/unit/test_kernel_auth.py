"""Who is calling: a forged, foreign, stale or broken token is refused like any other; keys rotate; no demo keys."""

import base64
import hmac
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from joserfc import jws, jwt
from joserfc.jwk import ECKey, OKPKey, RSAKey

from contracts import codes
from services.kernel import auth
from services.kernel.auth import TokenVerifier
from services.kernel.errors import Unauthenticated
from services.kernel.settings import SettingError, Settings

KID = "k1"
CLAIMS: dict[str, Any] = {"sub": "officer-1", "roles": ["city_officer"], "scope": "370902"}


class Clock:
    """A monotonic clock that a test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Issuer:
    """A key set in a file, and tokens signed with its first key."""

    def __init__(self, folder: Path, kid: str = KID) -> None:
        self.path = folder / "jwks.json"
        self.key = ECKey.generate_key("P-256", {"kid": kid, "use": "sig"}, private=True)
        self.publish(self.key)

    def publish(self, *keys: Any) -> None:
        """Makes these the key set."""
        self.path.write_text(json.dumps({"keys": [key.as_dict(private=False) for key in keys]}))

    def settings(self, **more: Any) -> Settings:
        """What a process that trusts this issuer is told."""
        return Settings(jwks=str(self.path), **more)

    def token(self, *, key: Any = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        """A token; a claim given as None is left out."""
        now, known = int(time.time()), self.settings()
        whole = {
            "iss": known.token_issuer,
            "aud": known.token_audience,
            "iat": now,
            "exp": now + 60,
            **CLAIMS,
            **claims,
        }
        key = key or self.key
        return jwt.encode(
            {"alg": "ES256", "kid": key.kid, **(header or {})},
            {name: value for name, value in whole.items() if value is not None},
            key,
            algorithms=["ES256", "ES384", "HS256", "RS256", "PS256", "Ed25519", "EdDSA", "none"],
        )


@pytest.fixture
def issuer(tmp_path: Path) -> Issuer:
    """An issuer of this test's own."""
    return Issuer(tmp_path)


@pytest.fixture
def verifier(issuer: Issuer) -> TokenVerifier:
    """A verifier that trusts it."""
    return TokenVerifier(issuer.settings())


def b64(value: object) -> str:
    """A segment of a token."""
    raw = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def unsigned(issuer: Issuer) -> str:
    """The algorithm none, without a signature."""
    header, payload, _signature = issuer.token().split(".")
    assert header
    return f"{b64({'alg': 'none', 'kid': KID})}.{payload}."


def confused(issuer: Issuer) -> str:
    """HS256, the public key taken for a shared secret (joserfc itself refuses to make this one)."""
    text = f"{b64({'alg': 'HS256', 'kid': KID})}.{issuer.token().split('.')[1]}"
    return f"{text}.{b64(hmac.digest(issuer.key.as_pem(private=False), text.encode(), 'sha256'))}"


def foreign(_issuer: Issuer) -> str:
    """Signed with another key that calls itself by the known name."""
    key = ECKey.generate_key("P-256", {"kid": KID}, private=True)
    return _issuer.token(key=key)


def key_in_header(issuer: Issuer) -> str:
    """Brings its own key along."""
    key = ECKey.generate_key("P-256", {"kid": KID}, private=True)
    return issuer.token(key=key, header={"jwk": key.as_dict(private=False)})


def tampered(issuer: Issuer) -> str:
    """Another payload under a good signature."""
    header, _payload, signature = issuer.token().split(".")
    other = issuer.token(roles=["admin"]).split(".")[1]
    return f"{header}.{other}.{signature}"


def not_an_object(issuer: Issuer) -> str:
    """Well signed, but no claims."""
    return jws.serialize_compact({"alg": "ES256", "kid": KID}, b"[1]", issuer.key)


FORGED: dict[str, Callable[[Issuer], str]] = {
    "no signature": unsigned,
    "key confusion": confused,
    "foreign key": foreign,
    "key in header": key_in_header,
    "tampered": tampered,
    "no claims": not_an_object,
    "wrong issuer": lambda issuer: issuer.token(iss="https://elsewhere.example"),
    "no issuer": lambda issuer: issuer.token(iss=None),
    "wrong audience": lambda issuer: issuer.token(aud="other"),
    "wrong audiences": lambda issuer: issuer.token(aud=["other", "another"]),
    "no audience": lambda issuer: issuer.token(aud=None),
    "expired": lambda issuer: issuer.token(exp=int(time.time()) - 1),
    "no expiry": lambda issuer: issuer.token(exp=None),
    "expiry as text": lambda issuer: issuer.token(exp="tomorrow"),
    "not yet valid": lambda issuer: issuer.token(nbf=int(time.time()) + 60),
    "no subject": lambda issuer: issuer.token(sub=None),
    "empty subject": lambda issuer: issuer.token(sub=""),
    "subject not text": lambda issuer: issuer.token(sub=7),
    "subject an operator": lambda issuer: issuer.token(sub={"$ne": ""}),
    "roles not a list": lambda issuer: issuer.token(roles="admin"),
    "scope not text": lambda issuer: issuer.token(scope=["370900"]),
    "login not text": lambda issuer: issuer.token(sid=7),
    "login an operator": lambda issuer: issuer.token(sid={"$ne": ""}),
    "csrf not text": lambda issuer: issuer.token(csrf=True),
    "csrf empty": lambda issuer: issuer.token(csrf=""),
    "too long": lambda issuer: issuer.token(padding="x" * 4000),
    "nested header": lambda _issuer: f"{b64(b'[' * 2900)}.e30.e30",
    "header a list": lambda _issuer: f"{b64(['alg'])}.e30.e30",
    "header a text": lambda _issuer: f"{b64('alg')}.e30.e30",
    "alg not text": lambda _issuer: f"{b64({'alg': {}, 'kid': KID})}.e30.e30",
    "kid not text": lambda _issuer: f"{b64({'alg': 'ES256', 'kid': {}})}.e30.e30",
    "unknown kid": lambda issuer: issuer.token(header={"kid": "k2"}),
    "not a token": lambda _issuer: "esd_whatever",
    "empty": lambda _issuer: "",
    "not ascii": lambda _issuer: "泰.安.站",
    "surrogate": lambda _issuer: "\ud800.e30.e30",
}


@pytest.mark.parametrize("case", FORGED)
def test_a_token_that_is_not_right_is_refused_without_a_reason(
    case: str, issuer: Issuer, verifier: TokenVerifier
) -> None:
    token = FORGED[case](issuer)
    with pytest.raises(Unauthenticated) as refused:
        verifier.verify(token)
    assert (refused.value.code, refused.value.params) == ("unauthenticated", {})
    assert verifier.verify(issuer.token()).id == "officer-1", "the right token is still taken"


segments = st.binary(max_size=40).map(b64) | st.recursive(
    st.none() | st.text(max_size=5) | st.integers() | st.sampled_from(["alg", "kid", "ES256", KID, "crit", "b64"]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["alg", "kid", "crit", "b64", "jwk", "typ", "x"]), inner, max_size=4)
    ),
    max_leaves=6,
).map(b64)


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> TokenVerifier:
    """A verifier for many made-up tokens."""
    return TokenVerifier(Issuer(tmp_path_factory.mktemp("issuer")).settings())


@given(st.lists(segments | st.text(max_size=20), max_size=6).map(".".join))
@example(f"{b64({'alg': 'ES256', 'kid': KID, 'crit': ['x']})}.e30.e30")
@example(f"{b64({'alg': 'ES256', 'kid': KID, 'b64': False, 'crit': ['b64']})}.e30.e30")
def test_whatever_is_sent_as_token_is_refused_in_the_one_way(known: TokenVerifier, token: str) -> None:
    with pytest.raises(Unauthenticated):
        known.verify(token)


def test_a_good_token_is_an_actor(issuer: Issuer, verifier: TokenVerifier) -> None:
    actor = verifier.verify(issuer.token())
    assert (actor.id, actor.kind, actor.roles, actor.scope) == (
        "officer-1",
        "person",
        frozenset({"city_officer"}),
        "370902",
    )
    assert actor.counties == ("370902", "370902-js")


def test_a_token_of_a_browsers_login_says_which_and_how_its_forms_are_known(
    issuer: Issuer, verifier: TokenVerifier
) -> None:
    actor = verifier.verify(issuer.token(sid="s1", csrf="c1"))
    assert (actor.session, actor.csrf) == ("s1", "c1")
    assert "c1" not in repr(actor)
    program = verifier.verify(issuer.token())
    assert (program.session, program.csrf) == ("", None)


def test_one_audience_of_several_is_enough(issuer: Issuer, verifier: TokenVerifier) -> None:
    assert verifier.verify(issuer.token(aud=["other", "estation"])).id == "officer-1"


@pytest.mark.parametrize("scope", ["", "370999", "37", "370900 ", "*", "370911-GX"])
def test_an_unknown_scope_sees_nothing(issuer: Issuer, verifier: TokenVerifier, scope: str) -> None:
    assert verifier.verify(issuer.token(scope=scope)).counties == ()


def test_a_token_without_roles_and_scope_may_nothing(issuer: Issuer, verifier: TokenVerifier) -> None:
    actor = verifier.verify(issuer.token(roles=None, scope=None))
    assert (actor.roles, actor.counties) == (frozenset(), ())


@pytest.mark.parametrize(
    ("algorithm", "key"),
    [
        ("RS256", RSAKey.generate_key(2048, {"kid": "rsa"})),
        ("Ed25519", OKPKey.generate_key("Ed25519", {"kid": "okp"})),
        pytest.param(
            "EdDSA",
            OKPKey.generate_key("Ed25519", {"kid": "okp"}),
            marks=pytest.mark.filterwarnings("ignore:EdDSA is deprecated"),
        ),
    ],
)
def test_the_other_algorithms_of_the_list_are_taken(
    issuer: Issuer, verifier: TokenVerifier, algorithm: str, key: Any
) -> None:
    issuer.publish(issuer.key, key)
    assert verifier.verify(issuer.token(key=key, header={"alg": algorithm})).id == "officer-1"


def test_an_algorithm_outside_the_list_is_refused_though_the_key_is_known(issuer: Issuer) -> None:
    rsa, p384 = RSAKey.generate_key(2048, {"kid": "rsa"}), ECKey.generate_key("P-384", {"kid": "p384"})
    issuer.publish(rsa, p384)
    verifier = TokenVerifier(issuer.settings())
    for key, algorithm in ((rsa, "PS256"), (p384, "ES384")):
        with pytest.raises(Unauthenticated):
            verifier.verify(issuer.token(key=key, header={"alg": algorithm}))


class TestRotation:
    """The key set is read again, but not as often as a stranger likes."""

    def test_a_new_key_is_found_when_it_is_first_used(self, issuer: Issuer) -> None:
        now = Clock()
        verifier = TokenVerifier(issuer.settings(), now)
        verifier.verify(issuer.token())
        old, issuer.key = issuer.key, ECKey.generate_key("P-256", {"kid": "k2"}, private=True)
        issuer.publish(old, issuer.key)
        now.now += auth.REFETCH_SECONDS
        assert verifier.verify(issuer.token()).id == "officer-1"
        assert verifier.verify(issuer.token(key=old)).id == "officer-1"

    def test_strangers_cannot_make_it_read_more_often(self, issuer: Issuer) -> None:
        now = Clock()
        verifier = TokenVerifier(issuer.settings(), now)
        verifier.verify(issuer.token())
        issuer.key = ECKey.generate_key("P-256", {"kid": "k2"}, private=True)
        issuer.publish(issuer.key)
        now.now += auth.REFETCH_SECONDS - 0.1
        with pytest.raises(Unauthenticated):
            verifier.verify(issuer.token())
        now.now += 0.2
        assert verifier.verify(issuer.token()).id == "officer-1"

    def test_a_key_that_was_taken_back_is_forgotten_in_time(self, issuer: Issuer) -> None:
        now = Clock()
        verifier = TokenVerifier(issuer.settings(), now)
        token = issuer.token()
        verifier.verify(token)
        issuer.publish(ECKey.generate_key("P-256", {"kid": "k2"}, private=True))
        now.now += auth.KEYS_STALE_SECONDS - 0.1
        assert verifier.verify(token).id == "officer-1"
        now.now += 0.2
        with pytest.raises(Unauthenticated):
            verifier.verify(token)

    @pytest.mark.parametrize("text", [None, "", "[]", "{}", '{"keys": 1}', '{"keys": [1]}', '{"keys": []}', "\x00"])
    @pytest.mark.parametrize("mode", ["local", "production"])
    def test_while_the_issuer_is_away_the_known_keys_hold(self, issuer: Issuer, text: str | None, mode: str) -> None:
        now = Clock()
        verifier = TokenVerifier(issuer.settings(mode=mode), now)
        verifier.verify(issuer.token())
        issuer.path.unlink()
        if text is not None:
            issuer.path.write_text(text)
        now.now += auth.KEYS_STALE_SECONDS
        assert verifier.verify(issuer.token()).id == "officer-1"

    def test_without_any_keys_nobody_is_known_until_there_are(self, issuer: Issuer) -> None:
        now = Clock()
        text = issuer.path.read_text()
        issuer.path.unlink()
        verifier = TokenVerifier(issuer.settings(), now)
        with pytest.raises(Unauthenticated):
            verifier.verify(issuer.token())
        issuer.path.write_text(text)
        now.now += auth.REFETCH_SECONDS
        assert verifier.verify(issuer.token()).id == "officer-1"

    def test_without_an_issuer_nobody_is_known(self, issuer: Issuer) -> None:
        with pytest.raises(Unauthenticated):
            TokenVerifier(Settings()).verify(issuer.token())

    def test_the_key_set_may_be_an_address(self, issuer: Issuer) -> None:
        verifier = TokenVerifier(Settings(jwks=issuer.path.as_uri()))
        assert verifier.verify(issuer.token()).id == "officer-1"


class TestDemoKeys:
    """What everybody can make for himself is worth nothing in production."""

    def test_production_does_not_start_with_one(self, tmp_path: Path) -> None:
        auth.create_local_issuer(tmp_path)
        with pytest.raises(SettingError, match=r"^ESTATION_JWKS: holds a demo key"):
            TokenVerifier(Settings(mode="production", jwks=str(tmp_path / "jwks.json"))).refuse_demo_keys()

    def test_local_mode_takes_them(self, tmp_path: Path) -> None:
        auth.create_local_issuer(tmp_path)
        known = Settings(jwks=str(tmp_path / "jwks.json"))
        verifier = TokenVerifier(known)
        verifier.refuse_demo_keys()
        token = auth.issue_local_token(tmp_path, known, "officer-9", ["city_officer", "auditor"], "370900")
        actor = verifier.verify(token)
        assert (actor.id, actor.roles) == ("officer-9", frozenset({"city_officer", "auditor"}))
        assert actor.counties == codes.REPORTING_UNITS

    def test_one_that_slips_in_later_is_not_believed(self, issuer: Issuer) -> None:
        now = Clock()
        verifier = TokenVerifier(issuer.settings(mode="production"), now)
        verifier.refuse_demo_keys()
        demo = ECKey.generate_key("P-256", {"kid": "demo-1"}, private=True)
        issuer.publish(issuer.key, demo)
        for _ in range(2):
            with pytest.raises(Unauthenticated):
                verifier.verify(issuer.token(key=demo))
            assert verifier.verify(issuer.token()).id == "officer-1"
            now.now += auth.KEYS_STALE_SECONDS

    def test_a_key_set_that_cannot_be_read_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(SettingError, match=r"^ESTATION_JWKS: "):
            TokenVerifier(Settings(mode="production", jwks=str(tmp_path / "none.json"))).refuse_demo_keys()
        (tmp_path / "bad.json").write_text("{")
        with pytest.raises(SettingError, match=r"^ESTATION_JWKS: "):
            TokenVerifier(Settings(mode="production", jwks=str(tmp_path / "bad.json"))).refuse_demo_keys()

    def test_an_issuer_that_is_away_does_not_keep_production_from_starting(self) -> None:
        known = Settings(mode="production", jwks="http://127.0.0.1:9/jwks.json")
        TokenVerifier(known).refuse_demo_keys()

    def test_a_local_issuer_keeps_its_keys_to_itself(self, tmp_path: Path) -> None:
        folder = tmp_path / "issuer"
        auth.create_local_issuer(folder)
        before = (folder / "issuer.json").read_text()
        auth.create_local_issuer(folder)
        assert (folder / "issuer.json").read_text() == before
        assert (folder / "issuer.json").stat().st_mode & 0o077 == 0
        (public,) = json.loads((folder / "jwks.json").read_text())["keys"]
        assert "d" not in public
        assert public["kid"].startswith(auth.DEMO_KEY_PREFIX)

    def test_a_local_token_ends(self, tmp_path: Path) -> None:
        auth.create_local_issuer(tmp_path)
        known = Settings(jwks=str(tmp_path / "jwks.json"))
        with pytest.raises(Unauthenticated):
            TokenVerifier(known).verify(auth.issue_local_token(tmp_path, known, "o", [], "370900", seconds=-1))


class TestSecrets:
    """Devices' keys: long, and kept as digests only."""

    def test_a_secret_is_known_by_its_digest_alone(self) -> None:
        one, other = auth.new_secret(), auth.new_secret()
        assert one != other
        assert len(base64.urlsafe_b64decode(one + "==")) == 32
        assert one not in auth.digest(one)
        assert auth.matches(one, [auth.digest(other), auth.digest(one)])
        assert auth.matches(one, [auth.digest(one), auth.digest(other)])
        assert not auth.matches(one, [auth.digest(other)])
        assert not auth.matches(one, [])
        assert not auth.matches("", [auth.digest(one)])
        assert not auth.matches(auth.digest(one), [auth.digest(one)]), "a stolen digest is no key"

    def test_a_secret_of_odd_characters_is_refused_not_an_error(self) -> None:
        assert not auth.matches("泰安", [auth.digest("x")])
        assert not auth.matches("\x00\xff", [auth.digest("x")])


def test_the_system_acts_over_the_whole_city() -> None:
    actor = auth.system("watch")
    assert (actor.id, actor.kind, actor.roles, actor.counties) == (
        "watch",
        "system",
        frozenset({"system"}),
        codes.REPORTING_UNITS,
    )
