"""Authorization by token, by peer address, and by the headers of browsers."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from ratelimit_service.api import guard
from ratelimit_service.api.problems import ApiError
from ratelimit_service.http.messages import Request

from .served_api import (
    ADMIN,
    READ,
    ServedApi,
    bearer,
    serve_api,
)

CHANGE = {"domain": "d", "descriptor": "team=dba", "amount": 7, "reason": "launch"}


async def _empty() -> AsyncGenerator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk


def request(peer: str = "127.0.0.1", **headers: str) -> Request:
    """Return a request from a peer. In the names of headers, underscores stand for hyphens."""
    given = {"host": "localhost:6070", **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given.items()]
    return Request("GET", "/api/v1/status", _empty(), headers=pairs, peer=peer)


async def role_of(api: ServedApi, asked: Request, *, changes: bool = False) -> str:
    """Return the role of a caller, or the type of the problem."""
    try:
        return (await api.guard.admit(asked, changes=changes)).name
    except ApiError as refused:
        return refused.kind.name


@pytest.fixture
async def closed() -> AsyncIterator[ServedApi]:
    """Return the guard of a replica without tokens."""
    async with serve_api(ServedApi(admin="", read="")) as api:
        yield api


@pytest.mark.parametrize(
    "asked, reads, changes",
    [
        (request(), "LOCAL", "unauthorized"),
        (request("127.5.5.5", host="127.0.0.1:1"), "LOCAL", "unauthorized"),
        (request("::1", host="[::1]:6070"), "LOCAL", "unauthorized"),
        (request("::ffff:127.0.0.1", host="LOCALHOST"), "LOCAL", "unauthorized"),
        (request(authorization=f"Bearer {READ}"), "READ", "forbidden"),
        (request(authorization=f"bearer  {ADMIN} "), "ADMIN", "ADMIN"),
        (request("10.0.0.7", authorization=f"Bearer {READ}"), "READ", "forbidden"),
        (request("10.0.0.7", authorization=f"Bearer {ADMIN}", host="x"), "ADMIN", "ADMIN"),
        (request("10.0.0.7"), "unauthorized", "unauthorized"),
        (request(""), "unauthorized", "unauthorized"),
        # A wrong token is refused even where none is needed, so that its owner notices.
        (request(authorization="Bearer x"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN[:-1]}"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN}x"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN}, Bearer {ADMIN}"), "unauthorized", "unauthorized"),
        (request(authorization=f"Basic {ADMIN}"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN[:-1]}é"), "unauthorized", "unauthorized"),
        (request(authorization=""), "unauthorized", "unauthorized"),
        # DNS rebinding: the attacker's host name resolves to this machine.
        (request(host="evil.example"), "unauthorized", "unauthorized"),
        (
            request(host="evil.example:6070", origin="http://evil.example:6070"),
            "unauthorized",
            "unauthorized",
        ),
        (request(host="localhost.evil.example"), "unauthorized", "unauthorized"),
        (request(host="127.0.0.1.evil.example"), "unauthorized", "unauthorized"),
        (request(host="127.0.0.1@evil.example"), "unauthorized", "unauthorized"),
        (request(host=""), "unauthorized", "unauthorized"),
        (request(host="["), "unauthorized", "unauthorized"),
        (request(host="[::1].evil.example"), "unauthorized", "unauthorized"),
        # A proxy on this machine forwards requests from elsewhere.
        (request(x_forwarded_for="10.0.0.7"), "unauthorized", "unauthorized"),
        (request(forwarded="for=10.0.0.7"), "unauthorized", "unauthorized"),
        # A page from another site.
        (request(origin="http://evil.example"), "forbidden", "forbidden"),
        (request(origin="null"), "forbidden", "forbidden"),
        (request(origin="http://localhost:3000"), "forbidden", "forbidden"),
        (request(origin="http://evil.example", authorization=f"Bearer {ADMIN}"), "forbidden", "forbidden"),
        (request(sec_fetch_site="cross-site"), "forbidden", "forbidden"),
        (request(sec_fetch_site="same-site"), "forbidden", "forbidden"),
        # The service's own page.
        (request(origin="http://localhost:6070", sec_fetch_site="same-origin"), "LOCAL", "unauthorized"),
        (request(sec_fetch_site="none"), "LOCAL", "unauthorized"),
        (
            request(
                "10.0.0.7", host="ops.example", origin="https://ops.example", authorization=f"Bearer {ADMIN}"
            ),
            "ADMIN",
            "ADMIN",
        ),
    ],
)
async def test_the_role_of_a_caller_follows_from_its_token_and_its_address(
    api: ServedApi, asked: Request, reads: str, changes: str
) -> None:
    """For reads and for changes."""
    assert (reads, changes) == (await role_of(api, asked), await role_of(api, asked, changes=True))


async def test_without_tokens_loopback_may_read_and_no_caller_may_change(closed: ServedApi) -> None:
    """No text, not even an empty one, matches an unset token."""
    assert "local" == (await closed.get("/status"))["you"]
    assert not (await closed.get("/status"))["writes"]
    answer = await closed.client.post("/override", json=CHANGE)
    assert (403, True) == (answer.status_code, "ADMIN_TOKEN" in answer.json()["detail"])
    for token in ("", "\0" * 32, "None"):
        asked = request(authorization=f"Bearer {token}")
        assert "unauthorized" == await role_of(closed, asked)
    assert "unauthorized" == await role_of(closed, request("10.0.0.7"))


async def test_a_refused_request_is_answered_with_the_required_role(api: ServedApi) -> None:
    """A 401 has WWW-Authenticate, and nothing else about the token."""
    for headers, status, challenge in [
        ({}, 401, 'Bearer realm="ratelimit-service"'),
        (bearer("wrong-0123456789"), 401, 'Bearer realm="ratelimit-service", error="invalid_token"'),
        (bearer(READ), 403, None),
    ]:
        answer = await api.client.post("/override", json=CHANGE, headers=headers)
        assert (status, challenge) == (answer.status_code, answer.headers.get("www-authenticate"))
        assert ADMIN not in answer.text
        assert "wrong-0123456789" not in answer.text
    assert "OK: OK 100 3600" == api.ask()


async def test_responses_are_not_readable_by_other_sites(api: ServedApi) -> None:
    """They have no CORS headers, not even for a preflight request, and are not cached."""
    answer = await api.client.get("/status")
    assert ("no-store", "same-origin", "nosniff") == tuple(
        answer.headers[name]
        for name in ("cache-control", "cross-origin-resource-policy", "x-content-type-options")
    )
    preflight = await api.client.options(
        "/override",
        headers={"origin": "http://evil.example", "access-control-request-method": "POST"},
    )
    assert 403 == preflight.status_code
    assert [] == [name for name in (*answer.headers, *preflight.headers) if name.startswith("access-control")]


async def test_a_form_from_another_site_is_refused(api: ServedApi) -> None:
    """Browsers send text/plain, URL-encoded and multipart bodies without a preflight request."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = await api.client.post(
            "/override",
            content=b"{}",
            headers={**bearer(ADMIN), "content-type": kind, "idempotency-key": "k"},
        )
        assert (415, "urn:ratelimit-service:problem:unsupported-media-type") == (
            answer.status_code,
            answer.json()["type"],
        )


async def test_each_role_has_its_own_rate_limit(api: ServedApi) -> None:
    """Readers without a token cannot keep an operator from the kill switch."""
    statuses: list[str] = [await role_of(api, request()) for _ in range(guard.READS_AT_ONCE + 1)]
    assert ["LOCAL"] * guard.READS_AT_ONCE + ["too-many-requests"] == statuses
    answer = await api.client.get("/status")
    assert (429, "1") == (answer.status_code, answer.headers["retry-after"])
    admin = request(authorization=f"Bearer {ADMIN}")
    assert ("ADMIN", "ADMIN") == (await role_of(api, admin), await role_of(api, admin, changes=True))
    api.seconds += 2 / guard.READS
    assert ["LOCAL"] * 2 + ["too-many-requests"] == [await role_of(api, request()) for _ in range(3)]


async def test_guesses_of_a_token_are_limited_and_logged_once_a_minute(api: ServedApi) -> None:
    """Meanwhile, callers with the token are served. The log never contains a token."""
    wrong = request("10.0.0.7", authorization="Bearer guess-0123456789")
    with capture_logs() as logged:
        kinds: list[Any] = [await role_of(api, wrong) for _ in range(guard.FAILURES_AT_ONCE + 2)]
        assert ["unauthorized"] * guard.FAILURES_AT_ONCE + ["too-many-requests"] * 2 == kinds
        assert "ADMIN" == await role_of(api, request("10.0.0.7", authorization=f"Bearer {ADMIN}"))
        api.seconds += 61
        assert "unauthorized" == await role_of(api, wrong)
    assert [1, guard.FAILURES_AT_ONCE + 2] == [line["requests"] for line in logged]
    assert "guess" not in str(logged)


async def test_changes_are_rate_limited(api: ServedApi) -> None:
    """A tool in a loop cannot fill the audit at once."""
    admin = request(authorization=f"Bearer {ADMIN}")
    kinds = [await role_of(api, admin, changes=True) for _ in range(guard.WRITES_AT_ONCE + 1)]
    assert ["ADMIN"] * guard.WRITES_AT_ONCE + ["too-many-requests"] == kinds
