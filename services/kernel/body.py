"""JSON from outside, read strictly: UTF-8, no duplicate names, no NaN, no lone surrogates, bounded depth."""

import json
import math
from typing import Any, Final

from services.kernel.errors import BadRequest

DEPTH_MAX: Final = 32
INT_MAX: Final = 2**63 - 1
"""The largest number BSON keeps; what is larger is refused here, once, not in each store."""


def loads(raw: bytes) -> Any:
    """The JSON value in ``raw``.

    Raises:
        BadRequest: bad_utf8, bad_json, duplicate_key, number_not_finite or too_deep.
    """
    try:
        text = raw.decode("utf-8")
    except UnicodeDecodeError:
        raise BadRequest("bad_utf8") from None
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise BadRequest("too_deep") from None
    except ValueError:
        raise BadRequest("bad_json") from None
    if _nesting(text) > DEPTH_MAX and _depth(value) > DEPTH_MAX:
        raise BadRequest("too_deep")
    if b"\\u" in raw:
        _refuse_surrogates(value)
    return value


def dumps(value: object) -> bytes:
    """Compact UTF-8 JSON; NaN cannot be said."""
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).encode()


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise BadRequest("duplicate_key")
    return found


def _constant(_name: str) -> None:
    raise BadRequest("number_not_finite")


def _float(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise BadRequest("number_not_finite")
    return value


def _int(text: str) -> int:
    value = int(text)
    if not -INT_MAX <= value <= INT_MAX:
        raise BadRequest("number_not_finite")
    return value


_DECODER = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_constant, parse_float=_float, parse_int=_int)


def _nesting(text: str) -> int:
    """An upper bound of the depth, at the cost of two counts."""
    return text.count("{") + text.count("[")


def _depth(value: object) -> int:
    deepest, level = 0, [value]
    while level:
        deepest += 1
        level = [
            child
            for item in level
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
    return deepest - 1


def _refuse_surrogates(value: object) -> None:
    try:
        json.dumps(value, ensure_ascii=False).encode("utf-8")
    except UnicodeEncodeError:
        raise BadRequest("bad_utf8") from None
