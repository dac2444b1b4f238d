"""The handler of /api/v1: admits a request, reads it by its type, runs its endpoint, and writes the answer or
a problem.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncGenerator, Mapping
from typing import Any

from ..core.amendments.model import LONGEST_NAME
from ..core.errors import InvalidRequest, RateLimitServiceError
from ..http.messages import IncompleteBody, Request, Response
from ..http.strict_json import strict_json
from ..runtime.exceptions import report
from . import problems, request_types
from .endpoint_methods import Api
from .endpoints import ENDPOINTS, IDEMPOTENCY_KEY, PREFIX, Endpoint
from .guard import Guard
from .problems import ApiError
from .schema import InvalidValue, read_object, read_query
from .tokens import Role

LARGEST_BODY = 65_536
"""Bytes."""

MOST_IN_FLIGHT = 64
"""Requests in flight for each role, so that readers that send their bodies slowly do not block changes."""

_HEADERS = (
    ("cache-control", "no-store"),
    ("cross-origin-resource-policy", "same-origin"),
    ("x-content-type-options", "nosniff"),
)


class ApiHandler:
    """Answers the requests below PREFIX."""

    def __init__(self, api: Api, guard: Guard) -> None:
        self._api = api
        self._guard = guard
        self._in_flight = dict.fromkeys(Role, 0)
        self.answered: Counter[tuple[str, int]] = Counter()
        """Answers, by the path of the endpoint (`other` for none) and the status."""
        self._paths: dict[str, dict[str, Endpoint]] = {}
        for endpoint in ENDPOINTS:
            self._paths.setdefault(f"{PREFIX}{endpoint.path}", {})[endpoint.method] = endpoint

    async def answer(self, request: Request) -> Response:
        """Answer a request."""
        try:
            response = await self._answer(request)
        except ApiError as refused:
            response = problems.response(refused)
        except InvalidValue as wrong:
            detail = "the request is not valid: " + "; ".join(
                f"{field} {what}".strip() for field, what in wrong.errors
            )
            response = problems.response(ApiError(problems.INVALID, detail, wrong.errors))
        except IncompleteBody:
            response = problems.response(ApiError(problems.INVALID, "the body ended early"))
        except RateLimitServiceError as error:
            response = problems.response(problems.of_error(error))
        except Exception as error:
            report("a request to the API has failed", error)
            response = problems.response(ApiError(problems.INTERNAL, "the log has the cause"))
        known = request.path in self._paths
        self.answered[request.path.removeprefix(PREFIX) if known else "other", response.status] += 1
        return response._replace(headers=(*_HEADERS, *response.headers))

    async def _answer(self, request: Request) -> Response:
        methods = self._paths.get(request.path, {})
        endpoint = methods.get("GET" if request.method == "HEAD" else request.method)
        role = await self._guard.admit(request, changes=endpoint is not None and endpoint.changes)
        if endpoint is None:
            raise _unknown(request, methods)
        if self._in_flight[role] >= MOST_IN_FLIGHT:
            raise ApiError(
                problems.BUSY, f"{MOST_IN_FLIGHT} requests are in flight", headers=(("retry-after", "1"),)
            )
        self._in_flight[role] += 1
        try:
            answer = await self._api.turns.written(await self._run(endpoint, request, role))
        finally:
            self._in_flight[role] -= 1
        if len(answer) == 1:
            return Response(answer[0], content_type="application/json")
        return Response(_sent(answer), content_type="application/json")

    async def _run(self, endpoint: Endpoint, request: Request, role: Role) -> Mapping[str, Any]:
        run = getattr(self._api, endpoint.name)
        answer: Mapping[str, Any]
        if endpoint.method == "GET":
            answer = await run(read_query(endpoint.takes, request.query), role)
            return answer
        read_query(request_types.Nothing, request.query)
        body: Any = read_object(endpoint.takes, await _body_of(request))
        if endpoint.changes:
            answer = await run(body, _idempotency_key(request, body))
        else:
            answer = await run(body, role)
        return answer


def _unknown(request: Request, methods: Mapping[str, Endpoint]) -> ApiError:
    if not methods:
        return ApiError(
            problems.NOT_FOUND, f"there is no such path: {PREFIX}/openapi.json has those that there are"
        )
    allow = ", ".join([*(["HEAD"] if "GET" in methods else []), *methods])
    return ApiError(problems.NOT_ALLOWED, f"this path takes {allow}", headers=(("allow", allow),))


async def _body_of(request: Request) -> Any:
    """Return the JSON value in the body. Raises ApiError or IncompleteBody."""
    kind = (request.header(b"content-type") or "").partition(";")[0].strip().lower()
    if kind != "application/json":  # a form of another site's page cannot say so
        raise ApiError(problems.NOT_JSON, "the header Content-Type must be application/json")
    body = bytearray()
    async for chunk in request.body:
        body += chunk
        if len(body) > LARGEST_BODY:
            raise ApiError(problems.TOO_LARGE, f"the body may have {LARGEST_BODY} bytes at most")
    try:
        return strict_json(bytes(body))
    except InvalidRequest as error:
        raise ApiError(problems.INVALID, str(error)) from None


def _idempotency_key(request: Request, body: Any) -> str | None:
    """Return the idempotency key of a change; None of a dry run without one. Raises InvalidValue or
    ApiError.
    """
    given = request.header(IDEMPOTENCY_KEY.lower().encode())
    if given is None:
        if body.dry_run:
            return None
        what = "is missing: send a header with a text of your own, and the same one if you retry"
        raise ApiError(problems.UNUSABLE, f"{IDEMPOTENCY_KEY} {what}", [(IDEMPOTENCY_KEY, what)])
    key = given[1:-1] if len(given) > 1 and given[0] == given[-1] == '"' else given  # RFC 8941 has quotes
    if not (0 < len(key) <= LONGEST_NAME and key.isascii() and key.isprintable()):
        raise InvalidValue([(IDEMPOTENCY_KEY, f"must have 1 to {LONGEST_NAME} printable ASCII characters")])
    return key


async def _sent(pieces: list[bytes]) -> AsyncGenerator[bytes]:
    for piece in pieces:
        yield piece
