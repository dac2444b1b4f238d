"""The description of the API in OpenAPI 3.1, from the table of endpoints and the types."""

from __future__ import annotations

from functools import cache
from typing import Any

from ..core.amendments.model import LONGEST_NAME
from ..http.messages import TEXT
from ..version import version
from . import problems
from .endpoints import ENDPOINTS, IDEMPOTENCY_KEY, PREFIX, Endpoint
from .schema import fields_of, schema_of

_DESCRIPTION = (
    "Shows budgets, rules and replicas, and changes limits, while the service runs. On loopback, "
    "reading needs no token; everything else needs READ_TOKEN or ADMIN_TOKEN, as a Bearer token."
)

_PROBLEM = {problems.CONTENT_TYPE: {"schema": {"$ref": "#/components/schemas/Problem"}}}


@cache
def description() -> dict[str, Any]:
    """Return the OpenAPI document."""
    schemas: dict[str, Any] = {}
    paths: dict[str, Any] = {}
    for endpoint in ENDPOINTS:
        paths.setdefault(endpoint.path, {})[endpoint.method.lower()] = _operation(endpoint, schemas)
    schema_of(problems.Problem, schemas)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "ratelimit-service",
            "version": version(),
            "description": _DESCRIPTION,
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": PREFIX}],
        "security": [{"token": []}, {}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(schemas.items())),
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "responses": {
                "Problem": {"description": "An error.", "content": _PROBLEM},
                "Invalid": {
                    "description": "An error; plain text where the head of a request is not HTTP, "
                    "or has over 16 KiB.",
                    "content": {**_PROBLEM, TEXT: {"schema": {"type": "string"}}},
                },
            },
        },
    }


def kinds_of(endpoint: Endpoint) -> list[problems.Kind]:
    """Return the problems that an endpoint may return."""
    never = set()
    if endpoint.method == "GET":
        never |= {problems.TOO_LARGE, problems.NOT_JSON}
    if not endpoint.changes:
        never |= {problems.CONFLICT, problems.UNCONFIRMED}
    if not endpoint.missing:
        never.add(problems.NOT_FOUND)
    return [kind for kind in problems.KINDS if kind not in never]


def _operation(endpoint: Endpoint, schemas: dict[str, Any]) -> dict[str, Any]:
    answer = schema_of(endpoint.returns, schemas) if endpoint.returns is not None else {"type": "object"}
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "summary": endpoint.meaning,
        "responses": {
            "200": {"description": "Done.", "content": {"application/json": {"schema": answer}}},
            **{
                str(status): {"$ref": f"#/components/responses/{'Invalid' if status == 400 else 'Problem'}"}
                for status in sorted({kind.status for kind in kinds_of(endpoint)})
            },
        },
    }
    if endpoint.method == "POST":
        body = {"application/json": {"schema": schema_of(endpoint.takes, schemas)}}
        operation["requestBody"] = {"required": True, "content": body}
    parameters = [
        {
            "name": field.name,
            "in": "query",
            "required": field.needed,
            "description": field.doc.meaning,
            "schema": schema_of(field.type, schemas, field.doc._replace(meaning="")),
        }
        for field in (fields_of(endpoint.takes) if endpoint.method == "GET" else ())
    ]
    if endpoint.changes:
        operation["security"] = [{"token": []}]
        parameters.append(
            {
                "name": IDEMPOTENCY_KEY,
                "in": "header",
                "required": False,
                "description": (
                    "A change that is repeated with the same key within a day has no further effect. "
                    "Required, except for a dry run. Printable ASCII."
                ),
                "schema": {"type": "string", "minLength": 1, "maxLength": LONGEST_NAME},
            }
        )
    if parameters:
        operation["parameters"] = parameters
    return operation
