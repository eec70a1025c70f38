"""One verdict on every event: the published JSON Schema, the marshmallow class and the catalogue agree."""

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from contracts import generate
from contracts.catalogue import CATALOGUE
from contracts.envelope import CONTENT_TYPE, Event, MalformedError, check, dump, load
from tests.contract.builders import DATA, build

TYPES = [entry.type for entry in CATALOGUE]
SCHEMAS = Path(generate.HERE) / generate.SCHEMAS


def published(type_: str) -> dict[str, Any]:
    """The committed JSON Schema of a type."""
    schema: dict[str, Any] = json.loads((SCHEMAS / f"{type_}.json").read_text("utf-8"))
    return schema


def accepts(type_: str, event: Event) -> dict[str, bool]:
    """Who takes the event for a valid one, as it arrives over the wire."""
    [arrived] = load(dump(event), CONTENT_TYPE)
    validator = Draft202012Validator(published(type_), format_checker=Draft202012Validator.FORMAT_CHECKER)
    try:
        CATALOGUE.check(check(arrived))
    except MalformedError:
        by_catalogue = False
    else:
        by_catalogue = True
    data = arrived.get("data")
    by_class = isinstance(data, dict) and not CATALOGUE[type_].schema().validate(data)
    return {"json schema": validator.is_valid(arrived), "catalogue": by_catalogue, "class": by_class}


def wrong_values(schema: dict[str, Any], value: Any) -> Iterator[Any]:
    """Values that a property of this schema must refuse, each wrong in one way."""
    yield None
    match schema["type"]:
        case "integer":
            yield from (1.9, True, False, "1", [], schema["minimum"] - 1, schema["maximum"] + 1)
        case "boolean":
            yield from (0, 1, 1.0, "true", [])
        case "string":
            yield from (1, True, [], {}, "", "nothing-of-the-kind", f"{value}0", f"0{value}", f"{value} ")
            if schema.get("format") in ("date", "date-time"):
                yield from (f"{value[:5]}13-01{value[10:]}", f"{value[:5]}07-32{value[10:]}")
        case "array":
            yield from (1, "water", {}, [*value, None], [*value, *value])
            if schema["minItems"]:
                yield []
            for index, item in enumerate(value):
                for wrong in broken(schema["items"], item):
                    yield [*value[:index], wrong, *value[index + 1 :]]
        case "object":
            yield from (1, "day", [], [value])


def broken(schema: dict[str, Any], value: Any) -> Iterator[Any]:
    """Copies of a valid value, each broken in one place: a required field missing, or a field wrong."""
    yield from wrong_values(schema, value)
    for name in schema.get("required", ()):
        yield {key: item for key, item in value.items() if key != name}
    for name, inner in schema.get("properties", {}).items():
        for wrong in broken(inner, value[name]) if name in value else ():
            yield {**value, name: wrong}


@pytest.mark.parametrize("type_", TYPES)
def test_published_schema_is_a_json_schema_of_its_address(type_: str) -> None:
    schema = published(type_)
    Draft202012Validator.check_schema(schema)
    assert schema["$id"] == build(type_)["dataschema"]


@pytest.mark.parametrize("type_", TYPES)
def test_valid_event_is_taken_by_all(type_: str) -> None:
    assert accepts(type_, build(type_)) == {"json schema": True, "catalogue": True, "class": True}


@pytest.mark.parametrize("type_", TYPES)
def test_broken_data_is_refused_by_all(type_: str) -> None:
    event, schema = build(type_), published(type_)
    cases = [{**event, "data": data} for data in broken(schema["properties"]["data"], event["data"])]
    assert len(cases) > 10 * len(event["data"])
    takers = [(case["data"], who) for case in cases for who, takes in accepts(type_, case).items() if takes]
    assert takers == []


@pytest.mark.parametrize("type_", TYPES)
def test_broken_envelope_is_refused_by_schema_and_catalogue(type_: str) -> None:
    event = build(type_)
    schema = published(type_)
    del schema["properties"]["data"]["properties"], schema["properties"]["data"]["required"]
    cases = [case for case in broken(schema, event) if isinstance(case, dict)]
    assert len(cases) > 10 * len(event)
    takers = [
        (case, who)
        for case in cases
        for who, takes in accepts(type_, case).items()
        if takes and who != "class"  # which sees the data only
    ]
    assert takers == []


@pytest.mark.parametrize("type_", TYPES)
def test_unknown_fields_are_ignored_by_all(type_: str) -> None:
    event = build(type_, gained_later={"depth": [1, "two"]})
    event["gainedlater"] = "x"
    assert accepts(type_, event) == {"json schema": True, "catalogue": True, "class": True}


@pytest.mark.parametrize("field", ["day", "quarantined_day"])
def test_day_that_no_calendar_has_is_refused_by_all(field: str) -> None:
    type_ = "stations.checkin_approved.v1"
    assert not any(accepts(type_, build(type_, **{field: "2025-02-30"})).values())
    assert all(accepts(type_, build(type_, **{field: "2024-02-29"})).values())


def test_builders_change_nothing_but_what_they_are_told() -> None:
    before = copy.deepcopy(DATA)
    build("stations.checkin_recorded.v1", people=9)["data"]["people"] = 10
    assert before == DATA
    assert DATA.keys() == set(TYPES)
