"""What a service says to have somebody told of something: one shape, a type of its own for each."""

from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Final

from marshmallow import ValidationError, fields, validate, validates_schema

from contracts.events import Code, Day, EventData, Identifier, Number, Part

COUNT_MAX: Final = 10**6
_REF: Final = r"^[0-9a-f]{64}$"
_MOMENT: Final = (
    r"^20[0-9]{2}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z$"
)


def _refuse_impossible_moment(moment: str) -> None:
    try:
        datetime.fromisoformat(moment)
    except ValueError:  # 30 February
        raise ValidationError("Not a moment of the calendar.") from None


class _Params(Part):
    """What the words of a template are filled with."""

    day = Day(required=False)
    moment = fields.String(
        validate=[validate.Length(equal=24), validate.Regexp(_MOMENT), _refuse_impossible_moment],
        metadata={"format": "date-time"},
    )
    count = Number(0, COUNT_MAX, required=False)
    position = Number(1, COUNT_MAX, required=False)


def Params(reasons: Iterable[str]) -> fields.Nested:  # noqa: N802 (reads as a field)
    """Days, moments (UTC with milliseconds), numbers, and a service's own codes of reasons: never text."""
    return fields.Nested(_Params.from_dict({"reason": Code(reasons, required=False)}), required=True)


class NoticeRequested(EventData):
    """Somebody is to be told of something; who that is, ``account`` or ``ref`` says, and one of them alone does.

    Each service adds ``template`` and ``params``: what is told, and all that its words need. ``about`` is the sender's
    own name for it: ``people.notice_dispatched`` and ``people.notice_failed`` come back with it.
    """

    restricted: ClassVar[bool] = True
    needs: ClassVar[Mapping[str, Collection[str]]]
    """By template: the params without which its words would have gaps."""
    day = Day()
    account = Identifier(required=False)
    ref = fields.String(validate=[validate.Length(equal=64), validate.Regexp(_REF)])
    about = Identifier()

    @validates_schema
    def refuse_none_and_two(self, data: Mapping[str, Any], **_kwargs: object) -> None:
        """Raises ValidationError where nobody is named, or two."""
        if ("account" in data) == ("ref" in data):
            raise ValidationError("account or ref, one of them.", "account")

    @validates_schema
    def refuse_gaps(self, data: Mapping[str, Any], **_kwargs: object) -> None:
        """Raises ValidationError where the template's words would have gaps."""
        if not data["params"].keys() >= set(self.needs[data["template"]]):
            raise ValidationError("The template needs more.", "params")
