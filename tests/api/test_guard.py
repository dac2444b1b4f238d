"""Who may send a request: by token, by peer, and by what a browser says about the page that sends it."""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import pytest
from structlog.testing import capture_logs

from ratelimit_service.api import guard
from ratelimit_service.api.problems import Refused
from ratelimit_service.http.messages import Request

from .desk import ADMIN, READ, Desk, bearer, open_desk

CHANGE = {"domain": "d", "descriptor": "team=dba", "amount": 7, "reason": "launch"}


async def _empty() -> AsyncGenerator[bytes]:
    nothing: tuple[bytes, ...] = ()
    for chunk in nothing:
        yield chunk


def request(peer: str = "127.0.0.1", **headers: str) -> Request:
    """A request of a peer; a header's name has underscores."""
    given = {"host": "localhost:6070", **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given.items()]
    return Request("GET", "/api/v1/status", _empty(), headers=pairs, peer=peer)


async def role_of(desk: Desk, asked: Request, *, changes: bool = False) -> str:
    """Return the role of a caller, or the kind of problem."""
    try:
        return (await desk.guard.admit(asked, changes=changes)).name
    except Refused as refused:
        return refused.kind.name


@pytest.fixture
async def closed() -> AsyncIterator[Desk]:
    """A replica without tokens."""
    async with open_desk(Desk(admin="", read="")) as desk:
        yield desk


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
        # A wrong token is not ignored where none is needed: its owner has to learn that it is wrong.
        (request(authorization="Bearer x"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN[:-1]}"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN}x"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN}, Bearer {ADMIN}"), "unauthorized", "unauthorized"),
        (request(authorization=f"Basic {ADMIN}"), "unauthorized", "unauthorized"),
        (request(authorization=f"Bearer {ADMIN[:-1]}é"), "unauthorized", "unauthorized"),
        (request(authorization=""), "unauthorized", "unauthorized"),
        # DNS rebinding: the page's own name resolves to this machine.
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
        # A proxy on this machine forwards requests of others.
        (request(x_forwarded_for="10.0.0.7"), "unauthorized", "unauthorized"),
        (request(forwarded="for=10.0.0.7"), "unauthorized", "unauthorized"),
        # A page of another site.
        (request(origin="http://evil.example"), "forbidden", "forbidden"),
        (request(origin="null"), "forbidden", "forbidden"),
        (request(origin="http://localhost:3000"), "forbidden", "forbidden"),
        (request(origin="http://evil.example", authorization=f"Bearer {ADMIN}"), "forbidden", "forbidden"),
        (request(sec_fetch_site="cross-site"), "forbidden", "forbidden"),
        (request(sec_fetch_site="same-site"), "forbidden", "forbidden"),
        # Its own page.
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
async def test_a_caller_has_the_role_of_its_token_and_its_peer(
    desk: Desk, asked: Request, reads: str, changes: str
) -> None:
    """Reads, and changes, of every kind of caller."""
    assert (reads, changes) == (await role_of(desk, asked), await role_of(desk, asked, changes=True))


async def test_without_tokens_the_api_reads_on_loopback_and_changes_nothing(closed: Desk) -> None:
    """No text is the token that is not there."""
    assert "local" == (await closed.get("/status"))["you"]
    assert not (await closed.get("/status"))["writes"]
    answer = await closed.client.post("/override", json=CHANGE)
    assert (403, True) == (answer.status_code, "ADMIN_TOKEN" in answer.json()["detail"])
    for token in ("", "\0" * 32, "None"):
        asked = request(authorization=f"Bearer {token}")
        assert "unauthorized" == await role_of(closed, asked)
    assert "unauthorized" == await role_of(closed, request("10.0.0.7"))


async def test_a_response_without_the_right_says_what_is_needed(desk: Desk) -> None:
    """WWW-Authenticate with 401, and no more about the token."""
    for headers, status, challenge in [
        ({}, 401, 'Bearer realm="ratelimit-service"'),
        (bearer("wrong-0123456789"), 401, 'Bearer realm="ratelimit-service", error="invalid_token"'),
        (bearer(READ), 403, None),
    ]:
        answer = await desk.client.post("/override", json=CHANGE, headers=headers)
        assert (status, challenge) == (answer.status_code, answer.headers.get("www-authenticate"))
        assert ADMIN not in answer.text
        assert "wrong-0123456789" not in answer.text
    assert "OK: OK 100 3600" == desk.ask()


async def test_a_browser_may_not_share_an_answer_with_another_site(desk: Desk) -> None:
    """No header of CORS, also for a preflight; and an answer is not kept."""
    answer = await desk.client.get("/status")
    assert ("no-store", "same-origin", "nosniff") == tuple(
        answer.headers[name]
        for name in ("cache-control", "cross-origin-resource-policy", "x-content-type-options")
    )
    preflight = await desk.client.options(
        "/override",
        headers={"origin": "http://evil.example", "access-control-request-method": "POST"},
    )
    assert 403 == preflight.status_code
    assert [] == [name for name in (*answer.headers, *preflight.headers) if name.startswith("access-control")]


async def test_a_form_of_another_page_is_not_read(desk: Desk) -> None:
    """A form sends text/plain, url-encoded or multipart bodies, for which browsers ask no permission."""
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = await desk.client.post(
            "/override",
            content=b"{}",
            headers={**bearer(ADMIN), "content-type": kind, "idempotency-key": "k"},
        )
        assert (415, "urn:ratelimit-service:problem:unsupported-media-type") == (
            answer.status_code,
            answer.json()["type"],
        )


async def test_each_role_has_a_rate_of_its_own(desk: Desk) -> None:
    """Readers without a token do not keep an operator from the kill switch."""
    statuses: list[str] = [await role_of(desk, request()) for _ in range(guard.READS_AT_ONCE + 1)]
    assert ["LOCAL"] * guard.READS_AT_ONCE + ["too-many-requests"] == statuses
    answer = await desk.client.get("/status")
    assert (429, "1") == (answer.status_code, answer.headers["retry-after"])
    admin = request(authorization=f"Bearer {ADMIN}")
    assert ("ADMIN", "ADMIN") == (await role_of(desk, admin), await role_of(desk, admin, changes=True))
    desk.seconds += 2 / guard.READS
    assert ["LOCAL"] * 2 + ["too-many-requests"] == [await role_of(desk, request()) for _ in range(3)]


async def test_guesses_are_slowed_and_logged_once_a_minute(desk: Desk) -> None:
    """The owner of a token is served meanwhile. The log has no token."""
    wrong = request("10.0.0.7", authorization="Bearer guess-0123456789")
    with capture_logs() as logged:
        kinds: list[Any] = [await role_of(desk, wrong) for _ in range(guard.FAILURES_AT_ONCE + 2)]
        assert ["unauthorized"] * guard.FAILURES_AT_ONCE + ["too-many-requests"] * 2 == kinds
        assert "ADMIN" == await role_of(desk, request("10.0.0.7", authorization=f"Bearer {ADMIN}"))
        desk.seconds += 61
        assert "unauthorized" == await role_of(desk, wrong)
    assert [1, guard.FAILURES_AT_ONCE + 2] == [line["requests"] for line in logged]
    assert "guess" not in str(logged)


async def test_changes_have_a_rate(desk: Desk) -> None:
    """A tool that runs wild does not fill the audit at once."""
    admin = request(authorization=f"Bearer {ADMIN}")
    kinds = [await role_of(desk, admin, changes=True) for _ in range(guard.WRITES_AT_ONCE + 1)]
    assert ["ADMIN"] * guard.WRITES_AT_ONCE + ["too-many-requests"] == kinds
