"""Authorization of requests: by token and peer address; no request of a page of another site
(http/request_origin.py) is admitted.

Reading without a token needs a peer on loopback, and the name of a loopback address in Host.
"""

from __future__ import annotations

import re
import time

import structlog

from ..http.messages import Request
from ..http.request_origin import is_local, on_loopback, wrong_site
from ..ports import Clock
from .problems import FORBIDDEN, TOO_MANY, UNAUTHORIZED, ApiError
from .throttle import Throttle
from .tokens import Role, Tokens

READS, READS_AT_ONCE = 100, 300
"""Reads of each role, a second and at once: sixty open pages."""

WRITES, WRITES_AT_ONCE = 20, 100
"""Changes, a second and at once."""

FAILURES, FAILURES_AT_ONCE = 2, 20
"""Requests without the token that they need, a second and at once; further ones are answered 429. They do not
delay requests with a valid token."""

_LOGGED_EVERY = 60.0
"""Seconds between two lines about such requests."""

_CHALLENGE = (("www-authenticate", 'Bearer realm="ratelimit-service"'),)
_bearer = re.compile(r"bearer +([!-~]+)", re.IGNORECASE).fullmatch


class Guard:
    """Admits requests. `clock` has seconds that go forward only."""

    def __init__(self, tokens: Tokens, clock: Clock = time.monotonic) -> None:
        self.tokens = tokens
        self._clock = clock
        self._reads = {role: Throttle(READS, READS_AT_ONCE, clock) for role in Role}
        self._writes = Throttle(WRITES, WRITES_AT_ONCE, clock)
        self._failures = Throttle(FAILURES, FAILURES_AT_ONCE, clock)
        self._failed = 0
        self._logged = float("-inf")
        self._log = structlog.get_logger("ratelimit_service.api")

    async def admit(self, request: Request, *, changes: bool) -> Role:
        """Return the role of the caller. Raises ApiError."""
        if why := wrong_site(request):
            raise ApiError(FORBIDDEN, why)
        role = await self._role(request)
        if changes and role is not Role.ADMIN:
            self._refuse(request)
            raise self._may_not_change(role)
        wait = (self._writes if changes else self._reads[role]).take()
        if wait:
            raise _too_many(wait)
        return role

    async def _role(self, request: Request) -> Role:
        given = request.header(b"authorization")
        if given is None:
            if is_local(request):
                return Role.LOCAL
            self._refuse(request)
            raise ApiError(UNAUTHORIZED, self._needed(request), headers=_CHALLENGE)
        await self.tokens.refresh()
        bearer = _bearer(given.strip())
        role = self.tokens.role_of(bearer[1]) if bearer else None
        if role is None:
            self._refuse(request)
            detail = "the header Authorization must be `Bearer`, a space and the token"
            if bearer:
                detail = "the token is not valid"
                if not (self.tokens.admin.wanted or self.tokens.read.wanted):
                    detail += ": the service was started with neither ADMIN_TOKEN nor READ_TOKEN"
            challenge = (("www-authenticate", f'{_CHALLENGE[0][1]}, error="invalid_token"'),)
            raise ApiError(UNAUTHORIZED, detail, headers=challenge)
        return role

    def _refuse(self, request: Request) -> None:
        """Count a request without the required role. Raises ApiError if there are too many."""
        self._failed += 1
        now = self._clock()
        if now >= self._logged + _LOGGED_EVERY:
            self._log.warning(
                "requests to the API were refused",
                requests=self._failed,
                peer=request.peer,
                method=request.method,
                path=request.path[:200],
            )
            self._logged, self._failed = now, 0
        wait = self._failures.take()
        if wait:
            raise _too_many(wait)

    def _needed(self, request: Request) -> str:
        if not (self.tokens.admin.wanted or self.tokens.read.wanted):
            return (
                "without a token, the API is for loopback: set READ_TOKEN or ADMIN_TOKEN, "
                "and send it as a Bearer token"
            )
        if on_loopback(request.peer):
            return (
                "without a token, requests on loopback need localhost or a loopback address in Host, "
                "and must not come through a proxy"
            )
        return "a token is needed: send READ_TOKEN or ADMIN_TOKEN as a Bearer token"

    def _may_not_change(self, role: Role) -> ApiError:
        if not self.tokens.admin.wanted:
            return ApiError(
                FORBIDDEN,
                "the service was started with neither ADMIN_TOKEN nor ADMIN_TOKEN_FILE: with one of them, "
                "it permits changes",
            )
        if role is Role.LOCAL:
            return ApiError(
                UNAUTHORIZED, "a change needs a token: send ADMIN_TOKEN as a Bearer token", headers=_CHALLENGE
            )
        return ApiError(FORBIDDEN, "this token may only read: a change needs ADMIN_TOKEN")


def _too_many(wait: int) -> ApiError:
    return ApiError(
        TOO_MANY, f"too many requests: try again in {wait} s", headers=(("retry-after", str(wait)),)
    )
