"""The page for browsers: its recipients, headers and content."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import pytest

from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.http.debug import debug_app
from ratelimit_service.http.messages import Handler, Request, Response
from ratelimit_service.http.static import POLICY
from ratelimit_service.observe.metrics import Metrics

from .serving import always, serving

PAGE = Path(__file__).parents[2] / "ratelimit_service" / "http" / "page"
VENDOR = PAGE / "vendor"

BROWSER = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


def app() -> Handler:
    """The debug port with an API."""

    async def api(request: Request) -> Response:
        return Response(b"{}", content_type="application/json")

    return debug_app(RuleTree, lambda: (), always(Metrics()), api=api)


@pytest.mark.parametrize("accept", ["*/*", "text/plain", "application/json", ""])
async def test_clients_other_than_browsers_get_the_list(accept: str) -> None:
    """`curl`, scripts and probes still get it."""
    async with serving(app()) as client:
        answer = await client.get("/", headers={"accept": accept})
    assert "text/plain; charset=utf-8" == answer.headers["content-type"]
    assert answer.text.startswith("/rlconfig: ")
    assert "accept" == answer.headers["vary"]


async def test_browsers_get_the_page_with_a_strict_policy() -> None:
    """It allows only scripts and styles of this port, none of them inline, and no frames."""
    async with serving(app()) as client:
        answer = await client.get("/", headers=BROWSER)
        paths = re.findall(r'(?:src|href)="(ui/[^"]+)"', answer.text)
        types = [(await client.get(f"/{path}")).headers["content-type"] for path in paths]
    assert (200, "text/html; charset=utf-8") == (answer.status_code, answer.headers["content-type"])
    assert POLICY == answer.headers["content-security-policy"]
    assert "unsafe" not in POLICY and "http" not in POLICY
    assert ("nosniff", "no-referrer", "accept") == tuple(
        answer.headers[name] for name in ("x-content-type-options", "referrer-policy", "vary")
    )
    assert ["image/svg+xml", "text/css; charset=utf-8", "text/javascript; charset=utf-8"] == types


async def test_an_unchanged_file_is_not_sent_again() -> None:
    """Its ETag changes with its content."""
    async with serving(app()) as client:
        first = await client.get("/ui/page.js")
        again = await client.get("/ui/page.js", headers={"if-none-match": first.headers["etag"]})
        other = await client.get("/ui/page.js", headers={"if-none-match": '"other"'})
    assert [(200, first.content), (304, b""), (200, first.content)] == [
        (answer.status_code, answer.content) for answer in (first, again, other)
    ]
    assert POLICY == again.headers["content-security-policy"]


@pytest.mark.parametrize(
    "path",
    ["/ui/", "/ui/none.js", "/ui/../debug.py", "/ui/%2e%2e/debug.py", "/ui/vendor", "/ui/vendor/LICENSE.htm"],
)
async def test_only_the_files_of_the_page_are_served(path: str) -> None:
    """Files beside or above it are not found."""
    async with serving(app()) as client:
        assert 404 == (await client.get(path)).status_code


async def test_files_are_only_read() -> None:
    """Only GET and HEAD are accepted."""
    async with serving(app()) as client:
        assert [200, 405] == [
            (await client.request(method, "/ui/page.js")).status_code for method in ("HEAD", "POST")
        ]


async def test_without_the_api_there_is_no_page() -> None:
    """The page would be empty."""
    async with serving(debug_app(RuleTree, lambda: (), always(Metrics()))) as client:
        assert (await client.get("/", headers=BROWSER)).text.startswith("/rlconfig: ")
        assert 404 == (await client.get("/ui/page.js")).status_code


def test_vendored_files_are_recorded_with_their_licence() -> None:
    """A list has the package, the version, the licence and the hash of each file in vendor/."""
    recorded = json.loads((VENDOR / "vendored.json").read_text("utf-8"))
    for entry in recorded:
        assert entry["sha256"] == hashlib.sha256((VENDOR / entry["file"]).read_bytes()).hexdigest()
        assert re.fullmatch(r"\d+\.\d+\.\d+", entry["version"])
        assert entry["integrity"].startswith("sha512-")
        assert "MIT License" in (VENDOR / "LICENSE.preact").read_text("utf-8")
        assert "Apache License" in (VENDOR / entry["licence_file"]).read_text("utf-8")
    licences = {each["licence_file"] for entry in recorded for each in (entry, *entry["includes"])}
    files = {entry["file"] for entry in recorded}
    assert {"vendored.json"} | licences | files == {each.name for each in VENDOR.iterdir()}


def test_the_page_contains_no_other_address() -> None:
    """Neither its own files nor vendored ones do, except in names of formats."""
    for path in PAGE.rglob("*.*"):
        if path.suffix in (".js", ".css", ".html", ".svg"):
            addresses = re.findall(r"https?://[^\s\"'`)>]+", path.read_text("utf-8"))
            assert [] == [each for each in addresses if not each.startswith("http://www.w3.org/")], path


def test_the_page_never_turns_text_into_markup() -> None:
    """It does not bypass the escaping of the library, and has no inline script or style."""
    ways = (
        r"innerHTML|outerHTML|insertAdjacentHTML|document\.write|dangerouslySet|\beval\(|new Function"
        r"|localStorage|document\.cookie"
    )
    for path in PAGE.glob("*.js"):
        assert [] == re.findall(ways, path.read_text("utf-8")), path
    document = (PAGE / "index.html").read_text("utf-8")
    assert [] == re.findall(r"<style|\sstyle=|\son\w+=|<script(?![^>]*src=)", document)
