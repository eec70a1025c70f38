"""Ids: UUIDv7 where we name a thing, UUIDv5 where the name follows from what others named."""

import re
from typing import Final

import uuid_utils

_NAMESPACE: Final = uuid_utils.uuid5(uuid_utils.NAMESPACE_URL, "https://estation.example/ids")
_UUID: Final = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")


def new() -> str:
    """A fresh id that sorts by time (RFC 9562, UUIDv7)."""
    return str(uuid_utils.uuid7())


def derived(*parts: str) -> str:
    """The same id for the same parts, for ever (RFC 9562, UUIDv5)."""
    return str(uuid_utils.uuid5(_NAMESPACE, "\x1f".join(parts)))


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in canonical lower-case form."""
    return _UUID.fullmatch(text) is not None
