"""Archives: what was sealed comes back byte for byte; what is damaged anywhere is refused; what is too old goes."""

import io
import stat
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import bson
import pyrage
import pytest

from deploy import archives
from deploy.archives import DATA, KEYS, BackupKey, Header, Unusable
from services.kernel.settings import SettingError

NOW = datetime(2025, 8, 31, 12, tzinfo=UTC)
HEADER = Header("people", DATA, NOW, snapshot=True)
CHUNK = 65536 + 16
"""An age chunk with its tag."""
DOCUMENTS = {
    "accounts": [bson.encode({"_id": number, "filling": bytes([number % 251]) * 997}) for number in range(400)],
    "empty": [],
    "large": [bson.encode({"_id": "x", "filling": b"\0" * ((16 << 20) - 100)})],
    "odd": [bson.encode({"collection": "accounts"}), bson.encode({"contents": []}), bson.encode({})],
}


@pytest.fixture(scope="module")
def key(tmp_path_factory: pytest.TempPathFactory) -> BackupKey:
    return fresh(tmp_path_factory.mktemp("key") / "backup.key")


def fresh(path: Path) -> BackupKey:
    archives.create_key(path, demo=False)
    return BackupKey(path, production=True)


@pytest.fixture(scope="module")
def sealed(key: BackupKey, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    path = tmp_path_factory.mktemp("archive") / archives.name(HEADER)
    contents = archives.write(path, HEADER, DOCUMENTS.items(), key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert {one.collection: one.documents for one in contents} == {name: len(all_) for name, all_ in DOCUMENTS.items()}
    assert list(path.parent.iterdir()) == [path]
    return path.read_bytes()


def opened(sealed: bytes, key: BackupKey) -> dict[str, list[bytes]]:
    found: dict[str, list[bytes]] = {}
    header, contents = archives.read(
        io.BytesIO(sealed), key, lambda collection, document: found.setdefault(collection, []).append(document)
    )
    assert header == HEADER
    return {one.collection: found.get(one.collection, []) for one in contents}


def test_what_was_sealed_comes_back_byte_for_byte(sealed: bytes, key: BackupKey) -> None:
    assert opened(sealed, key) == DOCUMENTS


def payload(sealed: bytes) -> int:
    """Where the chunks begin: after age's header and its nonce."""
    return sealed.index(b"\n", sealed.index(b"\n--- ") + 1) + 1 + 16


def test_a_changed_bit_anywhere_is_refused(sealed: bytes, key: BackupKey) -> None:
    start = payload(sealed)
    tag = start + CHUNK - 1
    end = len(sealed)
    for place in (0, 25, start - 20, start - 1, start, tag, tag + 1, end // 2, end - 17, end - 1):
        damaged = bytearray(sealed)
        damaged[place] ^= 1
        with pytest.raises(Unusable):
            opened(bytes(damaged), key)


def test_a_cut_or_longer_file_is_refused(sealed: bytes, key: BackupKey) -> None:
    start = payload(sealed)
    for cut in (0, 10, start - 1, start, start + CHUNK, start + 3 * CHUNK, start + CHUNK + 1, len(sealed) - 1):
        with pytest.raises(Unusable):
            opened(sealed[:cut], key)
    for more in (b"\0", sealed[start : start + CHUNK], sealed):
        with pytest.raises(Unusable):
            opened(sealed + more, key)


def test_chunks_in_another_order_are_refused(sealed: bytes, key: BackupKey) -> None:
    start = payload(sealed)
    first, second = sealed[start : start + CHUNK], sealed[start + CHUNK : start + 2 * CHUNK]
    rest = sealed[start + 2 * CHUNK :]
    for other in (second + first + rest, first + first + second + rest, second + rest, first + rest):
        with pytest.raises(Unusable):
            opened(sealed[:start] + other, key)


def test_another_key_opens_nothing_and_an_older_line_of_the_key_file_does(
    sealed: bytes, key: BackupKey, tmp_path: Path
) -> None:
    with pytest.raises(Unusable, match="not sealed with this key"):
        opened(sealed, fresh(tmp_path / "other.key"))
    rotated = tmp_path / "rotated.key"
    rotated.write_text(f"# two of them\n{pyrage.x25519.Identity.generate()}\n{key.identities[0]}\n")
    rotated.chmod(0o600)
    assert opened(sealed, BackupKey(rotated, production=True)) == DOCUMENTS


HEAD = bson.encode({"format": archives.FORMAT, "service": "x", "kind": DATA, "taken_at": NOW, "snapshot": True})
START, NOTHING = bson.encode({"collection": "a"}), bson.encode({"contents": []})


@pytest.mark.parametrize(
    "plain",
    [
        b"",
        b"anything at all, which is no BSON",
        HEAD,
        HEAD.replace(b"backup/1", b"backup/9") + NOTHING,
        NOTHING,
        HEAD + START + b"\0\0\0\0" + NOTHING,
        HEAD + START + NOTHING,
        HEAD + NOTHING + NOTHING,
        HEAD + NOTHING + b"\0",
        HEAD + b"\0\0\0\0" + NOTHING,
        HEAD + bson.encode({"contents": [{"collection": "a", "documents": 1, "sha256": ""}]}),
    ],
)
def test_what_we_did_not_write_is_refused_even_under_our_key(plain: bytes, key: BackupKey) -> None:
    assert opened_header(HEAD + NOTHING, key) == "x"
    with pytest.raises(Unusable):
        opened_header(plain, key)


def opened_header(plain: bytes, key: BackupKey) -> str:
    sealed = pyrage.encrypt(plain, [key.identities[0].to_public()])
    return archives.read(io.BytesIO(sealed), key)[0].service


def test_a_database_that_fails_half_way_leaves_no_file_and_says_why(key: BackupKey, tmp_path: Path) -> None:
    def dies() -> Iterator[bytes]:
        yield from DOCUMENTS["accounts"]
        raise ConnectionResetError("gone")

    with pytest.raises(ConnectionResetError, match="gone"):
        archives.write(tmp_path / archives.name(HEADER), HEADER, [("accounts", dies())], key)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_takes_anothers_place_keeps_its_mode_and_a_failed_one_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    with archives.whole_file(path) as file:
        file.write(b"first")
    path.chmod(0o640)
    with pytest.raises(TypeError), archives.whole_file(path) as file:
        file.write(b"half" + file.write(b"more"))  # type: ignore[operator]
    assert path.read_bytes() == b"first"
    with archives.whole_file(path) as file:
        file.write(b"second")
    assert (path.read_bytes(), stat.S_IMODE(path.stat().st_mode)) == (b"second", 0o640)
    assert list(tmp_path.iterdir()) == [path]


def kept(folder: Path, service: str, kind: str, age: timedelta) -> Path:
    path = folder / archives.name(Header(service, kind, NOW - age, snapshot=True))
    path.touch()
    return path


SECOND = timedelta(seconds=1)


@pytest.mark.parametrize(("kind", "days"), [(DATA, 30), (KEYS, 7)])
def test_exactly_what_is_too_old_goes(kind: str, days: int, tmp_path: Path) -> None:
    limit = timedelta(days=days)
    young = [kept(tmp_path, one, kind, age) for one in ("people", "stations") for age in (0 * SECOND, limit)]
    old = [kept(tmp_path, one, kind, limit + age) for one in ("people", "gone") for age in (SECOND, 9 * limit)]
    others = [tmp_path / name for name in ("notes.txt", "people-data-20250230T000000Z-00000000.age", "x.age")]
    for path in (*others, part := tmp_path / f".{old[0].name}.0123abcd.part", tmp_path / f".{young[0].name}.0a.part"):
        path.touch()
    others.append(tmp_path / f".{young[0].name}.0a.part")
    other_kind = kept(tmp_path, "people", DATA if kind == KEYS else KEYS, 9 * limit)
    assert set(archives.expire(tmp_path, kind, NOW, ())) == {*old, part}
    assert set(tmp_path.iterdir()) == {*young, *others, other_kind}
    assert archives.expire(tmp_path, kind, NOW, ()) == []


def test_the_newest_one_stays_while_no_newer_one_can_be_made(tmp_path: Path) -> None:
    older, old = (kept(tmp_path, "people", DATA, timedelta(days=days)) for days in (60, 31))
    fine = kept(tmp_path, "stations", DATA, timedelta(days=31))
    assert set(archives.expire(tmp_path, DATA, NOW, ["people", "metrics"])) == {older, fine}
    assert list(tmp_path.iterdir()) == [old]
    assert archives.expire(tmp_path, DATA, NOW, ()) == [old]


def test_a_key_file_that_is_none_is_named(tmp_path: Path) -> None:
    path = tmp_path / "backup.key"
    with pytest.raises(SettingError, match="ESTATION_BACKUP_KEY: the file cannot be read"):
        BackupKey(path, production=False)
    archives.create_key(path, demo=True)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    BackupKey(path, production=False)
    with pytest.raises(SettingError, match="demo key"):
        BackupKey(path, production=True)
    before = path.read_bytes()
    with pytest.raises(FileExistsError):
        archives.create_key(path, demo=False)
    assert path.read_bytes() == before
    path.chmod(0o644)
    with pytest.raises(SettingError, match="chmod 600"):
        BackupKey(path, production=False)
    path.chmod(0o600)
    for text, problem in (("# nothing\n", "holds no key"), ("AGE-SECRET-KEY-1X\n", "malformed"), ("\n\n", "no key")):
        path.write_text(text)
        with pytest.raises(SettingError, match=problem):
            BackupKey(path, production=False)
