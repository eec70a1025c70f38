"""What the people service says: accounts and sessions. None of it says who somebody is."""

from typing import ClassVar, Final

from contracts.codes import Enrolment
from contracts.envelope import Event
from contracts.events import Code, Day, EventData, Identifier
from contracts.measures import Count

PROGRAMME: Final = "people"


def _count(event: Event, measure: str, delta: int) -> tuple[Count, ...]:
    return (Count(measure, PROGRAMME, event["county"], event["data"]["day"], delta),)


class PersonRegisteredV1(EventData):
    """Somebody has an account; its subject is the account."""

    type: ClassVar[str] = "people.person_registered.v1"
    day = Day()
    by = Code(Enrolment)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more account."""
        return _count(event, "people.accounts", 1)


class SessionRevokedV1(EventData):
    """A login ended before its time: no token that names this session is to be believed any more."""

    type: ClassVar[str] = "people.session_revoked.v1"
    day = Day()
    session = Identifier()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more revocation."""
        return _count(event, "people.revocations", 1)
