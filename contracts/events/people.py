"""What the people service says: accounts, sessions, erasure, notices. None of it says who somebody is."""

from typing import ClassVar, Final

from contracts.codes import Channel, Enrolment, NoticeFailure
from contracts.envelope import Event
from contracts.events import Code, Day, EventData, Identifier, PersonRefs
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


class SubjectErasedV1(EventData):
    """An account (its subject) was erased: whoever holds data that came from it erases that.

    ``refs``: the verified ID number, for what a service got under it alone; what another account or a register gave
    stays. Each service that is bound to this event answers with its own ``erasure_confirmed`` by the day ``due``.
    """

    type: ClassVar[str] = "people.subject_erased.v1"
    restricted: ClassVar[bool] = True
    day = Day()
    due = Day()
    refs = PersonRefs()


class ErasureCompletedV1(EventData):
    """Every service has confirmed that it erased an account's data (its subject)."""

    type: ClassVar[str] = "people.erasure_completed.v1"
    day = Day()

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One account less."""
        return _count(event, "people.accounts", -1)


class NoticeDispatchedV1(EventData):
    """A notice (its subject) was handed to a channel: the clock of what it offers starts."""

    type: ClassVar[str] = "people.notice_dispatched.v1"
    day = Day()
    channel = Code(Channel)
    about = Identifier(required=False)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more that was sent."""
        return _count(event, "people.notices", 1)


class NoticeFailedV1(EventData):
    """A channel could not deliver a notice (its subject), for good."""

    type: ClassVar[str] = "people.notice_failed.v1"
    day = Day()
    channel = Code(Channel)
    reason = Code(NoticeFailure)
    about = Identifier(required=False)

    @classmethod
    def counts(cls, event: Event) -> tuple[Count, ...]:
        """One more that did not arrive."""
        return _count(event, "people.notices_failed", 1)
