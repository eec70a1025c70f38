"""The OpenAPI 3.1 document of a service, from what its entry points declare; and a page that people can read."""

import inspect
import re
from collections.abc import Iterable
from typing import Any, Final

from apispec import APISpec
from apispec.ext.marshmallow import MarshmallowPlugin
from marshmallow import INCLUDE, Schema, fields

from services.kernel.http import PROBLEM, Endpoint, HttpEntrypoint

_PATH_PARAMETER: Final = re.compile(
    r"<(?:(?:any\((?P<choices>[^)]*)\)|string\(length=(?P<length>\d+)\)|[a-z]+(?:\([^)]*\))?):)?(?P<name>[a-z_]+)>"
)
_TITLES: Final = {
    400: "The request cannot be read",
    401: "No valid credentials",
    403: "Not for this role",
    404: "Not there, or not yours to see",
    409: "Conflicts with the present state",
    410: "No longer available",
    412: "If-Match names an older version",
    413: "Larger than the limit it names",
    415: "Not application/json",
    422: "Fields are not valid",
    428: "Idempotency-Key or If-Match is missing",
    429: "Too many requests",
    500: "Internal error",
    503: "A part we stand on is away",
}


class ProblemError(Schema):
    """One wrong field."""

    field = fields.String(required=True)
    code = fields.String(required=True)
    message = fields.String(required=True)


class Problem(Schema):
    """Problem details (RFC 9457), with members of its own where a code has any: ``state``, ``limit``."""

    class Meta:
        """Consumers must ignore members they do not know."""

        unknown = INCLUDE

    type = fields.String(required=True)
    title = fields.String(required=True)
    status = fields.Integer(required=True)
    detail = fields.String(required=True)
    code = fields.String(required=True)
    errors = fields.List(fields.Nested(ProblemError))


def endpoints(service: type) -> list[Endpoint]:
    """The entry points of a nameko service class, in the order of their addresses."""
    found = [
        entrypoint.about
        for _name, method in inspect.getmembers(service, inspect.isfunction)
        for entrypoint in getattr(method, "nameko_entrypoints", ())
        if isinstance(entrypoint, HttpEntrypoint)
    ]
    return sorted(found, key=lambda one: (one.url, one.method))


def document(
    name: str, title: str, description: str, about: Iterable[Endpoint], *, extra: Iterable[type[Schema]] = ()
) -> dict[str, Any]:
    """The OpenAPI document of the given entry points; ``extra``: schemas that are referred to by name only."""
    spec = APISpec(
        title=title,
        version="v1",
        openapi_version="3.1.0",
        plugins=[MarshmallowPlugin(schema_name_resolver=_schema_name)],
        info={"description": description},
        servers=[{"url": "/"}],
    )
    spec.components.security_scheme(
        "bearer",
        {"type": "http", "scheme": "bearer", "description": "A signed access token (JWT), or a device's key"},
    )
    spec.components.schema("Problem", schema=Problem)
    for schema in extra:
        spec.components.schema(schema.__name__, schema=schema)
    for endpoint in about:
        if endpoint.url.startswith("/api/"):
            spec.path(path=_path(endpoint), operations={endpoint.method.lower(): _operation(name, endpoint)})
    return dict(spec.to_dict())


def _schema_name(schema: Any) -> str:
    return (schema if isinstance(schema, type) else type(schema)).__name__


def _operation(name: str, about: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "tags": [name],
        "summary": about.summary,
        "operationId": _operation_id(about),
        "parameters": [*_parameters(about), *([{"in": "query", "schema": about.query}] if about.query else [])],
        "responses": {
            **{str(status): _success(status, schema, about) for status, schema in about.answers.items()},
            **{str(status): _problem(status) for status in about.problems},
        },
        "security": [{"bearer": []}] if about.roles is not None else [],
    }
    if about.description:
        operation["description"] = about.description
    if about.roles is not None:
        operation["x-roles"] = sorted(about.roles)
    if about.body is not None:
        operation["requestBody"] = {"required": True, "content": {"application/json": {"schema": about.body}}}
    return operation


def _operation_id(about: Endpoint) -> str:
    return about.method.lower() + "_" + re.sub(r"[^a-z0-9]+", "_", _path(about).removeprefix("/api/v1/")).strip("_")


def _parameters(about: Endpoint) -> list[dict[str, Any]]:
    found = [
        {"in": "path", "name": parameter["name"], "required": True, "schema": _path_schema(parameter)}
        for parameter in _PATH_PARAMETER.finditer(about.url)
    ]
    if about.creates:
        found.append(
            {
                "in": "header",
                "name": "Idempotency-Key",
                "required": True,
                "description": "The same key and body are answered with the same document for 24 hours",
                "schema": {"type": "string", "pattern": "^[A-Za-z0-9_-]{8,64}$"},
            }
        )
    if about.edits:
        found.append(
            {
                "in": "header",
                "name": "If-Match",
                "required": True,
                "description": "The ETag of the version that is being changed",
                "schema": {"type": "string", "pattern": '^"[0-9]{1,15}"$'},
            }
        )
    return found


def _path(about: Endpoint) -> str:
    return _PATH_PARAMETER.sub(r"{\g<name>}", about.url)


def _path_schema(parameter: re.Match[str]) -> dict[str, Any]:
    if parameter["choices"]:
        return {"type": "string", "enum": re.findall(r"\w+", parameter["choices"])}
    length = int(parameter["length"] or 0)
    return {"type": "string", "minLength": length or 1, **({"maxLength": length} if length else {})}


def _success(status: int, schema: type[Schema] | None, about: Endpoint) -> dict[str, Any]:
    answer: dict[str, Any] = {"description": "Created" if status == 201 else "OK"}  # noqa: PLR2004
    if schema is not None:
        answer["content"] = {about.media_type: {"schema": schema}}
    elif about.media_type != "application/json":
        answer["content"] = {about.media_type: {"schema": {"type": "string"}}}
    if status == 201:  # noqa: PLR2004
        answer["headers"] = {
            "Location": {"schema": {"type": "string"}},
            "ETag": {"schema": {"type": "string"}},
        }
    return answer


def _problem(status: int) -> dict[str, Any]:
    return {
        "description": _TITLES[status],
        "content": {PROBLEM: {"schema": {"$ref": "#/components/schemas/Problem"}}},
    }
