"""The keys that tokens are signed with: strict at the start, replaced while services go on believing."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
from joserfc.jwk import ECKey

from services.kernel import auth
from services.kernel.auth import TokenVerifier
from services.kernel.errors import Unauthenticated
from services.kernel.settings import SettingError, Settings
from services.people import tokens
from services.people.tokens import SigningKeys
from tests.builders import NOON
from tests.unit.test_kernel_auth import Clock

ACCOUNT: dict[str, Any] = {
    "_id": "a1",
    "declared": ["worker"],
    "grants": [{"role": "county_officer", "scope": "370902", "since": NOON}],
}
SESSION: dict[str, Any] = {"_id": "s1"}


def key_file(path: Path, *jwks: dict[str, Any], current: int = 0, mode: int = 0o600) -> Path:
    """A file with these keys."""
    path.write_text(json.dumps({"current": jwks[current]["kid"], "keys": jwks}))
    path.chmod(mode)
    stamp = path.stat().st_mtime_ns + 1_000_000  # a coarse clock must not hide the change
    os.utime(path, ns=(stamp, stamp))
    return path


def signed(keys: SigningKeys, known: Settings) -> str:
    """A token of now."""
    from services.kernel import clock

    return tokens.access_token(keys, known, ACCOUNT, SESSION, "c1", clock.now())


class Service:
    """A service that trusts what is published, with a clock of its own."""

    def __init__(self, folder: Path, keys: SigningKeys) -> None:
        self._keys, self._path, self.clock = keys, folder / "jwks.json", Clock()
        self.settings = Settings(jwks=str(self._path))
        self.publish()
        self._verifier = TokenVerifier(self.settings, self.clock)

    def publish(self) -> None:
        """What ``/api/v1/people/jwks.json`` answers from now on."""
        self._path.write_text(json.dumps(self._keys.public()))

    def believes(self, token: str) -> bool:
        """Whether it takes the token."""
        try:
            self._verifier.verify(token)
        except Unauthenticated:
            return False
        return True


def test_a_token_says_account_roles_district_and_login_and_lasts_five_minutes(tmp_path: Path) -> None:
    keys = SigningKeys(key_file(tmp_path / "keys.json", tokens.new_key()), production=True)
    service = Service(tmp_path, keys)
    token = signed(keys, service.settings)
    actor = TokenVerifier(service.settings).verify(token)
    assert (actor.id, actor.roles, actor.scope) == ("a1", frozenset({"worker", "county_officer"}), "370902")
    assert (actor.session, actor.csrf) == ("s1", "c1")
    old = tokens.access_token(keys, service.settings, ACCOUNT, SESSION, "c1", NOON)
    assert not service.believes(old)
    assert auth.TOKEN_SECONDS == 300


def test_only_public_halves_are_published(tmp_path: Path) -> None:
    keys = SigningKeys(key_file(tmp_path / "keys.json", tokens.new_key(), tokens.new_key()), production=True)
    published = keys.public()["keys"]
    assert len(published) == 2
    assert all({"kty", "crv", "x", "y", "kid", "use", "alg"} == set(key) for key in published)


def test_a_key_is_published_before_it_signs_and_no_token_is_refused_meanwhile(tmp_path: Path) -> None:
    old, new = tokens.new_key(), tokens.new_key()
    path = key_file(tmp_path / "keys.json", old)
    keys = SigningKeys(path, production=True)
    service = Service(tmp_path, keys)
    first = signed(keys, service.settings)
    assert service.believes(first)
    key_file(path, old, new)
    service.publish()
    assert service.believes(signed(keys, service.settings)), "still the old key's"
    service.clock.now += auth.KEYS_STALE_SECONDS
    assert service.believes(first), "by now it has read the new key, too"
    key_file(path, old, new, current=1)
    second = signed(keys, service.settings)
    assert service.believes(second)
    assert service.believes(first)
    key_file(path, new)
    service.publish()
    service.clock.now += auth.KEYS_STALE_SECONDS
    assert service.believes(second)
    assert not service.believes(first), "a key that was taken out is believed no more"


def test_a_file_that_breaks_while_it_runs_changes_nothing(tmp_path: Path) -> None:
    path = key_file(tmp_path / "keys.json", tokens.new_key())
    keys = SigningKeys(path, production=True)
    service = Service(tmp_path, keys)
    path.write_text("{")
    assert service.believes(signed(keys, service.settings))
    path.unlink()
    assert service.believes(signed(keys, service.settings))


def test_the_local_issuers_single_key_does_in_local_mode_only(tmp_path: Path) -> None:
    auth.create_local_issuer(tmp_path)
    path = tmp_path / "issuer.json"
    assert len(SigningKeys(path, production=False).public()["keys"]) == 1
    with pytest.raises(SettingError, match=r"^ESTATION_SIGNING_KEYS: .*demo key"):
        SigningKeys(path, production=True)


P384 = ECKey.generate_key("P-384", {"kid": "p384"}, private=True).as_dict(private=True)
PUBLIC = ECKey.generate_key("P-256", {"kid": "public"}, private=True).as_dict(private=False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"keys": []}',
        '{"current": "a", "keys": []}',
        '{"current": "a", "keys": [{"kty": "oct", "k": "AA", "kid": "a"}]}',
        json.dumps({"current": "p384", "keys": [P384]}),
        json.dumps({"current": "public", "keys": [PUBLIC]}),
        json.dumps({"current": "other", "keys": [tokens.new_key()]}),
    ],
)
def test_a_wrong_file_ends_the_start_in_one_line_without_a_key_in_it(tmp_path: Path, text: str) -> None:
    path = tmp_path / "keys.json"
    path.write_text(text)
    path.chmod(0o600)
    with pytest.raises(SettingError) as refused:
        SigningKeys(path, production=False)
    message = str(refused.value)
    assert message.startswith("ESTATION_SIGNING_KEYS: ")
    assert "\n" not in message
    assert len(message) < 120


@pytest.mark.parametrize("mode", [0o644, 0o660, 0o604])
def test_a_file_that_others_read_is_refused(tmp_path: Path, mode: int) -> None:
    path = key_file(tmp_path / "keys.json", tokens.new_key(), mode=mode)
    with pytest.raises(SettingError, match="chmod 600"):
        SigningKeys(path, production=False)


def test_a_missing_file_is_named_by_its_setting(tmp_path: Path) -> None:
    with pytest.raises(SettingError, match=r"^ESTATION_SIGNING_KEYS: the file cannot be read"):
        SigningKeys(tmp_path / "none.json", production=False)
