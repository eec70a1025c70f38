"""One schema class an event and version, owned by its producer, with the pure mapping event -> counts beside it."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import date
from typing import Any, ClassVar, Final

from marshmallow import EXCLUDE, Schema, ValidationError, fields, validate

from contracts.codes import REPORTING_UNITS
from contracts.envelope import UUID, Event
from contracts.measures import Count

REFS_MAX: Final = 20
"""Persons in one event: somebody and the children, a household."""
_DAY: Final = r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])$"


class Part(Schema):
    """An object inside an event: consumers ignore fields they do not know, as a version only gains optional ones."""

    class Meta:
        """Consumers' reading; producers load with ``unknown=RAISE``."""

        unknown = EXCLUDE


class EventData(Part):
    """The ``data`` of one event type and version."""

    type: ClassVar[str]
    restricted: ClassVar[bool] = False
    """Carries a person_ref: only the consumers the catalogue names may bind it, metrics never."""

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """What this event adds to the measures; the event must have passed this schema."""
        del event
        return ()


class _StrictBoolean(fields.Boolean):
    """``true`` or ``false``; marshmallow alone takes 1 and 1.0 for true, as they are equal in Python."""

    def _deserialize(self, value: Any, attr: str | None, data: Mapping[str, Any] | None, **kwargs: Any) -> bool:
        del attr, data, kwargs
        if not isinstance(value, bool):
            raise self.make_error("invalid", input=value)
        return value


def Identifier(*, required: bool = True) -> fields.String:  # noqa: N802 (reads as a field)
    """An id of ours: a UUID in canonical lower case, in which no name, phone or ID number can travel."""
    return fields.String(
        required=required,
        # the length too: in Python, $ lets a trailing line break pass
        validate=[validate.Length(equal=36), validate.Regexp(UUID)],
        metadata={"format": "uuid"},
    )


def PersonRefs() -> fields.List[Any]:  # noqa: N802
    """Keyed hashes of ID numbers, by which services recognise a person; in restricted events only."""
    return fields.List(
        fields.String(validate=[validate.Length(equal=64), validate.Regexp(r"^[0-9a-f]{64}$")]),
        required=True,
        validate=[validate.Length(0, REFS_MAX), refuse_twice],
        metadata={"uniqueItems": True},
    )


def Day(*, required: bool = True) -> fields.String:  # noqa: N802
    """The producer's Asia/Shanghai date of the fact, YYYY-MM-DD."""
    return fields.String(
        required=required,
        validate=[validate.Length(equal=10), validate.Regexp(_DAY), _refuse_impossible_day],
        metadata={"format": "date"},
    )


def Code(choices: Iterable[str], *, required: bool = True) -> fields.String:  # noqa: N802
    """One of a closed vocabulary."""
    return fields.String(required=required, validate=validate.OneOf([str(choice) for choice in choices]))


def Codes(choices: Iterable[str], *, least: int = 0, required: bool = True) -> fields.List[str]:  # noqa: N802
    """A set of codes of a closed vocabulary: ``least`` or more of them, none twice."""
    vocabulary = tuple(choices)
    return fields.List(
        Code(vocabulary),
        required=required,
        validate=[validate.Length(least, len(vocabulary)), refuse_twice],
        metadata={"uniqueItems": True},
    )


def CountyCode(*, required: bool = True) -> fields.String:  # noqa: N802
    """A reporting unit."""
    return Code(REPORTING_UNITS, required=required)


def Number(low: int, high: int, *, required: bool = True) -> fields.Integer:  # noqa: N802
    """A whole number from ``low`` to ``high``; 1.9 is refused, not cut."""
    return fields.Integer(required=required, strict=True, validate=validate.Range(low, high))


def Flag(*, required: bool = True) -> fields.Boolean:  # noqa: N802
    """True or false; 1 and "yes" are refused."""
    return _StrictBoolean(required=required)


def refuse_twice(codes: Sequence[str]) -> None:
    """Raises ValidationError where a code stands twice: what it stands for would be counted twice."""
    if len(set(codes)) < len(codes):
        raise ValidationError("A code stands twice.")


def _refuse_impossible_day(day: str) -> None:
    try:
        date.fromisoformat(day)
    except ValueError:  # 30 February
        raise ValidationError("Not a day of the calendar.") from None
