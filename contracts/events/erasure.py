"""What every service answers when a person was erased: one shape, a type of its own for each."""

from contracts.codes import Held
from contracts.envelope import Event
from contracts.events import Codes, Day, EventData, Number
from contracts.measures import Count


class ErasureConfirmed(EventData):
    """A service holds nothing of an erased account (the event's subject) any more, but what the law keeps.

    ``documents``: in how many there was something; ``held``: what was kept and locked.
    """

    day = Day()
    documents = Number(0, 10**6)
    held = Codes(Held)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more service that has confirmed."""
        return (Count("people.erasures_confirmed", "people", event["county"], event["data"]["day"], 1),)
