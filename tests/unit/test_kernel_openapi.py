"""The OpenAPI document of a service, from what its entry points declare."""

from typing import Any

import pytest
from jsonschema import Draft202012Validator
from schemathesis.specs.openapi.definitions import OPENAPI_31

from services.kernel import openapi
from services.kernel.http import Endpoint
from tests import probe


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    """The probe's document."""
    return openapi.document("probe", "Probe", "The kernel, shown", openapi.endpoints(probe.service()))


def test_every_api_address_is_in_it_and_pages_are_not(document: dict[str, Any]) -> None:
    declared = {(one.method.lower(), one.url) for one in openapi.endpoints(probe.service())}
    shown = {(method, path) for path, operations in document["paths"].items() for method in operations}
    assert ("get", "/probe") in declared
    assert {(method, path.replace("{id}", "<id>").replace("{ms}", "<int:ms>")) for method, path in shown} == {
        one for one in declared if one[1].startswith("/api/")
    }


def test_every_operation_has_its_own_id_and_every_problem_a_shape(document: dict[str, Any]) -> None:
    ids = [operation["operationId"] for operations in document["paths"].values() for operation in operations.values()]
    assert len(set(ids)) == len(ids)
    post = document["paths"]["/api/v1/probe/notes"]["post"]
    assert set(post["responses"]) == {
        *("201", "400", "401", "403", "409", "413", "415", "422", "428", "429", "500", "503"),
    }
    assert set(document["paths"]["/api/v1/probe/notes/{id}"]["put"]["responses"]) >= {"404", "409", "410", "412"}
    for status, answer in post["responses"].items():
        if status != "201":
            assert answer["content"] == {
                "application/problem+json": {"schema": {"$ref": "#/components/schemas/Problem"}}
            }
    assert post["responses"]["201"]["headers"].keys() == {"Location", "ETag"}


def test_what_is_demanded_is_declared(document: dict[str, Any]) -> None:
    notes = document["paths"]["/api/v1/probe/notes"]
    (key,) = notes["post"]["parameters"]
    assert (key["name"], key["required"]) == ("Idempotency-Key", True)
    assert notes["post"]["security"] == [{"bearer": []}]
    assert notes["post"]["x-roles"] == ["city_officer"]
    assert {one["name"] for one in notes["get"]["parameters"]} == {"limit", "cursor"}
    put = document["paths"]["/api/v1/probe/notes/{id}"]["put"]
    assert {(one["in"], one["name"]) for one in put["parameters"]} == {("path", "id"), ("header", "If-Match")}
    assert document["paths"]["/api/v1/probe/hello"]["get"]["security"] == []


def test_schemas_of_input_say_their_limits(document: dict[str, Any]) -> None:
    note = document["components"]["schemas"]["NoteIn"]
    assert note["required"] == ["title"]
    assert (note["properties"]["title"]["minLength"], note["properties"]["title"]["maxLength"]) == (1, 40)
    assert note["additionalProperties"] is False


def test_it_is_valid_openapi_3_1(document: dict[str, Any]) -> None:
    assert document["openapi"] == "3.1.0"
    assert [str(error) for error in Draft202012Validator(OPENAPI_31).iter_errors(document)] == []


def test_what_is_said_by_name_only_is_there_too_and_paths_say_what_they_take() -> None:
    told = openapi.document(
        "x",
        "X",
        "x",
        [
            Endpoint("GET", "/api/v1/x/<any(water, rest):kind>", "By kind", description="More words"),
            Endpoint(
                "GET", "/api/v1/x/<string(length=36):id>/more", "By id", media_type="text/csv", answers={200: None}
            ),
        ],
        extra=[probe.NoteWrittenV1],
    )
    assert "NoteWrittenV1" in told["components"]["schemas"]
    kind = told["paths"]["/api/v1/x/{kind}"]["get"]
    assert kind["description"] == "More words"
    assert kind["parameters"][0]["schema"] == {"type": "string", "enum": ["water", "rest"]}
    more = told["paths"]["/api/v1/x/{id}/more"]["get"]
    assert more["parameters"][0]["schema"] == {"type": "string", "minLength": 36, "maxLength": 36}
    assert more["responses"]["200"]["content"] == {"text/csv": {"schema": {"type": "string"}}}


def test_every_schema_is_a_schema_and_every_reference_leads_somewhere(document: dict[str, Any]) -> None:
    for schema in document["components"]["schemas"].values():
        Draft202012Validator.check_schema(schema)

    def references(value: Any) -> list[str]:
        if isinstance(value, dict):
            here = [value["$ref"]] if "$ref" in value else []
            return here + [found for child in value.values() for found in references(child)]
        return [found for child in value for found in references(child)] if isinstance(value, list) else []

    found = references(document)
    assert found
    assert {one.removeprefix("#/components/schemas/") for one in found} <= document["components"]["schemas"].keys()


@pytest.mark.parametrize(
    ("about", "expected"),
    [
        ({}, {400, 429, 500, 503}),
        ({"limited": False}, {400, 500, 503}),
        ({"roles": frozenset({"r"})}, {400, 401, 403, 429, 500, 503}),
        ({"body": probe.NoteWrittenV1}, {400, 413, 415, 422, 429, 500, 503}),
        ({"query": probe.NoteWrittenV1}, {400, 422, 429, 500, 503}),
        ({"creates": True}, {400, 409, 428, 429, 500, 503}),
        ({"edits": True}, {400, 409, 412, 428, 429, 500, 503}),
        ({"conflicts": (410,)}, {400, 410, 429, 500, 503}),
    ],
)
def test_the_statuses_follow_from_what_is_declared(about: dict[str, Any], expected: set[int]) -> None:
    assert set(Endpoint("GET", "/api/x", "x", **about).problems) == expected
    assert set(Endpoint("GET", "/api/x/<id>", "x", **about).problems) == expected | {404}
