"""Every event in words: what a page or a person needs to know of it, read from the schema classes themselves."""

from collections.abc import Iterator
from typing import Any, Final, TypedDict

from marshmallow import Schema, fields, validate

from contracts.catalogue import CATALOGUE, Catalogue, Entry

_TYPES: Final[dict[type[fields.Field[Any]], str]] = {
    fields.String: "string",
    fields.Integer: "integer",
    fields.Boolean: "boolean",
    fields.Nested: "object",
}


class FieldDescription(TypedDict):
    """One field of ``data``; a field of the objects in a list is named ``list[].field``."""

    name: str
    type: str
    constraint: str
    """In signs, not words: ``1 … 500``, ``water | rest``, a format; empty where the type says it all."""
    required: bool


class EventDescription(TypedDict):
    """One event type and version; ``meaning`` is its schema's docstring."""

    type: str
    owner: str
    consumers: list[str]
    restricted: bool
    meaning: str
    fields: list[FieldDescription]


def describe(catalogue: Catalogue = CATALOGUE) -> list[EventDescription]:
    """Every event type, in the catalogue's order.

    Raises:
        TypeError: a field is of a kind that has no word yet.
    """
    return [_describe(entry) for entry in catalogue]


def _describe(entry: Entry) -> EventDescription:
    return {
        "type": entry.type,
        "owner": entry.owner,
        "consumers": sorted(entry.consumers),
        "restricted": entry.schema.restricted,
        "meaning": entry.meaning,
        "fields": list(_fields(entry.schema(), "")),
    }


def _fields(schema: Schema, prefix: str) -> Iterator[FieldDescription]:
    for key, field in schema.fields.items():
        name = prefix + key
        yield {"name": name, "type": _type(field), "constraint": _constraint(field), "required": field.required}
        if isinstance(field, fields.Nested):
            yield from _fields(field.schema, f"{name}.")
        elif isinstance(field, fields.List) and isinstance(field.inner, fields.Nested):
            yield from _fields(field.inner.schema, f"{name}[].")


def _type(field: fields.Field[Any]) -> str:
    if isinstance(field, fields.List):
        return f"list of {_type(field.inner)}"
    for kind, name in _TYPES.items():
        if isinstance(field, kind):
            return name
    raise TypeError(f"no word for a field of type {type(field).__name__}: add one to contracts/describe.py")


def _constraint(field: fields.Field[Any]) -> str:
    if "format" in field.metadata:
        return str(field.metadata["format"])
    signs = [sign for validator in field.validators if (sign := _sign(validator))]
    if isinstance(field, fields.List) and (inner := _constraint(field.inner)):
        signs.append(f"({inner})")
    return " ".join(signs)


def _sign(validator: object) -> str:
    match validator:
        case validate.OneOf():
            return " | ".join(map(str, validator.choices))
        case validate.Regexp():
            return str(validator.regex.pattern)
        case validate.Range():
            return f"{validator.min} … {validator.max}"
        case validate.Length(equal=None):
            return f"[{validator.min or 0} … {validator.max}]"
        case validate.Length():
            return f"[{validator.equal}]"
        case _:
            return ""
