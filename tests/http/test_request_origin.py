"""Requests of pages of other sites: they can neither read nor charge anything here."""

from __future__ import annotations

from collections.abc import AsyncGenerator

import pytest

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.plan import Policy
from ratelimit_service.http.debug import debug_app
from ratelimit_service.http.main import main_app
from ratelimit_service.http.messages import Request
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.runtime.health import Health
from ratelimit_service.service import RateLimitService
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports import codec

EMPTY = b'{"domain": "d", "descriptors": [{"entries": [{"key": "a", "value": "b"}]}]}'


async def body_of(content: bytes) -> AsyncGenerator[bytes]:
    yield content


def request(path: str, peer: str = "127.0.0.1", **headers: str) -> Request:
    """Return a request of a peer. Underscores in the names of headers stand for hyphens."""
    given = {"host": "localhost:6070", **headers}
    pairs = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in given.items()]
    return Request("POST" if path == "/json" else "GET", path, body_of(EMPTY), headers=pairs, peer=peer)


async def status_of(asked: Request) -> int:
    """Return the status of the answer to a request to the debug port, or to the main port."""
    metrics = Metrics()

    async def counters() -> Metrics:
        return metrics

    service = RateLimitService(MemoryStore(lambda: 0.0), metrics, lambda: 0.0, Policy())
    service.use(RuleTree([]))
    debug = debug_app(lambda: service.tree, tuple, counters)
    app = main_app(service, Health(), codec) if asked.path in ("/json", "/healthcheck") else debug
    return (await app(asked)).status


HOSTS = [
    ("127.0.0.1", {}, 200),
    ("127.0.0.1", {"host": "127.0.0.1:6070"}, 200),
    ("::1", {"host": "[::1]:6070"}, 200),
    ("::ffff:127.0.0.1", {"host": "10.0.0.7:6070"}, 200),
    ("10.0.0.7", {"host": "ratelimit.mesh:6070"}, 200),
    # A proxy on this machine, such as that of a mesh, passes the name on that its clients use.
    ("127.0.0.1", {"host": "ratelimit.mesh", "via": "1.1 mesh"}, 200),
    ("", {"host": "ratelimit.mesh"}, 200),
    # The name of a page that resolves to this machine.
    ("127.0.0.1", {"host": "evil.example:6070"}, 403),
    ("127.0.0.1", {"host": "127.0.0.1.evil.example"}, 403),
    ("127.0.0.1", {"host": "localhost.evil.example"}, 403),
    # Scripts of such a page can set any of these headers.
    *[
        ("127.0.0.1", {"host": "evil.example:6070", name: "10.0.0.7"}, 403)
        for name in ("forwarded", "x_forwarded_for", "x_forwarded_host", "x_real_ip")
    ],
    ("127.0.0.1", {"host": ""}, 403),
    ("::1", {"host": "[::1].evil.example"}, 403),
]


@pytest.mark.parametrize("path", ["/rlconfig", "/stats"])
@pytest.mark.parametrize(("peer", "headers", "status"), HOSTS)
async def test_rules_and_counters_are_protected_from_dns_rebinding(
    path: str, peer: str, headers: dict[str, str], status: int
) -> None:
    """If the host name of a page resolves to this machine, the browser takes the port for the page's own
    origin.
    """
    assert status == await status_of(request(path, peer, **headers))


@pytest.mark.parametrize(
    ("peer", "headers", "status"),
    [
        ("127.0.0.1", {}, 200),
        ("127.0.0.1", {"host": "anything.mesh"}, 200),
        ("127.0.0.1", {"origin": "http://localhost:6070", "sec_fetch_site": "same-origin"}, 200),
        ("10.0.0.7", {"host": "ops.example", "origin": "https://ops.example"}, 200),
        ("127.0.0.1", {"origin": "http://evil.example"}, 403),
        ("10.0.0.7", {"host": "ops.example", "origin": "http://evil.example"}, 403),
        ("127.0.0.1", {"origin": "null"}, 403),
        ("127.0.0.1", {"sec_fetch_site": "cross-site"}, 403),
        ("127.0.0.1", {"host": "evil.example", "origin": "http://evil.example"}, 403),
        (
            "127.0.0.1",
            {"host": "evil.example", "origin": "http://evil.example", "x_forwarded_for": "10.0.0.7"},
            403,
        ),
    ],
)
async def test_a_page_of_another_site_cannot_charge(peer: str, headers: dict[str, str], status: int) -> None:
    """A form may send text to any port. Scripts without a browser may use any name."""
    assert status == await status_of(request("/json", peer, **headers))


async def test_probes_are_answered_under_any_name() -> None:
    """Their answers are not secret."""
    assert 200 == await status_of(request("/healthcheck", host="evil.example"))
