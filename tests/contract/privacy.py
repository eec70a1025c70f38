"""What no event may have room for: a person's name, phone, ID number, address, or free text.

Judged on the generated JSON Schema of the whole event, so that it holds for what outsiders are told as well.
"""

import re
from collections.abc import Iterator
from typing import Any, Final

Json = dict[str, Any]

NAMES: Final = re.compile(
    r"(^|_)(name|surname|phone|mobile|tel|telephone|wechat|email|mail|id_?(number|no|card)|identity|passport|addr|address|"
    r"street|birth|birthday|birthdate|gender|age|photo|note|notes|remark|remarks|comment|comments|text|title|message|"
    r"description)(_|$)"
)
PERSONS: Final = re.compile(r"(^|_)(person|persons|member|members)(_|$)")
CANARIES: Final = (
    "某某某",
    "Mou Moumou",
    "moumoumou",
    "10000000000",
    "100-0000-0000",
    "+8610000000000",
    "0538-0000000",
    "370902190001010000",
    "37090219000101000X",
    "370902000101000",
    "泰安市某路0号",
    "the door is broken, ask Mou",
)
"""Shapes of a name, phone, ID number (18 and 15 digits), address and note. A pattern that lets one pass has room."""
NUMBER_LIMIT: Final = 10**10
"""The smallest whole number that reads as a phone number; ID numbers are longer."""


def rooms_for_persons(schema: Json, *, restricted: bool, at: str = "event") -> Iterator[str]:
    """Each place of a schema that could carry a person, as ``<place>: <why>``."""
    match schema.get("type"):
        case "object":
            yield from _open_object(schema, restricted, at)
        case "array":
            yield from rooms_for_persons(schema.get("items", {}), restricted=restricted, at=f"{at}[]")
        case "string":
            yield from _open_string(schema, at)
        case "integer":
            low, high = schema.get("minimum", -NUMBER_LIMIT), schema.get("maximum", NUMBER_LIMIT)
            if low <= -NUMBER_LIMIT or high >= NUMBER_LIMIT:
                yield f"{at}: a number with room for a phone number"
        case "boolean":
            pass
        case other:
            yield f"{at}: of type {other!r}"


def _open_object(schema: Json, restricted: bool, at: str) -> Iterator[str]:
    if not schema.get("properties"):
        yield f"{at}: an object without named fields"
    for name, value in schema.get("properties", {}).items():
        if NAMES.search(name):
            yield f"{at}.{name}: a field of this name"
        if PERSONS.search(name) and not restricted:
            yield f"{at}.{name}: a reference to a person in an event that is not restricted"
        yield from rooms_for_persons(value, restricted=restricted, at=f"{at}.{name}")


def _open_string(schema: Json, at: str) -> Iterator[str]:
    if "enum" in schema or "const" in schema:
        return
    pattern = schema.get("pattern")
    if pattern is None:
        yield f"{at}: a string without enum or pattern"
    elif passing := [canary for canary in CANARIES if re.search(pattern, canary)]:
        yield f"{at}: a pattern that lets {passing[0]!r} pass"
