"""Ids: UUIDv7 where we name a thing, UUIDv5 where the name follows from what others named."""

from uuid import NAMESPACE_URL, UUID, uuid5

import uuid_utils

_NAMESPACE = uuid5(NAMESPACE_URL, "https://estation.example/ids")


def new() -> str:
    """A fresh id that sorts by time (RFC 9562, UUIDv7)."""
    return str(uuid_utils.uuid7())


def derived(*parts: str) -> str:
    """The same id for the same parts, for ever (RFC 9562, UUIDv5)."""
    return str(uuid5(_NAMESPACE, "\x1f".join(parts)))


def is_uuid(text: str) -> bool:
    """Whether the text is a UUID in canonical lower-case form."""
    try:
        return str(UUID(text)) == text
    except ValueError:
        return False
