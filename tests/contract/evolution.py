"""What may change between two releases of one event schema: only that it gains optional fields.

Anything else breaks one direction: a wider enum is parked by last release's consumers, a narrower one refuses last
release's events. Such a change is a new version of the event.
"""

from typing import Any, Final

Json = dict[str, Any]

_SAYS_NOTHING: Final = frozenset(("title", "description", "examples", "$comment", "deprecated"))
_READ_APART: Final = frozenset(("properties", "required", "items"))


def breaks(old: Json, new: Json, at: str = "") -> list[str]:
    """What of ``new`` is more than a gained optional field, as ``<place>: <fault>``; empty where it may be released."""
    here = at or "event"
    faults = [
        f"{here}: {keyword} was {old.get(keyword)!r}, is {new.get(keyword)!r}"
        for keyword in sorted((old.keys() | new.keys()) - _SAYS_NOTHING - _READ_APART)
        if old.get(keyword) != new.get(keyword)
    ]
    was, now = old.get("properties", {}), new.get("properties", {})
    must, must_now = set(old.get("required", ())), set(new.get("required", ()))
    faults += [f"{_join(at, name)}: removed" for name in was if name not in now]
    faults += [f"{_join(at, name)}: required now" for name in now if name in must_now - must]
    faults += [f"{_join(at, name)}: not required any more" for name in now if name in must - must_now]
    for name in was:
        if name in now:
            faults += breaks(was[name], now[name], _join(at, name))
    if "items" in old or "items" in new:
        faults += breaks(old.get("items", {}), new.get("items", {}), f"{at}[]")
    return faults


def _join(at: str, name: str) -> str:
    return f"{at}.{name}" if at else name
