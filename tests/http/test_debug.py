"""The debug port: rules and counters for operators."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from ratelimit_service.core.answers.signals import CALLER, METADATA
from ratelimit_service.core.errors import Problem
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import DescriptorRule, DomainRules, Limit, Rule, StatKey, Unit, Window
from ratelimit_service.http import debug
from ratelimit_service.http.debug import debug_app
from ratelimit_service.http.messages import Request, Response, text
from ratelimit_service.observe.metrics import Metrics
from testing.waiting import PATIENCE

from .serving import always, serving

TREE = RuleTree(
    [
        DomainRules(
            "d",
            (
                DescriptorRule(
                    b"team",
                    rule=Rule(StatKey("d", ("team",)), (Limit(5, Window(Unit.MINUTE)),)),
                    children=(
                        DescriptorRule(
                            b"user",
                            b"al",
                            Rule(
                                StatKey("d", ("team", "user_al")),
                                (Limit(7, Window(Unit.HOUR, 6), "six"),),
                                name="six",
                                replaces=frozenset({"two", "one"}),
                                shadow=True,
                                quota=True,
                                detailed_metric=True,
                            ),
                        ),
                    ),
                ),
                DescriptorRule(
                    b"quiet",
                    rule=Rule(
                        StatKey("d", ("quiet",)), (Limit(5, Window(Unit.DAY)),), limit_on_refusal_only=True
                    ),
                ),
                DescriptorRule(
                    b"said",
                    rule=Rule(
                        StatKey("d", ("said",)),
                        (Limit(5, Window(Unit.DAY), "größe"),),
                        error_format="anthropic",
                        error_details="minimal",
                    ),
                ),
                DescriptorRule(b"free", rule=Rule(StatKey("d", ("free",)), unlimited=True)),
            ),
        )
    ]
)

LINES = """\
d.team: unit=MINUTE requests_per_unit=5, shadow_mode: false, quota_mode: false
d.team.user_al: unit=HOUR requests_per_unit=7, shadow_mode: true, quota_mode: true, unit_multiplier: 6, \
name: six, replaces: one two, detailed_metric: true
d.quiet: unit=DAY requests_per_unit=5, shadow_mode: false, quota_mode: false, limit_headers: on_refusal
d.said: unit=DAY requests_per_unit=5, shadow_mode: false, quota_mode: false, name: größe, \
error_format: anthropic, error_details: minimal
d.free: unit=UNKNOWN requests_per_unit=0, shadow_mode: false, quota_mode: false, unlimited: true
"""

PROBLEM = Problem("limits.yaml", 3, "descriptors[0].rate_limit.unit", "'fortnight' is no unit\x1b[31m")


@pytest.mark.parametrize(
    "tree, problems, expected",
    [
        (TREE, (), LINES),
        (RuleTree(), (), "\n"),
        (None, (), "# no configuration has been loaded yet\n"),
        (
            TREE,
            (PROBLEM,),
            "# last load failed; the rules below, from the load before, are in force:\n"
            "#   limits.yaml:3: descriptors[0].rate_limit.unit: 'fortnight' is no unit\\x1b[31m\n" + LINES,
        ),
        (
            None,
            (PROBLEM,),
            "# last load failed; no configuration has been loaded yet:\n"
            "#   limits.yaml:3: descriptors[0].rate_limit.unit: 'fortnight' is no unit\\x1b[31m\n",
        ),
    ],
)
async def test_rlconfig_shows_the_rules_in_force(
    tree: RuleTree | None, problems: Sequence[Problem], expected: str
) -> None:
    """Each rule has a line, in the order of the files, with upstream's fields first. The errors of the last
    load come before them.
    """
    async with serving(debug_app(lambda: tree, lambda: problems, always(Metrics()))) as client:
        response = await client.get("/rlconfig")
    assert (200, expected) == (response.status_code, response.text)


async def test_rlconfig_shows_what_a_domain_refuses_in_addition_to_its_limits() -> None:
    """A comment above the rules of the domain has `unmatched` and `required_keys`, if either is set."""
    rule = Rule(StatKey("a", ("team",)), (Limit(5, Window(Unit.MINUTE)),))
    tree = RuleTree(
        [
            DomainRules("a", (DescriptorRule(b"team", rule=rule),), deny_unmatched=True),
            DomainRules("b", required_keys=(b"team", b"te\nam")),
            DomainRules("c", (DescriptorRule(b"team", rule=rule),)),
        ]
    )
    async with serving(debug_app(lambda: tree, lambda: (), always(Metrics()))) as client:
        response = await client.get("/rlconfig")
    line = "a.team: unit=MINUTE requests_per_unit=5, shadow_mode: false, quota_mode: false\n"
    assert (
        "# domain a: unmatched: deny, required_keys: none\n"
        f"{line}"
        "# domain b: unmatched: allow, required_keys: team, te\\nam\n"
        f"{line}"
    ) == response.text


@pytest.mark.parametrize(
    "more, expected",
    [
        ({"signal": METADATA | CALLER, "low_at": 0.75}, ", signal: metadata caller, low_at: 0.75"),
        ({"notify": ("finance", "chat")}, ", notify: finance chat"),
        ({"notify": ()}, ", notify: off"),
    ],
)
async def test_rlconfig_shows_the_signals_and_receivers_of_a_rule(
    more: dict[str, Any], expected: str
) -> None:
    """The line has the same keys as the rule."""
    rule = Rule(StatKey("a", ("team",)), (Limit(5, Window(Unit.MINUTE)),), budget=True, **more)
    tree = RuleTree([DomainRules("a", (DescriptorRule(b"team", rule=rule),))])
    async with serving(debug_app(lambda: tree, lambda: (), always(Metrics()))) as client:
        response = await client.get("/rlconfig")
    line = "a.team: unit=MINUTE tokens_per_unit=5, shadow_mode: false, quota_mode: false"
    assert f"{line}{expected}\n" == response.text


async def test_rlconfig_follows_a_reload() -> None:
    """It shows the rules in force at the time of the request."""
    trees: list[RuleTree | None] = [None]
    async with serving(debug_app(lambda: trees[0], lambda: (), always(Metrics()))) as client:
        before = (await client.get("/rlconfig")).text
        trees[0] = TREE
        assert ("# no configuration has been loaded yet\n", LINES) == (
            before,
            (await client.get("/rlconfig")).text,
        )


async def nothing() -> AsyncGenerator[bytes]:
    for piece in list[bytes]():
        yield piece


async def test_rlconfig_of_many_rules_is_made_in_bounded_pieces_by_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A piece is made only when the one before it was sent, and the event loop has turns while a thread makes
    it. The page has the rules of the moment of the request.
    """
    number, most = 20_000, 1_000
    rules = [
        DescriptorRule(
            b"team",
            b"t%d" % each,
            Rule(StatKey("d", (f"team_t{each}",)), (Limit(each + 1, Window(Unit.DAY)),)),
        )
        for each in range(number)
    ]
    trees = [RuleTree([DomainRules("d", tuple(rules))])]
    made, loop, line, held = 0, threading.get_ident(), debug._rule_line, threading.Event()
    in_loop, waited = list[int](), list[bool]()

    def counted(rule: Rule, limit: Limit) -> str:
        nonlocal made
        if made == most:
            waited.append(held.wait(PATIENCE))
        made += 1
        if threading.get_ident() == loop:
            in_loop.append(made)
        return line(rule, limit)

    monkeypatch.setattr(debug, "_rule_line", counted)
    app = debug_app(lambda: trees[0], lambda: (), always(Metrics()))
    response = await app(Request("GET", "/rlconfig", nothing(), headers=[(b"host", b"127.0.0.1")]))
    trees[0] = RuleTree()
    assert not isinstance(response.body, bytes)
    pieces = aiter(response.body)
    found = [await anext(pieces)]
    assert most == made
    second = asyncio.ensure_future(anext(pieces))
    for _ in range(100):
        await asyncio.sleep(0)
    assert (most, False) == (made, second.done())
    held.set()
    found.append(await second)
    async for piece in pieces:
        found.append(piece)
        assert made <= len(found) * most
    assert ([], [True], number // most) == (in_loop, waited, len(found))
    assert max(map(len, found)) < 100_000
    assert [
        f"d.team_t{each}: unit=DAY requests_per_unit={each + 1}, shadow_mode: false, quota_mode: false"
        for each in range(number)
    ] == b"".join(found).decode().splitlines()


async def test_stats_shows_the_counters() -> None:
    """Each has a line. They are sorted by name, with unabbreviated numbers."""
    metrics = Metrics()
    metrics.config_loaded(TREE, 1_700_000_000.25)
    for _ in range(3):
        metrics.requested("ShouldRateLimit", 0.001)
    async with serving(debug_app(lambda: None, lambda: (), always(metrics))) as client:
        lines = (await client.get("/stats")).text.splitlines()
    assert sorted(lines) == lines
    assert {
        "ratelimit_service_config_load_success: 1",
        "ratelimit_service_config_load_error: 0",
        "ratelimit_service_config_load_time_seconds: 1700000000.25",
        'ratelimit_service_total_requests{grpc_method="ShouldRateLimit"}: 3',
    } <= set(lines)


async def test_paths_below_api_go_to_the_api() -> None:
    """The first page links to the description of the API."""

    async def api(request: Request) -> Response:
        return text(request.path)

    async with serving(debug_app(lambda: TREE, lambda: (), always(Metrics()), api=api)) as client:
        assert "/api/v1/x\n" == (await client.get("/api/v1/x")).text
        assert 404 == (await client.get("/api")).status_code
        listed = (await client.get("/")).text
        assert (True, True) == ("/api/v1/openapi.json: " in listed, "/: in a browser, " in listed)


async def test_the_first_page_lists_the_others() -> None:
    """Every listed path exists."""
    async with serving(debug_app(lambda: TREE, lambda: (), always(Metrics()))) as client:
        paths = [line.split(":")[0] for line in (await client.get("/")).text.splitlines()]
        codes = [(await client.get(path)).status_code for path in paths]
        missing = (await client.get("/json")).status_code
    assert (["/rlconfig", "/stats"], [200, 200], 404) == (paths, codes, missing)
