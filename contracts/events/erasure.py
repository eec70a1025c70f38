"""What every service answers when a person was erased: one shape, a type of its own for each."""

from collections.abc import Mapping, Sequence

from marshmallow import fields, validate

from contracts.codes import Held
from contracts.envelope import Event
from contracts.events import Code, Day, EventData, Number, Part, refuse_twice
from contracts.measures import Count


class _Kept(Part):
    """Something that the law keeps; ``until``: through that day, absent where it has no end."""

    what = Code(Held)
    until = Day(required=False)


def _refuse_kept_twice(held: Sequence[Mapping[str, str]]) -> None:
    refuse_twice([one["what"] for one in held])


class ErasureConfirmed(EventData):
    """A service holds nothing of an erased account (the event's subject) any more, but what the law keeps.

    ``documents``: in how many there was something; ``held``: what was kept and locked, and until when.
    """

    day = Day()
    documents = Number(0, 10**6)
    held = fields.List(
        fields.Nested(_Kept),
        required=True,
        validate=[validate.Length(0, len(Held)), _refuse_kept_twice],
        metadata={"uniqueItems": True},
    )

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more service that has confirmed."""
        return (Count("people.erasures_confirmed", "people", event["county"], event["data"]["day"], 1),)
