"""Who may send a request: its token, its peer, and no page of another site.

A browser sends a page's requests to any address that it can reach, this port on loopback as well. Nothing here relies on
cookies, so a page has no rights of its user beyond those of the address that it comes from:

- A page of another site has another origin: Origin and Sec-Fetch-Site say so.
- A page whose name resolves to 127.0.0.1 (DNS rebinding) has this port as its origin, and its own name in Host: so reading
  without a token needs the name of a loopback address there.
"""

from __future__ import annotations

import ipaddress
import re
import time
from urllib.parse import urlsplit

import structlog

from ..http.messages import Request
from ..ports import Clock
from .pace import Pace
from .problems import FORBIDDEN, TOO_MANY, UNAUTHORIZED, Refused
from .tokens import Role, Tokens

READS, READS_AT_ONCE = 100, 300
"""Reads of each role, a second and at once: sixty open pages."""

WRITES, WRITES_AT_ONCE = 20, 100
"""Changes, a second and at once."""

FAILURES, FAILURES_AT_ONCE = 2, 20
"""Requests without the token that they need, a second and at once; further ones are answered 429. A valid token is not held up by them."""

_LOGGED_EVERY = 60.0
"""Seconds between two lines about such requests."""

_CHALLENGE = (("www-authenticate", 'Bearer realm="ratelimit-service"'),)
_bearer = re.compile(r"bearer +([!-~]+)", re.IGNORECASE).fullmatch
_PROXIED = (b"forwarded", b"x-forwarded-for", b"x-forwarded-host", b"x-real-ip", b"via")


class Guard:
    """Admits requests. `clock` has seconds that go forward only."""

    def __init__(self, tokens: Tokens, clock: Clock = time.monotonic) -> None:
        self.tokens = tokens
        self._clock = clock
        self._reads = {role: Pace(READS, READS_AT_ONCE, clock) for role in Role}
        self._writes = Pace(WRITES, WRITES_AT_ONCE, clock)
        self._failures = Pace(FAILURES, FAILURES_AT_ONCE, clock)
        self._failed = 0
        self._logged = float("-inf")
        self._log = structlog.get_logger("ratelimit_service.api")

    async def admit(self, request: Request, *, changes: bool) -> Role:
        """Return the role of the caller. Raises Refused."""
        check_site(request)
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
            raise Refused(UNAUTHORIZED, self._needed(request), headers=_CHALLENGE)
        await self.tokens.look()
        bearer = _bearer(given.strip())
        role = self.tokens.role_of(bearer[1]) if bearer else None
        if role is None:
            self._refuse(request)
            detail = (
                "the token is not valid"
                if bearer
                else "the header Authorization must be `Bearer`, a space and the token"
            )
            challenge = (("www-authenticate", f'{_CHALLENGE[0][1]}, error="invalid_token"'),)
            raise Refused(UNAUTHORIZED, detail, headers=challenge)
        return role

    def _refuse(self, request: Request) -> None:
        """Note a request without the right that it needs. Raises Refused where there are too many."""
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
            return "without a token, the API is for loopback: set READ_TOKEN or ADMIN_TOKEN, and send it as a Bearer token"
        if _on_loopback(request.peer):
            return (
                "without a token, requests on loopback need localhost or a loopback address in Host, "
                "and must not come through a proxy"
            )
        return "a token is needed: send READ_TOKEN or ADMIN_TOKEN as a Bearer token"

    def _may_not_change(self, role: Role) -> Refused:
        if not self.tokens.admin.wanted:
            return Refused(
                FORBIDDEN,
                "the API changes nothing: the service was started with neither ADMIN_TOKEN nor ADMIN_TOKEN_FILE",
            )
        if role is Role.LOCAL:
            return Refused(
                UNAUTHORIZED, "a change needs a token: send ADMIN_TOKEN as a Bearer token", headers=_CHALLENGE
            )
        return Refused(FORBIDDEN, "this token may only read: a change needs ADMIN_TOKEN")


def check_site(request: Request) -> None:
    """Raise Refused for a request that a browser sends for a page of another site."""
    site = request.header(b"sec-fetch-site")
    if site is not None and site not in ("same-origin", "none"):
        raise Refused(FORBIDDEN, "a page of another site may not use the API")
    origin = request.header(b"origin")
    # Its scheme is not compared: a proxy may end TLS.
    if origin is not None and origin.lower().partition("://")[2] != (request.header(b"host") or " ").lower():
        raise Refused(FORBIDDEN, "a page of another site may not use the API: Origin is not this server's")


def is_local(request: Request) -> bool:
    """Whether a request comes from this machine, under a name of it, and not through a proxy."""
    return (
        _on_loopback(request.peer)
        and _is_loopback_name(request.header(b"host") or "")
        and not any(request.header(name) is not None for name in _PROXIED)
    )


def _is_loopback_name(host: str) -> bool:
    try:
        name = urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return False
    return name == "localhost" or name.endswith(".localhost") or _on_loopback(name)


def _on_loopback(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address)
    except ValueError:  # a name
        return False
    mapped = found.ipv4_mapped if isinstance(found, ipaddress.IPv6Address) else None
    return (mapped or found).is_loopback


def _too_many(wait: int) -> Refused:
    return Refused(
        TOO_MANY, f"too many requests: try again in {wait} s", headers=(("retry-after", str(wait)),)
    )
