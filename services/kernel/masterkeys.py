"""Sealed tokens (AES-256-GCM), and the master keys that wrap the keys of persons.

Sources: NIST SP 800-38D (AES-GCM), RFC 5116.
"""

import base64
import json
import os
import secrets
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from services.kernel import logging
from services.kernel.auth import DEMO_KEY_PREFIX
from services.kernel.settings import SettingError

KEY_BYTES: Final = 32
NONCE_BYTES: Final = 12
TAG_BYTES: Final = 16
VERSION: Final = b"\x01"
"""The first byte of a token; a random nonce of 12 bytes, the ciphertext and a tag of 16 bytes follow."""
SETTING: Final = "ESTATION_KEYS"
_NOT_FOR_OTHERS: Final = 0o027
"""A group may read: orchestrators hand secrets to an unprivileged process that way."""
_MALFORMED: Final = (ValueError, KeyError, TypeError, AttributeError)


class Undecryptable(Exception):
    """A token is not what was sealed in this place for this person, or its key is not to be had."""


def seal(cipher: AESGCM, plain: bytes, aad: bytes) -> bytes:
    """A token that opens under the same key and ``aad`` only; a key may seal 2^32 of them."""
    nonce = os.urandom(NONCE_BYTES)
    return VERSION + nonce + cipher.encrypt(nonce, plain, aad)


def unseal(cipher: AESGCM, token: bytes, aad: bytes) -> bytes:
    """What was sealed.

    Raises:
        Undecryptable: the token was changed, or sealed with another key or ``aad``.
    """
    start = len(VERSION) + NONCE_BYTES
    if token[:1] != VERSION or len(token) < start + TAG_BYTES:
        raise Undecryptable("not a token of this version")
    try:
        return cipher.decrypt(token[1:start], token[start:], aad)
    except InvalidTag:
        raise Undecryptable("changed, moved or of another key") from None


class KeyManagement(Protocol):
    """What wraps the keys of persons: a file here, a key management service elsewhere.

    ``context`` is authenticated with the wrapped key (an encryption context): a key unwraps for its own person only.
    """

    @property
    def current(self) -> str:
        """The id of the master key that wraps from now on."""

    def wrap(self, plain: bytes, context: str) -> tuple[str, bytes]:
        """The id of the master key used, and the wrapped key."""

    def unwrap(self, key_id: str, wrapped: bytes, context: str) -> bytes:
        """The key again.

        Raises:
            Undecryptable: not wrapped by this master key in this context, or the master key is not known.
        """


@dataclass(frozen=True, slots=True)
class _Content:
    current: str
    masters: Mapping[str, AESGCM] = field(repr=False)
    index: bytes = field(repr=False)
    federation: bytes | None = field(repr=False)


class KeyFile:
    """Keys in a file that only its owner writes and no stranger reads.

    ``{"current": id, "keys": {id: key}, "index": {"id": id, "key": key}, "federation": {...}}``, keys in base64, 32
    bytes each. A changed file takes effect with the next key that is wrapped or unwrapped, so that no process goes on
    wrapping under a master key that was taken out; one that cannot be read changes nothing and is logged.
    """

    def __init__(self, path: Path, *, production: bool) -> None:
        """Reads the file.

        Raises:
            SettingError: it is missing, open to others, malformed, or holds demo keys in production mode.
        """
        self._path, self._production = path, production
        try:
            self._seen = _stamp(path)
            self._content = self._read()
        except OSError:
            raise SettingError(SETTING, "the key file cannot be read") from None
        except _MALFORMED as error:
            raise SettingError(SETTING, str(error) if type(error) is ValueError else "malformed key file") from None

    @property
    def current(self) -> str:
        """The id of the master key that wraps from now on."""
        return self._fresh().current

    @property
    def index_key(self) -> bytes:
        """The root of this service's blind indexes."""
        return self._content.index

    @property
    def federation_key(self) -> bytes:
        """The key of person_ref; in the file of the people service only.

        Raises:
            SettingError: the file has none.
        """
        if self._content.federation is None:
            raise SettingError(SETTING, "the key file has no federation key")
        return self._content.federation

    def wrap(self, plain: bytes, context: str) -> tuple[str, bytes]:
        """The id of the current master key, and the wrapped key."""
        content = self._fresh()
        return content.current, seal(content.masters[content.current], plain, context.encode())

    def unwrap(self, key_id: str, wrapped: bytes, context: str) -> bytes:
        """The key again.

        Raises:
            Undecryptable: not wrapped by this master key in this context, or the master key is not in the file.
        """
        master = self._fresh().masters.get(key_id)
        if master is None:
            raise Undecryptable(f"master key {key_id} is not in the key file")
        return unseal(master, wrapped, context.encode())

    def _fresh(self) -> _Content:
        try:
            stamp = _stamp(self._path)
            if stamp != self._seen:
                self._content = self._read()
                self._seen = stamp  # older than what was read: a file that changes meanwhile is read again
        except (OSError, *_MALFORMED):
            logging.get().exception("key_file_unreadable")
        return self._content

    def _read(self) -> _Content:
        if self._path.stat().st_mode & _NOT_FOR_OTHERS:
            raise ValueError("the key file is open to others: chmod 600 it")
        document = json.loads(self._path.read_bytes())
        federation = document.get("federation")
        ids = [*document["keys"], document["index"]["id"], *([federation["id"]] if federation else [])]
        if self._production and any(id_.startswith(DEMO_KEY_PREFIX) for id_ in ids):
            raise ValueError("the key file holds a demo key, which production mode refuses")
        masters = {id_: AESGCM(_key(text)) for id_, text in document["keys"].items()}
        if document["current"] not in masters:
            raise ValueError("the key file's current master key is not among its keys")
        return _Content(
            document["current"],
            masters,
            _key(document["index"]["key"]),
            _key(federation["key"]) if federation else None,
        )


def create_key_file(path: Path, *, demo: bool, federation: bool) -> None:
    """Makes a key file with fresh keys unless it is there.

    ``demo``: keys that production refuses; ``federation``: with the key of person_ref, for the people service.
    """
    if path.exists():
        return
    prefix = DEMO_KEY_PREFIX if demo else ""
    master = _new_key(prefix)
    document: dict[str, Any] = {
        "current": master["id"],
        "keys": {master["id"]: master["key"]},
        "index": _new_key(prefix),
    }
    if federation:
        document["federation"] = _new_key(prefix)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    _write(path, document)


def rotate_key_file(path: Path) -> str:
    """Adds a fresh master key and makes it the current one; its id. ``SubjectKeys.rewrap`` does the rest.

    For processes that read one and the same file. With a copy on each host, first hand out the new key everywhere,
    then make it the current one.
    """
    document = json.loads(path.read_bytes())
    master = _new_key(DEMO_KEY_PREFIX if document["current"].startswith(DEMO_KEY_PREFIX) else "")
    document["keys"][master["id"]] = master["key"]
    document["current"] = master["id"]
    _write(path, document)
    return master["id"]


def retire_master_key(path: Path, id_: str) -> None:
    """Takes a master key out of the file, which must not be needed any more.

    Raises:
        ValueError: it is the current one, or not there.
    """
    document = json.loads(path.read_bytes())
    if id_ == document["current"]:
        raise ValueError(f"{id_} is the current master key")
    if document["keys"].pop(id_, None) is None:
        raise ValueError(f"{id_} is not in the key file")
    _write(path, document)


def _stamp(path: Path) -> tuple[int, int, int]:
    found = path.stat()
    return found.st_mtime_ns, found.st_ino, found.st_size


def _key(text: str) -> bytes:
    key = base64.b64decode(text, validate=True)
    if len(key) != KEY_BYTES:
        raise ValueError(f"a key in the key file has not {KEY_BYTES} bytes")
    return key


def _new_key(prefix: str) -> dict[str, str]:
    return {
        "id": prefix + secrets.token_hex(4),
        "key": base64.b64encode(secrets.token_bytes(KEY_BYTES)).decode(),
    }


def _write(path: Path, document: Mapping[str, Any]) -> None:
    """The whole file or nothing of it, on disk."""
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            if path.exists():  # whoever could read it has to read the new one: root may rotate for a service
                was = path.stat()
                os.fchown(descriptor, was.st_uid, was.st_gid)
                os.fchmod(descriptor, stat.S_IMODE(was.st_mode))
            json.dump(document, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
    except BaseException:
        new.unlink(missing_ok=True)
        raise
    new.replace(path)
    sync_folder(path.parent)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
