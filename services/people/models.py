"""The documents of the people service and their indexes; read through these classes, written through ``store``."""

from typing import Any, Final

from mongoengine import (
    DateTimeField,
    Document,
    EmbeddedDocument,
    EmbeddedDocumentField,
    EmbeddedDocumentListField,
    ListField,
    StringField,
)

from contracts import roles
from contracts.codes import PLACES, REPORTING_UNITS
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
            {"fields": ["logins"], "name": "logins", "unique": True},
        ],
    }
    id = StringField(primary_key=True)
    county = StringField(required=True, choices=list(REPORTING_UNITS))
    logins = ListField(StringField(), required=True)
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
                "partialFilterExpression": {"digest": {"$type": "string"}},
            },
            ("account", "state", "_id"),
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


DOCUMENTS: Final = (Account, Session)
