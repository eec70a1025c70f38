"""Who says what to whom: event -> owner, consumers, queue. The whole topology derives from this table."""

import inspect
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from marshmallow.decorators import VALIDATES_SCHEMA

from contracts.codes import PLACES
from contracts.envelope import TYPE, Event, MalformedError, is_interoperable
from contracts.events import EventData, childcare, people, stations
from contracts.measures import Count

METRICS = "metrics"
WAITS = {"5s": 5, "30s": 30, "5m": 300}
"""The growing pauses (seconds) before a consumer tries a failed event again; after the last it is parked."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One event type, who consumes it; its owner is the first part of its name."""

    schema: type[EventData]
    consumers: tuple[str, ...]

    @property
    def type(self) -> str:
        """``<service>.<noun>_<past>.v<n>``, also the routing key."""
        return self.schema.type

    @property
    def owner(self) -> str:
        """The service that publishes it."""
        return self.type.split(".", 1)[0]

    @property
    def judges_together(self) -> bool:
        """Whether the schema holds fields against one another, beyond judging each alone."""
        return bool(self.schema._hooks[VALIDATES_SCHEMA])  # noqa: SLF001 (marshmallow names them nowhere else)

    @property
    def meaning(self) -> str:
        """What the event says, as its schema's docstring puts it."""
        return inspect.cleandoc(self.schema.__doc__ or "")


class Catalogue:
    """A closed set of event types."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        """Takes the entries in order.

        Raises:
            ValueError: a type is misnamed or stands twice, or metrics would see a restricted event.
        """
        self._entries: dict[str, Entry] = {}
        for entry in entries:
            if TYPE.fullmatch(entry.type) is None:
                raise ValueError(f"{entry.type} is not <service>.<noun>_<past>.v<n>")
            if entry.type in self._entries:
                raise ValueError(f"{entry.type} stands twice in the catalogue")
            if entry.schema.restricted and METRICS in entry.consumers:
                raise ValueError(f"{entry.type} is restricted: metrics may not consume it")
            self._entries[entry.type] = entry
        self._schemas = {type_: entry.schema() for type_, entry in self._entries.items()}

    def __iter__(self) -> Iterator[Entry]:
        return iter(self._entries.values())

    def __getitem__(self, type_: str) -> Entry:
        return self._entries[type_]

    @property
    def owners(self) -> tuple[str, ...]:
        """Services that publish, sorted."""
        return tuple(sorted({entry.owner for entry in self}))

    @property
    def consumers(self) -> tuple[str, ...]:
        """Services that consume, sorted."""
        return tuple(sorted({consumer for entry in self for consumer in entry.consumers}))

    def consumed_by(self, consumer: str) -> tuple[Entry, ...]:
        """The event types bound to one consumer's inbox."""
        return tuple(entry for entry in self if consumer in entry.consumers)

    def check(self, event: Event) -> None:
        """Holds an event (whose envelope has been checked) against its own schema.

        Raises:
            MalformedError: unknown type or version, foreign source, unknown county, data that its schema refuses, or
                a field it does not know that cannot be stored.
        """
        entry = self._entries.get(event["type"])
        if entry is None:
            raise MalformedError("unknown_type")
        if event["source"] != f"/services/{entry.owner}":
            raise MalformedError("source")
        if event["county"] not in PLACES:
            raise MalformedError("county")
        schema, data = self._schemas[event["type"]], event["data"]
        problems = schema.validate(data)
        if problems:
            raise MalformedError("data." + min(map(str, problems)))
        # what the schema has checked needs no second look, but it ignores unknown fields, nested ones too
        if not all(
            is_interoperable({name: value})
            for name, value in data.items()
            if name not in schema.fields or isinstance(value, list | dict)
        ):
            raise MalformedError("data.unknown_field")

    def counts(self, event: Event) -> tuple[Count, ...]:
        """What a checked event adds to the measures."""
        return self._entries[event["type"]].schema.counts(event)


def exchange(owner: str) -> str:
    """The topic exchange a service publishes to."""
    return f"{owner}.events"


def inbox(consumer: str) -> str:
    """The one queue a service consumes from."""
    return f"{consumer}.inbox"


def wait(consumer: str, pause: str) -> str:
    """The queue where a consumer's failed events pause before they return to its inbox."""
    return f"{consumer}.wait.{pause}"


def dead(consumer: str) -> str:
    """The queue where a consumer's poison is parked."""
    return f"{consumer}.dead"


UNROUTED = "unrouted"
"""Exchange and queue for events that no inbox is bound for: alerted, never lost."""

ERASERS = ("stations",)
"""Services beside people that may hold data of a person: they hear of an erasure, and confirm their own."""

CATALOGUE = Catalogue(
    (
        *(
            Entry(schema, (METRICS,))
            for schema in (
                stations.StationOpenedV1,
                stations.FacilityAddedV1,
                stations.FacilityRemovedV1,
                stations.StationSuspendedV1,
                stations.StationResumedV1,
                stations.StationClosedV1,
                stations.CheckinRecordedV1,
                stations.CheckinQuarantinedV1,
                stations.CheckinApprovedV1,
                stations.CheckinVoidedV1,
                stations.DeviceEnrolledV1,
                stations.DeviceRevokedV1,
                stations.FaultReportedV1,
                stations.FaultClearedV1,
                stations.HeartbeatMissedV1,
                people.PersonRegisteredV1,
                people.ErasureCompletedV1,
                people.NoticeDispatchedV1,
                people.NoticeFailedV1,
            )
        ),
        Entry(people.SessionRevokedV1, (METRICS, "stations")),
        Entry(people.SubjectErasedV1, ERASERS),
        Entry(stations.ErasureConfirmedV1, (METRICS, "people")),
        Entry(childcare.NoticeRequestedV1, ("people",)),
    )
)

AWAITED = ("childcare",)
"""Owners whose contracts stand before their service does: no process, no user on the broker, no page of their API."""
PUBLISHING = tuple(owner for owner in CATALOGUE.owners if owner not in AWAITED)
"""Owners that are there."""
