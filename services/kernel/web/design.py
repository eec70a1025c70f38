"""The design page: every part of the frame with made-up content, so that it is seen, measured and tested as it is."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Final

from marshmallow import Schema, fields, validate

from services.kernel.errors import FieldError, Invalid, NotFound

TYPED: Final = {
    "name": "",
    "id_number": "37090219900101123",
    "phone": "1385380",
    "people": "0",
    "day": "2025-07-16",
    "county": "370902",
    "way": "",
    "reason": "本单位女职工较多，希望就近开办。",
}
"""Nobody's: the number is one digit short, the phone four."""
REFUSED: Final = Invalid(
    [
        FieldError("name", "required"),
        FieldError("id_number", "id_invalid"),
        FieldError("phone", "phone_invalid"),
        FieldError("people", "out_of_range"),
        FieldError("way", "required"),
        FieldError("agreed", "required"),
    ]
)


SHOWN: Final[dict[str, Any]] = {"at": datetime(2025, 7, 16, 4, 5, tzinfo=UTC), "error": NotFound()}


class DesignForm(Schema):
    """What the design page's form takes; it is checked and forgotten."""

    name = fields.String(required=True, validate=validate.Length(2, 40, error="name_invalid"))
    id_number = fields.String(required=True, validate=validate.Length(18, 18, error="id_invalid"))
    phone = fields.String(required=True, validate=validate.Regexp(r"1[0-9]{10}\Z", error="phone_invalid"))
    people = fields.Integer(required=True, validate=validate.Range(1, 500, error="out_of_range"))
    day = fields.Date(required=True)
    county = fields.String(required=True)
    way = fields.String(required=True, validate=validate.OneOf(("station", "home"), error="not_a_choice"))
    reason = fields.String()
    proof = fields.String()
    agreed = fields.String(required=True)


def content(part: str) -> tuple[Mapping[str, str] | None, Invalid | None]:
    """The form of one of the design page's parts: its values, and what is wrong with them."""
    if part == "refused":
        return TYPED, REFUSED
    return ({"id": "A-2025-0042"}, None) if part == "confirm" else (None, None)
