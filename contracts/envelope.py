"""CloudEvents 1.0 in JSON: one event, a batch of them, and the strict reading of both.

An event is a plain ``dict`` in its wire shape, made by :func:`event` and checked by :func:`check`: events cross
the hot path by the hundred thousand, and the shape that travels is the shape that is stored.
Sources: CloudEvents 1.0.2 core, JSON format (batched content mode's format), W3C Trace Context.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, Final, TypeGuard

Event = dict[str, Any]

CONTENT_TYPE: Final = "application/cloudevents+json"
BATCH_CONTENT_TYPE: Final = "application/cloudevents-batch+json"
DATA_CONTENT_TYPE: Final = "application/json"
SCHEMA_BASE: Final = "https://estation.example/schemas/"
SEQ_MAX: Final = 2**31 - 1
"""CloudEvents' Integer is signed and 32 bits wide."""
DEPTH_MAX: Final = 16
NUMBER_MAX: Final = 2**53 - 1

TYPE: Final = re.compile(r"^([a-z][a-z0-9_]*)\.([a-z][a-z0-9_]*)\.v([1-9][0-9]*)$")
UUID: Final = re.compile(r"^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$")
COUNTY: Final = re.compile(r"^[0-9]{6}(-[a-z]{2})?$")
INSTANT: Final = re.compile(
    r"^[12][0-9]{3}-(0[1-9]|1[0-2])-(0[1-9]|[12][0-9]|3[01])"
    r"T([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])$"
)
TRACEPARENT: Final = re.compile(r"^00-[0-9a-f]{32}-[0-9a-f]{16}-[0-9a-f]{2}$")
_UNREADABLE: Final = object()
_NAME: Final = re.compile(r"^[a-z][a-z0-9_]{0,63}$")


class MalformedError(ValueError):
    """A message or event that is not what the contract says; ``args[0]`` names the fault, never the content."""


def event(
    *,
    id: str,  # noqa: A002 (CloudEvents' own attribute name)
    type: str,  # noqa: A002
    subject: str,
    seq: int,
    county: str,
    time: str,
    recordedtime: str,
    traceparent: str,
    data: Mapping[str, Any],
) -> Event:
    """Builds one event in wire shape, unchecked.

    ``id`` and ``subject`` are UUIDs, ``seq`` counts from 1 per subject, ``time`` and ``recordedtime`` are RFC 3339
    with an offset.
    """
    return {
        "specversion": "1.0",
        "id": id,
        "source": "/services/" + type.split(".", 1)[0],
        "type": type,
        "subject": subject,
        "time": time,
        "datacontenttype": DATA_CONTENT_TYPE,
        "dataschema": f"{SCHEMA_BASE}{type}.json",
        "seq": seq,
        "county": county,
        "recordedtime": recordedtime,
        "traceparent": traceparent,
        "data": dict(data),
    }


def dump(event: Event) -> bytes:
    """One event as message body (``application/cloudevents+json``)."""
    return _ENCODER.encode(event).encode()


def dump_batch(events: Iterable[Event]) -> bytes:
    """Several events as message body (``application/cloudevents-batch+json``)."""
    return b"[" + b",".join(dump(event) for event in events) + b"]"


def load(body: bytes, content_type: str | None) -> list[Any]:
    """The events of a message, not yet checked one by one: a bad one must not take its neighbours along.

    Raises:
        MalformedError: the body is not UTF-8 JSON of the shape that its content type promises.
    """
    try:
        value = _DECODER.decode(body.decode("utf-8"))
    except (ValueError, RecursionError):
        value = _UNREADABLE
    if value is _UNREADABLE:  # raised out here: a decoder's error holds the body, and would come along as context
        raise MalformedError("not_json")
    kind = (content_type or "").split(";", 1)[0].strip().lower()
    if kind == BATCH_CONTENT_TYPE and isinstance(value, list):
        return value
    if kind == CONTENT_TYPE and isinstance(value, dict):
        return [value]
    raise MalformedError("content_type_or_shape")


def check(event: object) -> Event:
    """The event itself, when every context attribute is present and right; ``data`` is the catalogue's to check.

    Raises:
        MalformedError: naming the first attribute that is missing or wrong.
    """
    if not isinstance(event, dict):
        raise MalformedError("event_not_object")
    if not _is_plainly_right(event):
        _look_closely(event)
    return event


def _is_plainly_right(event: Event) -> bool:
    """Whether nothing is wrong at the first glance: five times faster than the close look, whose verdict it shares."""
    try:
        type_, time, recordedtime, seq = event["type"], event["time"], event["recordedtime"], event["seq"]
        named = "\n".join((event["id"], type_, event["subject"], time, recordedtime, event["county"]))
        if _NAMED.fullmatch(named) is None:
            return False
        datetime.fromisoformat(time)
        datetime.fromisoformat(recordedtime)
        return (
            event["specversion"] == "1.0"
            and event["datacontenttype"] == DATA_CONTENT_TYPE
            and type(seq) is int
            and 1 <= seq <= SEQ_MAX
            and isinstance(event["data"], dict)
            and _is_source(event["source"])
            and event["dataschema"] == f"{SCHEMA_BASE}{type_}.json"
            and ("traceparent" not in event or TRACEPARENT.fullmatch(event["traceparent"]) is not None)
            and event.keys() <= _KNOWN
        )
    except (KeyError, TypeError, ValueError):
        return False


def _look_closely(event: Event) -> None:
    """Names the first attribute that is missing or wrong, if there is one; knows what an unknown one may be."""
    for name, is_right in _REQUIRED.items():
        if not is_right(event.get(name)):
            raise MalformedError(name)
    if event["dataschema"] != f"{SCHEMA_BASE}{event['type']}.json":
        raise MalformedError("dataschema")
    if "traceparent" in event and not _matches(TRACEPARENT)(event["traceparent"]):
        raise MalformedError("traceparent")
    if not all(is_interoperable({name: event[name]}) for name in event.keys() - _KNOWN):
        raise MalformedError("unknown_attribute")


def _is(expected: str) -> Callable[[object], bool]:
    return lambda value: value == expected


def _matches(pattern: re.Pattern[str]) -> Callable[[object], bool]:
    # fullmatch: in Python alone, $ lets a trailing line break pass
    return lambda value: isinstance(value, str) and pattern.fullmatch(value) is not None


def _is_source(value: object) -> bool:
    return isinstance(value, str) and value.startswith("/services/")


def _is_instant(value: object) -> bool:
    if not isinstance(value, str) or INSTANT.fullmatch(value) is None:
        return False
    try:
        datetime.fromisoformat(value)
    except ValueError:  # 30 February
        return False
    return True


def _is_seq(value: object) -> bool:
    return _is_integer(value) and 1 <= value <= SEQ_MAX


def _is_integer(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool)


_REQUIRED: Final[dict[str, Callable[[object], bool]]] = {
    "specversion": _is("1.0"),
    "id": _matches(UUID),
    "source": _is_source,
    "type": _matches(TYPE),
    "subject": _matches(UUID),
    "time": _is_instant,
    "datacontenttype": _is(DATA_CONTENT_TYPE),
    "dataschema": lambda value: isinstance(value, str),
    "seq": _is_seq,
    "county": _matches(COUNTY),
    "recordedtime": _is_instant,
    "data": lambda value: isinstance(value, dict),
}
_KNOWN: Final = {*_REQUIRED, "traceparent"}


def is_interoperable(value: object, depth: int = 0) -> bool:
    """Whether every parser and database reads the value alike (RFC 7493, I-JSON; names and depth bounded besides).

    What a consumer does not know it keeps in its log all the same: a lone surrogate, a 2**70 or a ``$name`` there
    would fail the write of a whole batch, not of the one event.
    """
    match value:
        case str():
            return value.isascii() or not any("\ud800" <= character <= "\udfff" for character in value)
        case bool() | None:
            return True
        case int() | float():
            return abs(value) <= NUMBER_MAX  # false for NaN
        case list() if depth < DEPTH_MAX:
            return all(is_interoperable(item, depth + 1) for item in value)
        case dict() if depth < DEPTH_MAX:
            return all(
                isinstance(name, str) and _NAME.fullmatch(name) is not None and is_interoperable(item, depth + 1)
                for name, item in value.items()
            )
        case _:
            return False


def _refuse_constant(name: str) -> None:
    raise ValueError(name)


_ENCODER: Final = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"), allow_nan=False)
_DECODER: Final = json.JSONDecoder(parse_constant=_refuse_constant)
_NAMED: Final = re.compile("\n".join(pattern.pattern[1:-1] for pattern in (UUID, TYPE, UUID, INSTANT, INSTANT, COUNTY)))
"""No pattern lets a line break through, so that what is joined comes apart in one way only."""
