"""Errors as problem details (RFC 9457): application/problem+json."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypedDict

from ..core.errors import Conflict, InvalidRequest, NotReady, RateLimitServiceError, StoreError
from ..core.text import fit
from ..http.messages import Response
from .schema import Doc

CONTENT_TYPE = "application/problem+json"
_LONGEST = 500
"""Characters of a text in a problem: it may quote what a caller sent."""


class FieldError(TypedDict):
    """An error in one field, parameter or header of the request."""

    field: Annotated[str, Doc("Its name.", "amount")]
    detail: Annotated[str, Doc("The mistake.", "must be at least 0")]


class Problem(TypedDict):
    """An error (RFC 9457)."""

    type: Annotated[
        str, Doc("The kind of the error, for programs.", "urn:ratelimit-service:problem:conflict")
    ]
    title: Annotated[str, Doc("The same, for people.", "Conflict")]
    status: Annotated[int, Doc("The status of the response.", 409, minimum=400, maximum=599)]
    detail: Annotated[str, Doc("The error, and what to do about it.", "another change came first")]
    errors: Annotated[list[FieldError], Doc("The fields with errors; empty if the error is in none of them.")]


class Kind(NamedTuple):
    """A kind of problem: the last part of its type, its status, and its title."""

    name: str
    status: int
    title: str
    meaning: str


INVALID = Kind(
    "invalid", 400, "Invalid request", "A field, a parameter or a header is missing, unknown or not valid."
)
UNAUTHORIZED = Kind("unauthorized", 401, "Unauthorized", "A token is needed, or the one sent is not valid.")
FORBIDDEN = Kind(
    "forbidden", 403, "Forbidden", "This token may only read, or the request comes from another site's page."
)
NOT_FOUND = Kind("not-found", 404, "Not found", "There is no such path, bucket or amendment.")
NOT_ALLOWED = Kind(
    "method-not-allowed", 405, "Method not allowed", "The header Allow has the methods of the path."
)
CONFLICT = Kind("conflict", 409, "Conflict", "Another change came first: preview the change again.")
TOO_LARGE = Kind("too-large", 413, "Content too large", "The body is too large.")
NOT_JSON = Kind("unsupported-media-type", 415, "Unsupported media type", "The body must be application/json.")
UNUSABLE = Kind(
    "unprocessable", 422, "Unprocessable", "The request is well-formed, but cannot be carried out."
)
UNCONFIRMED = Kind(
    "confirmation-needed", 422, "Confirmation needed", "A bulk change needs the confirmation of its preview."
)
TOO_MANY = Kind("too-many-requests", 429, "Too many requests", "The header Retry-After says when to retry.")
INTERNAL = Kind("internal", 500, "Internal error", "A bug; the log has the cause.")
UNAVAILABLE = Kind(
    "store-unavailable",
    503,
    "Store unavailable",
    "The store cannot be reached, or refuses. A change may have been applied: send it again with its key.",
)
NOT_READY = Kind("not-ready", 503, "Not ready", "No rules are loaded yet.")
BUSY = Kind("busy", 503, "Busy", "Too many requests are in flight.")

KINDS = (
    INVALID,
    UNAUTHORIZED,
    FORBIDDEN,
    NOT_FOUND,
    NOT_ALLOWED,
    CONFLICT,
    TOO_LARGE,
    NOT_JSON,
    UNUSABLE,
    UNCONFIRMED,
    TOO_MANY,
    INTERNAL,
    UNAVAILABLE,
    NOT_READY,
    BUSY,
)


class ApiError(Exception):
    """A request that is answered with a problem. `headers` go with the response."""

    def __init__(
        self,
        kind: Kind,
        detail: str,
        errors: Sequence[tuple[str, str]] = (),
        headers: Sequence[tuple[str, str]] = (),
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.errors = errors
        self.headers = headers


def of_error(error: RateLimitServiceError) -> ApiError:
    """Return an error of the service as a problem for a caller of the API."""
    for kind, found in (
        (CONFLICT, Conflict),
        (NOT_READY, NotReady),
        (UNAVAILABLE, StoreError),
        (UNUSABLE, InvalidRequest),
    ):
        if isinstance(error, found):
            return ApiError(kind, str(error))
    return ApiError(INTERNAL, "an unexpected error: the log has the cause")


def problem(refused: ApiError) -> Problem:
    """Return the body of the response."""
    kind = refused.kind
    return {
        "type": f"urn:ratelimit-service:problem:{kind.name}",
        "title": kind.title,
        "status": kind.status,
        "detail": fit(refused.detail, _LONGEST),
        "errors": [
            {"field": fit(field, _LONGEST), "detail": fit(detail, _LONGEST)}
            for field, detail in refused.errors
        ],
    }


def response(refused: ApiError) -> Response:
    """Return the response."""
    body = json.dumps(problem(refused), separators=(",", ":")).encode()
    return Response(body, refused.kind.status, CONTENT_TYPE, headers=refused.headers)
