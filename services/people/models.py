"""The documents of the people service and their indexes; read through these classes, written through ``store``."""

from typing import Any, Final

from mongoengine import (
    BinaryField,
    BooleanField,
    DateTimeField,
    DictField,
    Document,
    EmbeddedDocument,
    EmbeddedDocumentField,
    EmbeddedDocumentListField,
    IntField,
    ListField,
    StringField,
)

from contracts import roles
from contracts.codes import PLACES, REPORTING_UNITS, NoticeFailure
from services.people import rules

ALIAS: Final = "people"
_META: Final[dict[str, Any]] = {"db_alias": ALIAS, "auto_create_index": False, "strict": False}


class Consent(EmbeddedDocument):
    """What was agreed to, and when."""

    version = StringField(required=True)
    at = DateTimeField(required=True)


class Grant(EmbeddedDocument):
    """A role over a district, since when; who granted it stands in the audit row."""

    role = StringField(required=True, choices=list(map(str, roles.GRANTED)))
    scope = StringField(required=True, choices=list(PLACES))
    since = DateTimeField(required=True)


class Account(Document):
    """Somebody who can log in. ``logins``: keyed hashes of (issuer, subject); nothing here says who it is."""

    meta = {
        **_META,
        "collection": "accounts",
        "indexes": [
            ("county", "_id"),
            {"fields": ["grants.role"], "name": "granted", "sparse": True},
            # who was erased has none, and is not the only one
            {
                "fields": ["logins"],
                "name": "logins",
                "unique": True,
                "partialFilterExpression": {"logins": {"$gt": ""}},
            },
        ],
    }
    id = StringField(primary_key=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    logins = ListField(StringField())
    terms = EmbeddedDocumentField(Consent, required=True)
    declared = ListField(StringField(choices=list(map(str, roles.DECLARED))))
    grants = EmbeddedDocumentListField(Grant)


class Session(Document):
    """A login of a browser; ``digest`` is what is kept of its cookie, as long as it is good for anything."""

    meta = {
        **_META,
        "collection": "sessions",
        "indexes": [
            {
                "fields": ["digest"],
                "name": "digest",
                "unique": True,
                "partialFilterExpression": {"digest": {"$gt": ""}},
            },
            ("account", "state", "_id"),
            ("state", "opened_at"),
            ("state", "seen_at"),
        ],
    }
    id = StringField(primary_key=True)
    account = StringField(required=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    state = StringField(required=True, choices=list(rules.SESSION_STATES))
    provider = StringField(required=True)
    opened_at = DateTimeField(required=True)
    seen_at = DateTimeField(required=True)
    digest = StringField()


class Agreement(EmbeddedDocument):
    """What a person agreed to, from when until when, and how it was recorded."""

    purpose = StringField(required=True, choices=list(rules.PURPOSES))
    version = StringField(required=True)
    at = DateTimeField(required=True)
    by = StringField(required=True, choices=list(rules.RECORDED))
    until = DateTimeField()


class Person(Document):
    """Who an account is: sealed fields (``vault``), ``ref`` and consents. Its id is the account's."""

    meta = {
        **_META,
        "collection": "persons",
        "indexes": [
            {
                "fields": ["ref"],
                "name": "ref",
                "unique": True,
                "partialFilterExpression": {"ref": {"$type": "string"}},
            },
        ],
    }
    id = StringField(primary_key=True)
    account = StringField(required=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    name = BinaryField()
    id_number = BinaryField()
    phone = BinaryField()
    ref = StringField()
    verified_at = DateTimeField()
    consents = EmbeddedDocumentListField(Agreement)


class Child(Document):
    """A child in a guardian's account; the same child in another guardian's account is another document."""

    meta = {
        **_META,
        "collection": "children",
        "indexes": [
            {
                "fields": ["account", "ref"],
                "name": "once_a_guardian",
                "unique": True,
                "partialFilterExpression": {"ref": {"$type": "string"}},
            },
            {"fields": ["ref"], "name": "ref", "partialFilterExpression": {"ref": {"$type": "string"}}},
        ],
    }
    id = StringField(primary_key=True)
    account = StringField(required=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    name = BinaryField()
    id_number = BinaryField()
    ref = StringField()


class Message(EmbeddedDocument):
    """The way of a notice out of the house by one channel."""

    channel = StringField(required=True, choices=list(rules.CHANNELS))
    state = StringField(required=True, choices=list(rules.MESSAGE_STATES))
    tries = IntField(required=True, min_value=0)
    due = DateTimeField()
    reason = StringField(choices=list(map(str, NoticeFailure)))


class Notice(Document):
    """What somebody is told: a template and what it needs, which are codes, numbers and instants only.

    Without an account: a service asked that somebody be told who is not, or no longer, known here.
    """

    meta = {
        **_META,
        "collection": "notices",
        "indexes": [
            ("account", "-_id"),
            ("county", "_id"),
            ("at",),
            {
                "fields": ["messages.due"],
                "name": "due",
                "partialFilterExpression": {"messages.state": rules.WAITING},
            },
        ],
    }
    id = StringField(primary_key=True)
    account = StringField()
    county = StringField(required=True, choices=list(PLACES))
    template = StringField(required=True, choices=list(rules.TEMPLATES))
    params = DictField()
    about = StringField()
    at = DateTimeField(required=True)
    read_at = DateTimeField()
    messages = EmbeddedDocumentListField(Message)


class Erasure(Document):
    """An account that was erased: what is left of it, and which services have confirmed."""

    meta = {**_META, "collection": "erasures", "indexes": [("state", "due")]}
    id = StringField(primary_key=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    state = StringField(required=True, choices=list(rules.ERASURE_STATES))
    requested_at = DateTimeField(required=True)
    due = StringField(required=True)
    here = BooleanField(required=True)
    waits = ListField(StringField())
    held = ListField(DictField())
    documents = IntField(required=True, min_value=0)


DOCUMENTS: Final = (Account, Session, Person, Child, Notice, Erasure)
