"""Every error a caller may meet, and how it is said.

    EStationError
    ├── BadRequest 400            not readable as a request
    ├── Unauthenticated 401       no, an unknown, an expired or a revoked credential
    ├── Forbidden 403             known, but not for this role
    ├── NotFound 404              not there, or not yours to see: the same answer
    ├── MethodNotAllowed 405
    ├── Conflict 409              against the present state
    │   └── Stale                 somebody else was faster; retried inside, 412 where the caller named a version
    ├── Gone 410                  was there, has passed
    ├── PreconditionFailed 412    If-Match names an older version
    ├── TooLarge 413
    ├── UnsupportedMediaType 415
    ├── Invalid 422               readable, but fields are wrong: one entry a field
    ├── PreconditionRequired 428  If-Match or Idempotency-Key is missing
    ├── TooManyRequests 429       with Retry-After
    └── Unavailable 503           a part we stand on is away; try again

Each carries a stable ``code``; people read the message of that code in Chinese or English (RFC 9457).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar


@dataclass(frozen=True, slots=True)
class FieldError:
    """One wrong field: a JSON pointer-like path (``items.3.people``) and a code. Never the value."""

    field: str
    code: str


class EStationError(Exception):
    """Root of the hierarchy; ``params`` fill the message and may never hold personal data."""

    status: ClassVar[int] = 500
    default_code: ClassVar[str] = "internal_error"

    def __init__(self, code: str | None = None, **params: object) -> None:
        self.code = code or self.default_code
        self.params = params
        super().__init__(self.code)

    @property
    def headers(self) -> dict[str, str]:
        """Headers that belong to this answer."""
        return {}

    @property
    def extensions(self) -> dict[str, Any]:
        """Members of the problem object beside the standard ones."""
        return dict(self.params)


class BadRequest(EStationError):
    """400."""

    status, default_code = 400, "bad_request"


class Unauthenticated(EStationError):
    """401."""

    status, default_code = 401, "unauthenticated"

    @property
    def headers(self) -> dict[str, str]:
        """How to authenticate (RFC 6750)."""
        return {"WWW-Authenticate": 'Bearer realm="estation"'}


class Forbidden(EStationError):
    """403."""

    status, default_code = 403, "forbidden"


class NotFound(EStationError):
    """404."""

    status, default_code = 404, "not_found"


class MethodNotAllowed(EStationError):
    """405."""

    status, default_code = 405, "method_not_allowed"

    def __init__(self, allowed: Sequence[str]) -> None:
        super().__init__()
        self.allowed = allowed

    @property
    def headers(self) -> dict[str, str]:
        """What is allowed."""
        return {"Allow": ", ".join(sorted(self.allowed))}


class Conflict(EStationError):
    """409."""

    status, default_code = 409, "conflict"


class Stale(Conflict):
    """A conditional write found another revision."""

    default_code = "stale"


class Gone(EStationError):
    """410."""

    status, default_code = 410, "gone"


class PreconditionFailed(EStationError):
    """412."""

    status, default_code = 412, "version_changed"


class TooLarge(EStationError):
    """413; names the limit in bytes."""

    status, default_code = 413, "too_large"

    def __init__(self, limit: int) -> None:
        super().__init__(limit=limit)


class UnsupportedMediaType(EStationError):
    """415."""

    status, default_code = 415, "unsupported_media_type"


class Invalid(EStationError):
    """422."""

    status, default_code = 422, "invalid"

    def __init__(self, errors: Sequence[FieldError] = (), code: str | None = None, **params: object) -> None:
        super().__init__(code, **params)
        self.errors = tuple(errors)


class PreconditionRequired(EStationError):
    """428."""

    status, default_code = 428, "precondition_required"


class TooManyRequests(EStationError):
    """429; ``retry_after`` in whole seconds."""

    status, default_code = 429, "too_many_requests"

    def __init__(self, retry_after: int) -> None:
        super().__init__(retry_after=retry_after)
        self.retry_after = retry_after

    @property
    def headers(self) -> dict[str, str]:
        """When to come back."""
        return {"Retry-After": str(self.retry_after)}


class Unavailable(EStationError):
    """503; the caller should come back soon."""

    status, default_code = 503, "unavailable"

    @property
    def headers(self) -> dict[str, str]:
        """When to come back."""
        return {"Retry-After": "2"}


def field_errors(messages: Mapping[Any, Any], prefix: str = "") -> list[FieldError]:
    """A flat list of the nested messages of a marshmallow schema.

    A validator may name a code as its message (lower_snake_case); any other text becomes ``invalid`` so that a
    library's wording, which may quote the input, never reaches the caller. Nor does a name that cannot be a field's:
    it may be an ID number in the wrong place.
    """
    found: list[FieldError] = []
    for key, value in messages.items():
        path = prefix if key == "_schema" else f"{prefix}.{shown(key)}" if prefix else shown(key)
        if isinstance(value, Mapping):
            found += field_errors(value, path)
            continue
        for text in value if isinstance(value, list) else [value]:
            found.append(FieldError(path[:100], _CODES.get(str(text), str(text) if _is_code(str(text)) else "invalid")))
    return sorted(set(found), key=lambda error: (error.field, error.code))


def shown(key: object) -> str:
    """The name of a field, or the place in a list, as the caller may see it again."""
    text = str(key)
    return text if text.isascii() and (isinstance(key, int) or text.isidentifier()) else "*"


_CODES = {
    "Missing data for required field.": "required",
    "Unknown field.": "unknown_field",
    "Field may not be null.": "null",
    "Not a valid integer.": "not_an_integer",
    "Not a valid string.": "not_a_string",
    "Not a valid boolean.": "not_a_boolean",
    "Not a valid datetime.": "not_a_datetime",
    "Not a valid date.": "not_a_date",
    "Not a valid list.": "not_a_list",
    "Invalid input type.": "not_an_object",
}


def _is_code(text: str) -> bool:
    return text.replace("_", "").isalnum() and text.islower() and text.isascii()
