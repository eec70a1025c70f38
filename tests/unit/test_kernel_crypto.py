"""Tokens, key files, the erasure ledger, blind indexes: known answers, tampering, files that are not right."""

import base64
import hashlib
import hmac
import json
import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from services.kernel import masterkeys
from services.kernel.crypto import BlindIndex, Place, person_ref
from services.kernel.erasure import Erasure, FileLedger, LedgerUnreadable
from services.kernel.masterkeys import KeyFile, Undecryptable, create_key_file, rotate_key_file, seal, unseal
from services.kernel.personal import IdentityNumber
from services.kernel.settings import SettingError

AT = datetime(2025, 7, 16, 4, 0, 0, 123000, tzinfo=UTC)
KEY = bytes(range(32))


class TestTokens:
    """AES-256-GCM."""

    def test_opens_the_known_answer(self) -> None:
        """Test case 16 of the GCM specification (McGrew and Viega), which NIST took over."""
        key = bytes.fromhex("feffe9928665731c6d6a8f9467308308" * 2)
        nonce = bytes.fromhex("cafebabefacedbaddecaf888")
        aad = bytes.fromhex("feedfacedeadbeeffeedfacedeadbeefabaddad2")
        plain = bytes.fromhex(
            "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
            "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39"
        )
        sealed = bytes.fromhex(
            "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
            "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662"
            "76fc6ece0f4e1768cddf8853bb2d551b"
        )
        assert unseal(AESGCM(key), b"\x01" + nonce + sealed, aad) == plain

    @given(st.binary(), st.binary())
    def test_what_was_sealed_opens(self, plain: bytes, aad: bytes) -> None:
        token = seal(AESGCM(KEY), plain, aad)
        assert unseal(AESGCM(KEY), token, aad) == plain
        assert len(token) == 1 + 12 + len(plain) + 16
        assert len(plain) < 8 or plain not in token

    def test_no_two_tokens_are_alike(self) -> None:
        cipher = AESGCM(KEY)
        nonces = {seal(cipher, b"same", b"place")[1:13] for _ in range(1000)}
        assert len(nonces) == 1000

    def test_a_change_of_any_bit_is_found(self) -> None:
        cipher = AESGCM(KEY)
        token = seal(cipher, "张三".encode(), b"people|name|1")
        for place in range(len(token)):
            for bit in range(8):
                changed = bytearray(token)
                changed[place] ^= 1 << bit
                with pytest.raises(Undecryptable):
                    unseal(cipher, bytes(changed), b"people|name|1")

    def test_a_token_cut_short_or_made_longer_is_found(self) -> None:
        cipher = AESGCM(KEY)
        token = seal(cipher, b"13800138000", b"")
        for length in range(len(token)):
            with pytest.raises(Undecryptable):
                unseal(cipher, token[:length], b"")
        with pytest.raises(Undecryptable):
            unseal(cipher, token + b"\0", b"")

    @pytest.mark.parametrize(
        "other",
        [
            Place("people", "name", "2"),
            Place("people", "phone", "1"),
            Place("children", "name", "1"),
            Place("people", "name", ""),
        ],
    )
    def test_it_opens_in_its_own_place_only(self, other: Place) -> None:
        cipher = AESGCM(KEY)
        token = seal(cipher, b"x", Place("people", "name", "1").aad)
        with pytest.raises(Undecryptable):
            unseal(cipher, token, other.aad)
        assert unseal(cipher, token, Place("people", "name", "1").aad) == b"x"

    def test_it_opens_under_its_own_key_only(self) -> None:
        token = seal(AESGCM(KEY), b"x", b"")
        with pytest.raises(Undecryptable):
            unseal(AESGCM(KEY[::-1]), token, b"")


def text_of(key: bytes) -> str:
    return base64.b64encode(key).decode()


def content(**more: Any) -> dict[str, Any]:
    """What a good key file holds."""
    known = {"current": "k1", "keys": {"k1": text_of(KEY)}, "index": {"id": "i1", "key": text_of(KEY[::-1])}}
    return {**known, **more}


def written(path: Path, document: Any, mode: int = 0o600) -> Path:
    """A key file, replaced as a whole."""
    new = path.with_suffix(".new")
    new.write_text(document if isinstance(document, str) else json.dumps(document))
    new.chmod(mode)
    new.replace(path)
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the key file is."""
    return tmp_path / "keys.json"


class TestKeyFile:
    """Master keys in a file."""

    def test_wraps_under_the_current_key_and_unwraps_under_any(self, path: Path) -> None:
        keys = KeyFile(written(path, content()), production=True)
        id_, wrapped = keys.wrap(b"secret", "person-1")
        assert (id_, keys.current) == ("k1", "k1")
        both = {"k1": text_of(KEY), "k2": text_of(b"2" * 32)}
        later = KeyFile(written(path, content(current="k2", keys=both)), production=True)
        assert later.unwrap("k1", wrapped, "person-1") == b"secret"
        assert later.wrap(b"secret", "person-1")[0] == "k2"

    def test_a_wrapped_key_is_of_one_person_and_one_master_key(self, path: Path) -> None:
        both = {"k1": text_of(KEY), "k2": text_of(b"2" * 32)}
        keys = KeyFile(written(path, content(keys=both)), production=True)
        _id, wrapped = keys.wrap(b"secret", "person-1")
        for id_, person in (("k1", "person-2"), ("k2", "person-1"), ("k3", "person-1")):
            with pytest.raises(Undecryptable):
                keys.unwrap(id_, wrapped, person)

    def test_a_change_of_the_file_is_noticed_while_running(self, path: Path) -> None:
        keys = KeyFile(written(path, content()), production=True)
        _id, wrapped = keys.wrap(b"secret", "person-1")
        id_ = rotate_key_file(path)
        assert keys.current == id_
        assert keys.wrap(b"secret", "person-1")[0] == id_
        assert keys.unwrap("k1", wrapped, "person-1") == b"secret"
        document = json.loads(path.read_text())
        written(path, {**document, "keys": {id_: document["keys"][id_]}})
        with pytest.raises(Undecryptable, match="k1"):
            keys.unwrap("k1", wrapped, "person-1")

    @pytest.mark.parametrize("broken", ["", "[]", "{", json.dumps(content(current="k9"))])
    def test_while_the_file_is_broken_the_known_keys_hold(self, path: Path, broken: str) -> None:
        keys = KeyFile(written(path, content()), production=True)
        id_, wrapped = keys.wrap(b"secret", "person-1")
        written(path, broken)
        assert keys.unwrap(id_, wrapped, "person-1") == b"secret"
        path.unlink()
        assert keys.wrap(b"secret", "person-1")[0] == "k1"
        written(path, content(current="k2", keys={"k1": text_of(KEY), "k2": text_of(KEY)}))
        assert keys.current == "k2"

    def test_a_demo_key_that_comes_later_is_not_taken(self, path: Path) -> None:
        keys = KeyFile(written(path, content()), production=True)
        written(path, content(current="demo-2", keys={"k1": text_of(KEY), "demo-2": text_of(KEY)}))
        assert keys.current == "k1"

    @pytest.mark.parametrize(
        "demo",
        [
            {"current": "demo-1", "keys": {"demo-1": text_of(KEY)}},
            {"keys": {"k1": text_of(KEY), "demo-old": text_of(KEY)}},
            {"index": {"id": "demo-1", "key": text_of(KEY)}},
            {"federation": {"id": "demo-1", "key": text_of(KEY)}},
        ],
    )
    def test_production_refuses_demo_keys(self, path: Path, demo: dict[str, Any]) -> None:
        written(path, content(**demo))
        assert KeyFile(path, production=False).index_key
        with pytest.raises(SettingError, match=r"ESTATION_KEYS.*demo"):
            KeyFile(path, production=True)

    @pytest.mark.parametrize("mode", [0o604, 0o602, 0o601, 0o620, 0o666])
    def test_a_file_that_is_open_to_others_is_refused(self, path: Path, mode: int) -> None:
        written(path, content(), mode)
        with pytest.raises(SettingError, match=r"chmod 600"):
            KeyFile(path, production=False)

    @pytest.mark.parametrize("mode", [0o600, 0o400, 0o440])
    def test_a_file_of_its_owner_and_group_is_taken(self, path: Path, mode: int) -> None:
        assert KeyFile(written(path, content(), mode), production=True).current == "k1"

    @pytest.mark.parametrize(
        "document",
        [
            "",
            "no json",
            "[]",
            "1",
            {},
            content(current="k2"),
            content(current=["k1"]),
            content(keys=[]),
            content(keys={}),
            content(keys={"k1": text_of(KEY[:16])}),
            content(keys={"k1": text_of(KEY) + "="}),
            content(keys={"k1": 7}),
            content(keys={"k1": "\u6cf0"}),
            content(index=None),
            content(index={"key": text_of(KEY)}),
            content(index={"id": 1, "key": text_of(KEY)}),
            content(index={"id": "i1", "key": ""}),
            content(federation={"id": "f1"}),
        ],
    )
    def test_a_malformed_file_ends_the_process_with_one_line(self, path: Path, document: Any) -> None:
        written(path, document)
        with pytest.raises(SettingError) as error:
            KeyFile(path, production=True)
        line = str(error.value)
        assert line.startswith("ESTATION_KEYS: ")
        assert "\n" not in line
        assert text_of(KEY)[:8] not in line

    def test_a_missing_file_ends_the_process(self, path: Path) -> None:
        with pytest.raises(SettingError, match="cannot be read"):
            KeyFile(path, production=False)

    def test_a_made_file_is_private_whole_and_stays(self, path: Path) -> None:
        path = path.parent / "secrets" / "keys.json"
        create_key_file(path, demo=True, federation=True)
        keys = KeyFile(path, production=False)
        assert path.stat().st_mode & 0o777 == 0o600
        assert keys.current.startswith("demo-")
        assert len({keys.index_key, keys.federation_key}) == 2
        before = path.read_bytes()
        create_key_file(path, demo=False, federation=False)
        assert path.read_bytes() == before
        assert [one.name for one in path.parent.iterdir()] == ["keys.json"]

    def test_a_file_is_whole_on_disk_before_it_takes_the_place_of_the_old(
        self, path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        create_key_file(path, demo=False, federation=False)
        old, on_disk, synced = path.read_bytes(), [], os.fsync

        def fsync(descriptor: int) -> None:
            synced(descriptor)
            on_disk.append((Path(f"/proc/self/fd/{descriptor}").readlink(), path.read_bytes()))

        monkeypatch.setattr(os, "fsync", fsync)
        rotate_key_file(path)
        (new, before), folder = on_disk
        assert (new.parent, before) == (path.parent, old)
        assert folder == (path.parent, path.read_bytes())
        assert path.read_bytes() != old

    def test_a_made_file_for_production_has_no_demo_keys(self, path: Path) -> None:
        create_key_file(path, demo=False, federation=False)
        keys = KeyFile(path, production=True)
        with pytest.raises(SettingError, match="federation"):
            _ = keys.federation_key
        rotate_key_file(path)
        assert KeyFile(path, production=True).current == keys.current

    def test_a_rotated_demo_key_is_a_demo_key(self, path: Path) -> None:
        create_key_file(path, demo=True, federation=False)
        assert rotate_key_file(path).startswith("demo-")
        assert len(json.loads(path.read_text())["keys"]) == 2

    def test_keys_are_in_no_repr(self, path: Path) -> None:
        keys = KeyFile(written(path, content()), production=True)
        shown = repr(keys) + repr(keys._content)
        assert text_of(KEY) not in shown
        assert repr(KEY) not in shown


@pytest.fixture
def ledger(tmp_path: Path) -> FileLedger:
    """A ledger of this test's own."""
    made = FileLedger(tmp_path / "ledger" / "people.jsonl")
    made.create()
    return made


class TestFileLedger:
    """The erasure ledger as a file."""

    def test_rows_come_back_in_order(self, ledger: FileLedger) -> None:
        rows = [Erasure(subject, AT) for subject in ("a", "b\n", "张", "a")]
        for row in rows:
            ledger.append(row)
        assert list(ledger.all()) == rows
        ledger.create()
        assert list(ledger.all()) == rows

    def test_it_is_nobody_elses(self, ledger: FileLedger) -> None:
        assert ledger._path.stat().st_mode & 0o077 == 0

    def test_a_row_is_on_disk_when_append_returns(self, ledger: FileLedger, monkeypatch: pytest.MonkeyPatch) -> None:
        on_disk: list[bytes] = []
        synced = os.fsync

        def fsync(descriptor: int) -> None:
            synced(descriptor)
            on_disk.append(Path(f"/proc/self/fd/{descriptor}").read_bytes())

        monkeypatch.setattr(os, "fsync", fsync)
        ledger.append(Erasure("a", AT))
        assert [json.loads(row)["subject"] for row in on_disk] == ["a"]

    def test_what_a_killed_process_began_is_no_row_and_in_nobodys_way(self, ledger: FileLedger) -> None:
        ledger.append(Erasure("a", AT))
        whole = ledger._path.read_bytes()
        for cut in range(1, len(whole)):
            ledger._path.write_bytes(whole + whole[:-cut])
            assert list(ledger.all()) == [Erasure("a", AT)]
            ledger.append(Erasure("b", AT))
            assert list(ledger.all()) == [Erasure("a", AT), Erasure("b", AT)]
        ledger._path.write_bytes(whole[:5])
        ledger.append(Erasure("b", AT))
        assert list(ledger.all()) == [Erasure("b", AT)]

    @pytest.mark.parametrize(
        "line", [b"", b"{}", b"[]", b"1", b"\xff", b'{"subject": "a"}', b'{"subject": "a", "at": 1}']
    )
    def test_a_damaged_line_is_named(self, ledger: FileLedger, line: bytes) -> None:
        ledger.append(Erasure("a", AT))
        with ledger._path.open("ab") as file:
            file.write(line + b"\n")
        ledger.append(Erasure("b", AT))
        with pytest.raises(LedgerUnreadable, match="line 2 "):
            list(ledger.all())

    def test_a_ledger_that_is_not_there_is_not_an_empty_one(self, tmp_path: Path) -> None:
        elsewhere = FileLedger(tmp_path / "elsewhere.jsonl")
        with pytest.raises(LedgerUnreadable, match="estation migrate"):
            list(elsewhere.all())
        with pytest.raises(LedgerUnreadable, match="estation migrate"):
            elsewhere.append(Erasure("a", AT))
        assert not list(tmp_path.glob("elsewhere*"))

    def test_many_may_append(self, ledger: FileLedger) -> None:
        rows = [Erasure(f"person-{number}", AT) for number in range(80)]
        with ThreadPoolExecutor(8) as pool:
            list(pool.map(FileLedger(ledger._path).append, rows))
        assert sorted(ledger.all()) == sorted(rows)


def hkdf(key: bytes, salt: bytes, info: bytes, length: int) -> bytes:
    """RFC 5869 in the standard library's words."""
    root, found, block = hmac.digest(salt or bytes(32), key, "sha256"), b"", b""
    while len(found) < length:
        block = hmac.digest(root, block + info + bytes([len(found) // 32 + 1]), "sha256")
        found += block
    return found[:length]


class TestBlindIndex:
    """HKDF and HMAC-SHA256."""

    def test_the_oracle_gives_the_known_answer(self) -> None:
        """RFC 5869, test case 1."""
        found = hkdf(b"\x0b" * 22, bytes(range(13)), bytes(range(0xF0, 0xFA)), 42)
        assert found.hex() == ("3cb25f25faacd57a90434f64d0362f2a2d2d0a90cf1a5a4c5db02d56ecc4c5bf34007208d5b887185865")

    @given(st.binary(min_size=32, max_size=32), st.text())
    def test_is_what_the_standards_say(self, key: bytes, value: str) -> None:
        field_key = hkdf(key, b"", b"estation/blind-index/v1|people|accounts|phone", 32)
        expected = hmac.new(field_key, value.encode(), hashlib.sha256).hexdigest()[:32]
        assert BlindIndex(key, "people", "accounts", "phone").of(value) == expected

    def test_equal_values_look_equal_in_one_field_only(self) -> None:
        places = [
            ("people", "accounts", "phone"),
            ("people", "accounts", "name"),
            ("people", "children", "phone"),
            ("care", "accounts", "phone"),
        ]
        found = {BlindIndex(KEY, *place).of("+8613800138000") for place in places}
        found.add(BlindIndex(KEY[::-1], *places[0]).of("+8613800138000"))
        assert len(found) == 5

    def test_person_ref_gives_the_known_answer(self) -> None:
        """RFC 4231, test case 2."""
        number = IdentityNumber("what do ya want for nothing?", date(1990, 1, 1), "male")
        assert person_ref(b"Jefe", number) == "5bdcc146bf60754e6a042426089575c75a003f089d2739839dec58b964ec3843"


def test_a_place_is_what_the_design_says() -> None:
    assert Place("accounts", "phone", "0197|x").aad == b"accounts|phone|0197|x"


def test_a_token_begins_with_its_version() -> None:
    assert seal(AESGCM(KEY), b"", b"")[:1] == masterkeys.VERSION == b"\x01"


def test_who_could_read_a_key_file_can_read_it_after_a_rotation(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    masterkeys.create_key_file(path, demo=True, federation=False)
    path.chmod(0o640)
    masterkeys.rotate_key_file(path)
    assert path.stat().st_mode & 0o777 == 0o640
