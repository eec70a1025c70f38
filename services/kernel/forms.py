"""Forms of pages as requests: reading them strictly, and knowing that they were sent from a page of ours.

A browser sends a person's login along with whatever another site makes it send. So what comes with such a login and
changes something must come from our own origin (RFC 6454) and bring the synchroniser token of the login's account.
Source: OWASP Cross-Site Request Forgery Prevention.
"""

import hmac
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import parse_qsl, urlsplit

from marshmallow import Schema, fields
from werkzeug.wrappers import Request

from services.kernel.auth import Actor
from services.kernel.errors import BadRequest, FieldError, Forbidden, Invalid, UnsupportedMediaType, shown

FORM: Final = "application/x-www-form-urlencoded"
CSRF_FIELD, CSRF_HEADER, KEY_FIELD = "csrf", "X-CSRF-Token", "idempotency_key"
FIELDS_MAX: Final = 500
SAFE_METHODS: Final = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class Given:
    """A form's fields as they came, apart from its hidden ones; a blank field was not filled in."""

    pairs: Mapping[str, Sequence[str]] = field(default_factory=dict, repr=False)
    csrf: str | None = field(default=None, repr=False)
    key: str | None = None

    @property
    def typed(self) -> dict[str, str]:
        """What the fields are shown with again; of several values of one name the first."""
        return {name: values[0] for name, values in self.pairs.items()}

    def values(self, schema: Schema) -> dict[str, Any]:
        """What the schema loads: text, or a list of it where the schema's field is a list.

        Raises:
            Invalid: a field that is no list came twice.
        """
        found: dict[str, Any] = {}
        for name, values in self.pairs.items():
            filled = [value for value in values if value]
            if isinstance(schema.fields.get(name), fields.List):
                found[name] = filled
            elif len(values) > 1:
                raise Invalid([FieldError(shown(name)[:100], "given_twice")])
            elif filled:
                found[name] = filled[0]
        return found


def read(media_type: str, raw: bytes) -> Given:
    """Reads a form's body.

    Raises:
        UnsupportedMediaType: it is something else.
        BadRequest: not UTF-8, too many fields, or a hidden field twice.
    """
    if media_type != FORM:
        raise UnsupportedMediaType("form_expected")
    try:
        given = parse_qsl(
            raw.decode("ascii"), keep_blank_values=True, encoding="utf-8", errors="strict", max_num_fields=FIELDS_MAX
        )
    except UnicodeDecodeError:
        raise BadRequest("bad_utf8") from None
    except ValueError:
        raise BadRequest from None
    pairs: dict[str, list[str]] = {}
    for name, value in given:
        pairs.setdefault(name, []).append(value)
    hidden = {name: pairs.pop(name, [None]) for name in (CSRF_FIELD, KEY_FIELD)}
    if any(len(values) > 1 for values in hidden.values()):
        raise BadRequest
    return Given(pairs, hidden[CSRF_FIELD][0], hidden[KEY_FIELD][0])


def refuse_forgery(request: Request, actor: Actor | None, given: Given, origin: str, *, form: bool) -> None:
    """Lets pass what changes nothing, what no browser's login is behind, and what a page of ours has sent.

    A form without a login (the consent to the terms, a program that asks for a token) has no account to bind it to:
    there a foreign origin is refused, none at all is not.

    Raises:
        Forbidden: csrf.
    """
    login = actor is not None and actor.csrf is not None
    if request.method in SAFE_METHODS or not (login or form):
        return
    source = request.headers.get("Origin") or _origin(request.headers.get("Referer", ""))
    if source != origin and (login or source):
        raise Forbidden("csrf")
    if actor is not None and actor.csrf is not None:
        brought = request.headers.get(CSRF_HEADER) or given.csrf or ""
        if not hmac.compare_digest(brought.encode(), actor.csrf.encode()):
            raise Forbidden("csrf")


def _origin(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        return "malformed"
    return f"{parts.scheme}://{parts.netloc}" if parts.scheme and parts.netloc else url
