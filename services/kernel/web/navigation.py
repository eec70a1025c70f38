"""The way through the site: every service names its pages in ``services/<service>/navigation.yaml``, with their roles.

A file and no import, since services do not know one another and every page shows the way to all.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import yaml

from services.kernel.web.translation import SERVICES


@dataclass(frozen=True, slots=True)
class Place:
    """A page that the navigation leads to; ``roles`` empty: anyone."""

    zh: str
    en: str
    path: str
    order: int
    roles: frozenset[str]


@cache
def places() -> tuple[Place, ...]:
    """All places of all services, in their order."""
    return read(sorted(SERVICES.glob("*/navigation.yaml")))


def read(files: Iterable[Path]) -> tuple[Place, ...]:
    """The places that the files name.

    Raises:
        KeyError: a label lacks a language.
        TypeError: an entry lacks a member or has one too many.
    """
    found = [_place(**entry) for file in files for entry in yaml.safe_load(file.read_text("utf-8"))]
    return tuple(sorted(found, key=lambda place: (place.order, place.path)))


def visible(known: Iterable[Place], roles: Collection[str]) -> list[Place]:
    """What somebody with these roles may visit."""
    return [place for place in known if not place.roles or not place.roles.isdisjoint(roles)]


def current(shown: Iterable[Place], path: str) -> Place | None:
    """The place that a path lies in: the longest that leads to it."""
    inside = [place for place in shown if path == place.path or path.startswith(place.path.rstrip("/") + "/")]
    exact = [place for place in inside if place.path != "/" or path == "/"]
    return max(exact, key=lambda place: len(place.path), default=None)


def _place(label: Mapping[str, Any], path: str, order: int, roles: Iterable[str] = ()) -> Place:
    return Place(str(label["zh"]), str(label["en"]), path, order, frozenset(roles))
