"""A version of an event only ever gains optional fields: old to new, new to old, and against the last release."""

import copy
import json
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from contracts import generate
from contracts.catalogue import CATALOGUE
from contracts.envelope import CONTENT_TYPE, check, load
from tests.contract.builders import FIXTURES, HERE, build, write_missing_fixtures
from tests.contract.evolution import breaks

RELEASED = HERE / "released"
PUBLISHED_EXAMPLES = sorted(FIXTURES.glob("*/*.json"))
RELEASED_SCHEMAS = sorted(RELEASED.glob("*.json"))


def test_every_type_has_a_published_example_and_every_example_a_type() -> None:
    assert {path.name for path in FIXTURES.iterdir()} == {entry.type for entry in CATALOGUE}
    assert {path.parent.name for path in PUBLISHED_EXAMPLES} == {entry.type for entry in CATALOGUE}


@pytest.mark.parametrize("path", PUBLISHED_EXAMPLES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_old_event_is_read_today(path: Path) -> None:
    [event] = load(path.read_bytes(), CONTENT_TYPE)
    CATALOGUE.check(check(event))
    assert event["type"] == path.parent.name
    Draft202012Validator(generate.schema(CATALOGUE[event["type"]])).validate(event)
    CATALOGUE.counts(event)


@pytest.mark.parametrize("path", RELEASED_SCHEMAS, ids=lambda path: path.stem)
def test_event_of_today_is_read_by_the_last_release(path: Path) -> None:
    released = Draft202012Validator(json.loads(path.read_text("utf-8")))
    released.validate(build(path.stem))
    released.validate(build(path.stem, gained_later=1))


@pytest.mark.parametrize("path", RELEASED_SCHEMAS, ids=lambda path: path.stem)
def test_schema_only_gained_optional_fields_since_the_last_release(path: Path) -> None:
    old = json.loads(path.read_text("utf-8"))
    assert breaks(old, generate.schema(CATALOGUE[path.stem])) == [], "publish a new version of the event instead"


def test_release_was_recorded() -> None:
    assert RELEASED_SCHEMAS


def test_fixtures_are_written_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.contract.builders.FIXTURES", tmp_path)
    write_missing_fixtures("0.1.0")
    first = {path: path.read_bytes() for path in tmp_path.glob("*/*.json")}
    write_missing_fixtures("0.2.0")
    assert {path: path.read_bytes() for path in tmp_path.glob("*/*.json")} == first
    assert len(first) == len(list(CATALOGUE))


OLD: dict[str, Any] = {
    "type": "object",
    "required": ["day", "people"],
    "properties": {
        "day": {"type": "string", "pattern": "^[0-9-]{10}$"},
        "people": {"type": "integer", "minimum": 1, "maximum": 500},
        "kind": {"type": "string", "enum": ["water", "rest"]},
        "parts": {
            "type": "array",
            "minItems": 0,
            "items": {"type": "object", "required": ["since"], "properties": {"since": {"type": "string"}}},
        },
    },
}


def changed(*path: str, to: Any = None) -> dict[str, Any]:
    """OLD with one place replaced, or removed where ``to`` is None."""
    new = copy.deepcopy(OLD)
    place: Any = new
    for step in path[:-1]:
        place = place[step]
    if to is None:
        del place[path[-1]]
    else:
        place[path[-1]] = to
    return new


def test_gained_optional_fields_and_new_words_are_no_break() -> None:
    new = changed("properties", "gained", to={"type": "string"})
    new["description"] = "In better words."
    new["properties"]["day"]["description"] = "A day."
    new["properties"]["parts"]["items"]["properties"]["until"] = {"type": "string"}
    assert breaks(OLD, new) == []


RENAMED = changed("properties", "kinds", to=OLD["properties"]["kind"])
del RENAMED["properties"]["kind"]
NEW_REQUIRED = changed("properties", "gained", to={"type": "string"})
NEW_REQUIRED["required"] = ["day", "people", "gained"]


@pytest.mark.parametrize(
    ("new", "fault"),
    [
        pytest.param(changed("properties", "kind"), "kind: removed", id="removed field"),
        pytest.param(RENAMED, "kind: removed", id="renamed field"),
        pytest.param(NEW_REQUIRED, "gained: required now", id="new required field"),
        pytest.param(changed("required", to=["day", "people", "kind"]), "kind: required now", id="made required"),
        pytest.param(changed("required", to=["day"]), "people: not required any more", id="made optional"),
        pytest.param(changed("properties", "kind", "enum", to=["water"]), "kind: enum", id="narrowed enum"),
        pytest.param(
            changed("properties", "kind", "enum", to=["water", "rest", "meal"]), "kind: enum", id="wider enum"
        ),
        pytest.param(changed("properties", "kind", "enum"), "kind: enum", id="opened enum"),
        pytest.param(changed("properties", "people", "maximum", to=400), "people: maximum", id="narrowed maximum"),
        pytest.param(changed("properties", "people", "minimum", to=2), "people: minimum", id="narrowed minimum"),
        pytest.param(changed("properties", "people", "type", to="number"), "people: type", id="other type"),
        pytest.param(changed("properties", "day", "pattern", to="^x$"), "day: pattern", id="other pattern"),
        pytest.param(changed("properties", "day", "maxLength", to=9), "day: maxLength", id="new length"),
        pytest.param(changed("properties", "parts", "minItems", to=1), "parts: minItems", id="more items demanded"),
        pytest.param(changed("additionalProperties", to=False), "event: additionalProperties", id="closed object"),
        pytest.param(
            changed("properties", "parts", "items", "properties", "since"),
            "parts[].since: removed",
            id="removed inside",
        ),
        pytest.param(
            changed("properties", "parts", "items", "properties", "since", "type", to="integer"),
            "parts[].since: type",
            id="other type inside",
        ),
        pytest.param(changed("properties", "parts", "items"), "parts[]: type", id="items opened"),
    ],
)
def test_any_other_change_is_refused(new: dict[str, Any], fault: str) -> None:
    assert any(found.startswith(fault) for found in breaks(OLD, new))
