"""Fields and bases of HTTP schemas: strict, trimmed, with codes instead of a library's wording."""

import re
from datetime import datetime
from typing import Any, Final
from unicodedata import category, normalize

from marshmallow import EXCLUDE, RAISE, Schema, ValidationError, fields, validate

from services.kernel import ids

_YEARS: Final = (2000, 2100)
_INSTANT: Final = re.compile(
    r"^[0-9]{4}-[0-9]{2}-[0-9]{2}[Tt][0-9]{2}:[0-9]{2}:[0-9]{2}(\.[0-9]{1,6})?([Zz]|[+-][0-9]{2}:[0-9]{2})$"
)
_PERSONAL: Final = re.compile(r"(?<![0-9])(?:[0-9]{17}[0-9Xx]|[0-9]{15}|(?:86)?1[3-9][0-9]{9})(?![0-9])")
"""What has the shape of an ID number, today's or the retired one, or of a mobile number."""
_BETWEEN_DIGITS: Final = re.compile(
    r"(?<=[0-9])[\s._()/,\u00ad\u200b-\u200f\u2010-\u2015\u2060\u2212\ufeff-]+(?=[0-9Xx])"
)
"""By which people part the groups of a number, and what copying brings along."""
_NOT_IN_A_LINE: Final = {"Cc", "Cs", "Zl", "Zp"}
"""Unicode's controls, surrogates, line and paragraph separators."""


class In(Schema):
    """Input: unknown fields are refused."""

    class Meta:
        """Refuses what it does not know."""

        unknown = RAISE


class Out(Schema):
    """Output."""

    class Meta:
        """Takes documents as they are stored."""

        unknown = EXCLUDE


def text(low: int, high: int, **kwargs: Any) -> fields.String:
    """One line of text without control characters, trimmed; one that holds an ID number or a mobile number is refused.

    Free text is kept as it is and goes into the audit trail, which leaves the house.
    """
    return _Line(
        validate=validate.Length(low, high, error="bad_length_of_text"),
        **kwargs,
    )


class _Line(fields.String):
    def _deserialize(self, value: Any, attr: str | None, data: Any, **kwargs: Any) -> str:
        text = (super()._deserialize(value, attr, data, **kwargs) or "").strip()
        if any(category(char) in _NOT_IN_A_LINE for char in text):
            raise ValidationError("bad_format")
        if _PERSONAL.search(_BETWEEN_DIGITS.sub("", normalize("NFKC", text))):
            raise ValidationError("personal_data")
        return text


class Instant(fields.AwareDateTime):
    """RFC 3339 with an offset, in this century."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(format="iso", default_timezone=None, **kwargs)

    def _deserialize(self, value: Any, *_args: Any, **_kwargs: Any) -> datetime:
        return instant(value)


def instant(value: object) -> datetime:
    """The instant that an RFC 3339 text of this century says.

    Raises:
        ValidationError: with a code as message.
    """
    if not isinstance(value, str) or not _INSTANT.match(value):
        raise ValidationError("not_a_datetime")
    try:
        found: datetime = datetime.fromisoformat(value.upper().replace(" ", "T"))
    except ValueError:
        raise ValidationError("not_a_datetime") from None
    if not _YEARS[0] <= found.year < _YEARS[1]:
        raise ValidationError("out_of_range")
    return found


def choice(choices: Any, **kwargs: Any) -> fields.String:
    return fields.String(validate=validate.OneOf(list(map(str, choices)), error="not_a_choice"), **kwargs)


def number(low: int, high: int, **kwargs: Any) -> fields.Integer:
    return fields.Integer(strict=True, validate=validate.Range(low, high, error="out_of_range"), **kwargs)


def day(**kwargs: Any) -> fields.String:
    return fields.String(
        validate=[validate.Regexp(r"^[0-9]{4}-[0-9]{2}-[0-9]{2}$", error="not_a_date"), _real_day],
        metadata={"format": "date"},
        **kwargs,
    )


def _real_day(value: str) -> None:
    try:
        datetime.strptime(value, "%Y-%m-%d")  # noqa: DTZ007 (a date, not an instant)
    except ValueError:
        raise ValidationError("not_a_date") from None


def clock_time(**kwargs: Any) -> fields.String:
    return fields.String(
        # the length too: in Python, $ lets a trailing line break pass
        validate=[
            validate.Length(equal=5, error="bad_format"),
            validate.Regexp(r"^([01][0-9]|2[0-3]):[0-5][0-9]$", error="bad_format"),
        ],
        **kwargs,
    )


def uuid_text(value: str) -> None:
    if not ids.is_uuid(value):
        raise ValidationError("not_a_uuid")


def unique(values: list[str]) -> None:
    if len(set(values)) != len(values):
        raise ValidationError("given_twice")


def page_of(item: type[Schema]) -> type[Schema]:
    """The shape of one page of a list."""
    return Out.from_dict(
        {
            "items": fields.List(fields.Nested(item), required=True),
            "next": fields.String(required=True, allow_none=True),
        },
        name=item.__name__.removesuffix("Out") + "Page",
    )
