"""What a service does when people says that somebody was erased: it forgets, keeps that it did, and confirms.

A service that is bound to ``people.subject_erased`` lists ``SOURCE`` among what the relay reads and ``AUDITED`` among
what the sealer reads.
"""

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Final, NamedTuple

from pymongo.database import Database
from pymongo.errors import DuplicateKeyError

from contracts.codes import Held
from contracts.envelope import Event
from contracts.events.erasure import ErasureConfirmed
from services.kernel import audit, auth, clock, outbox
from services.kernel.act import Act
from services.kernel.mongo import Document

COLLECTION: Final = "erasures"
SOURCE: Final = outbox.Source(COLLECTION)
AUDITED: Final = audit.Source(COLLECTION)
_ERASER: Final = auth.system("erasure")


class Forgotten(NamedTuple):
    """In how many documents there was something of the person; what the law keeps of it, and through which day.

    None for a day: it has no end (an audit row names nobody but a number).
    """

    documents: int
    held: Mapping[Held, str | None]


Forget = Callable[[str, Sequence[str]], Forgotten]
"""Takes the account and the person_refs; may run again, and then finds nothing."""


def confirm(
    database: Database[Document], event: Event, schema: type[ErasureConfirmed], forget: Forget, at: datetime
) -> bool:
    """Forgets an erased person and confirms it with an event; says whether that was new.

    A service that dies in between forgets again: what it confirms then may be fewer documents than there were.
    """
    account = event["subject"]
    if database[COLLECTION].find_one({"_id": account}, {"_id": 1}) is not None:
        return False
    found = forget(account, event["data"]["refs"])
    act = Act(_ERASER, at, event.get("traceparent", ""))
    held = [{"what": str(what), **({"until": until} if until else {})} for what, until in sorted(found.held.items())]
    data = {"day": clock.day(at), "documents": found.documents, "held": held}
    write = act.write("person.forget", outbox.Emit(schema, data), after={"documents": found.documents})
    try:
        outbox.insert(database[COLLECTION], {"_id": account, "county": event["county"], **data}, write)
    except DuplicateKeyError:
        return False
    return True
