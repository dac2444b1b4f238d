"""Shapes of the resources of Envoy Gateway 1.9: routes with their rules, and the calls that show what they
limit.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from .envoy_gateway import Match, Route, Rule

OK, OVER = 200, 429


class Call(NamedTuple):
    """Requests of one kind, and their answers one after another."""

    path: str
    codes: Sequence[int]
    headers: Mapping[str, str] = {}
    method: str = "GET"
    gateway: str = "first"


class Shape(NamedTuple):
    """Routes with their rules, and calls in their order."""

    routes: Sequence[Route]
    calls: Sequence[Call]


def one(name: str, *rules: Rule, path: str = "") -> list[Route]:
    """Return a route with its own listener."""
    return [Route(f"httproute/shop/{name}/rule/0/match/0/*", rules, f"/{name}{path}", f"{name}/gw/http")]


def exact(value: str, name: str = "x-user-id") -> Match:
    return Match(name, "exact", value)


def user(value: str) -> dict[str, str]:
    return {"x-user-id": value}


def from_(address: str) -> dict[str, str]:
    return {"x-forwarded-for": address}


DISTINCT = Match("x-user-id", "distinct")


POLICY = "shop/limits"


SHAPES: dict[str, Shape] = {
    "distinct": Shape(
        one("distinct", Rule(2, (DISTINCT,))),
        [
            Call("/distinct", [OK, OK, OVER], user("a")),
            Call("/distinct", [OK, OK, OVER], user("b")),
            Call("/distinct", [OK] * 4),  # without the header there is no descriptor
        ],
    ),
    "distinct-query": Shape(
        one("distinct-query", Rule(1, (Match("user", "distinct", query=True),))),
        [
            Call("/distinct-query?user=a", [OK, OVER]),
            Call("/distinct-query?user=b", [OK, OVER]),
        ],
    ),
    "distinct-remote-address": Shape(
        one("distinct-remote-address", Rule(2, cidr="192.168.0.0/16", cidr_distinct=True)),
        [
            Call("/distinct-remote-address", [OK, OK, OVER], from_("192.168.0.1")),
            Call("/distinct-remote-address", [OK, OK, OVER], from_("192.168.9.9")),
            Call("/distinct-remote-address", [OK] * 4, from_("10.0.0.1")),
        ],
    ),
    "no-selector": Shape(
        one("no-selector", Rule(2)),
        [Call("/no-selector", [OK, OK, OVER]), Call("/no-selector", [OVER], user("a"))],
    ),
    "shadow": Shape(
        one("shadow", Rule(1, (exact("one"), exact("three", "x-org-id")), cidr="0.0.0.0/0", shadow=True)),
        [Call("/shadow", [OK] * 4, {**user("one"), "x-org-id": "three"})],
    ),
    "shared-distinct": Shape(
        [
            Route(
                "r1",
                [Rule(2, (DISTINCT,), shared=True)],
                "/shared-distinct/1",
                "shared-distinct/gw/http",
                f"{POLICY}-1",
            ),
            Route(
                "r2",
                [Rule(2, (DISTINCT,), shared=True)],
                "/shared-distinct/2",
                "shared-distinct/gw/http",
                f"{POLICY}-1",
            ),
        ],
        [
            Call("/shared-distinct/1", [OK], user("a")),
            Call("/shared-distinct/2", [OK, OVER], user("a")),
            Call("/shared-distinct/1", [OVER], user("a")),
            Call("/shared-distinct/1", [OK], user("b")),
        ],
    ),
    "several-shared-policies": Shape(
        [
            Route(
                "s1", [Rule(1, (exact("one"),), shared=True)], "/several/1", "several/gw/http", f"{POLICY}-2"
            ),
            Route(
                "s2", [Rule(1, (exact("one"),), shared=True)], "/several/2", "several/gw/http", f"{POLICY}-2"
            ),
            Route(
                "s3", [Rule(2, (exact("two"),), shared=True)], "/several/3", "several/gw/http", f"{POLICY}-3"
            ),
            Route("s4", [Rule(2, (exact("three"),))], "/several/4", "several/gw/http"),
        ],
        [
            Call("/several/1", [OK], user("one")),
            Call("/several/2", [OVER], user("one")),
            Call("/several/3", [OK, OK, OVER], user("two")),
            Call("/several/4", [OK, OK, OVER], user("three")),
            Call("/several/3", [OK] * 3, user("one")),
        ],
    ),
    "headers-and-cidr": Shape(
        one("headers-and-cidr", Rule(2, (exact("one"), exact("three", "x-org-id")), cidr="0.0.0.0/0")),
        [
            Call("/headers-and-cidr", [OK, OK, OVER], {**user("one"), "x-org-id": "three"}),
            Call("/headers-and-cidr", [OK] * 3, user("one")),
        ],
    ),
    "cidr": Shape(
        one("cidr", Rule(2, cidr="192.168.0.0/16")),
        [
            Call("/cidr", [OK], from_("192.168.0.1")),
            Call("/cidr", [OK, OVER], from_("192.168.9.9")),  # all addresses share the limit
            Call("/cidr", [OK] * 3, from_("10.0.0.1")),
        ],
    ),
    "cidr-inverted": Shape(
        one("cidr-inverted", Rule(2, cidr="192.168.0.0/24", cidr_invert=True)),
        [
            Call("/cidr-inverted", [OK] * 3, from_("192.168.0.1")),
            Call("/cidr-inverted", [OK, OK, OVER], from_("10.0.0.1")),
        ],
    ),
    "same-cidr-on-two-routes": Shape(
        [
            Route("c1", [Rule(1, cidr="192.168.0.10/32")], "/same-cidr/1", "same-cidr/gw/http"),
            Route("c2", [Rule(3, cidr="192.168.0.10/32")], "/same-cidr/2", "same-cidr/gw/http"),
        ],
        [
            Call("/same-cidr/1", [OK, OVER], from_("192.168.0.10")),
            Call("/same-cidr/2", [OK, OK, OK, OVER], from_("192.168.0.10")),
        ],
    ),
    "methods": Shape(
        one("methods", Rule(2, methods=("GET", "PUT")), Rule(3, methods=("POST",))),
        [
            Call("/methods", [OK]),
            Call("/methods", [OK, OVER], method="PUT"),  # the methods of one rule share the limit
            Call("/methods", [OK, OK, OK, OVER], method="POST"),
            Call("/methods", [OK] * 3, method="DELETE"),
        ],
    ),
    "months-and-years": Shape(
        [
            Route("m1", [Rule(2, (exact("one"),), unit="month")], "/months/1", "months/gw/http"),
            Route("m2", [Rule(1, (exact("two"),), unit="year")], "/months/2", "months/gw/http"),
        ],
        [
            Call("/months/1", [OK, OK, OVER], user("one")),
            Call("/months/2", [OK, OVER], user("two")),
        ],
    ),
    "all-selectors": Shape(
        one(
            "all-selectors",
            Rule(
                2,
                (exact("one"), exact("three", "x-org-id")),
                methods=("GET", "POST"),
                path=("exact", "/all-selectors/baz"),
                cidr="0.0.0.0/0",
            ),
        ),
        [
            Call("/all-selectors/baz", [OK], {**user("one"), "x-org-id": "three"}),
            Call("/all-selectors/baz", [OK, OVER], {**user("one"), "x-org-id": "three"}, "POST"),
            Call("/all-selectors/bar", [OK] * 3, {**user("one"), "x-org-id": "three"}),
            Call("/all-selectors/baz", [OK] * 3, {**user("one"), "x-org-id": "three"}, "PUT"),
        ],
    ),
    "several-shared-rules-distinct": Shape(
        [
            Route(
                "d",
                [
                    Rule(3, (DISTINCT,), shared=True),
                    Rule(2, (DISTINCT,), shared=True),
                    Rule(1, (Match("x-org-id", "distinct"),), shared=True),
                ],
                "/several-rules",
                "several-rules/gw/http",
                f"{POLICY}-4",
            )
        ],
        [
            Call("/several-rules", [OK, OK, OVER], user("a")),  # the tightest of them
            Call("/several-rules", [OK, OVER], {"x-org-id": "o"}),
        ],
    ),
    "two-listeners": Shape(
        [
            Route("t", [Rule(1, (DISTINCT,))], "/two-listeners", "two-listeners/gw/http"),
            Route("t", [Rule(1, (DISTINCT,))], "/two-listeners", "two-listeners/gw/https", gateway="second"),
        ],
        [
            Call("/two-listeners", [OK, OVER], user("a")),
            Call("/two-listeners", [OK, OVER], user("a"), gateway="second"),
        ],
    ),
    "two-listeners-share": Shape(
        [
            Route("t", [Rule(2, (DISTINCT,), shared=True)], "/share", "share/gw/http", f"{POLICY}-5"),
            Route(
                "t", [Rule(2, (DISTINCT,), shared=True)], "/share", "share/gw/https", f"{POLICY}-5", "second"
            ),
        ],
        [
            Call("/share", [OK], user("a")),
            Call("/share", [OK, OVER], user("a"), gateway="second"),
            Call("/share", [OVER], user("a")),
        ],
    ),
    "one-listener-shares": Shape(
        [
            Route("t", [Rule(1, (DISTINCT,))], "/partly", "partly/gw/http"),
            Route(
                "t",
                [Rule(2, (DISTINCT,), shared=True)],
                "/partly",
                "partly/gw/https",
                f"{POLICY}-6",
                "second",
            ),
        ],
        [
            Call("/partly", [OK, OVER], user("a")),
            Call("/partly", [OK, OK, OVER], user("a"), gateway="second"),
        ],
    ),
    "two-headers": Shape(
        one("two-headers", Rule(2, (exact("one"), exact("two", "x-org-id")))),
        [
            Call("/two-headers", [OK, OK, OVER], {**user("one"), "x-org-id": "two"}),
            Call("/two-headers", [OK] * 3, user("one")),
        ],
    ),
    "two-routes": Shape(
        [
            Route("first-route", [Rule(1, (exact("one"),))], "/two-routes/1", "two-routes/gw/http"),
            Route("second-route", [Rule(2, (exact("two"),))], "/two-routes/2", "two-routes/gw/http"),
        ],
        [
            Call("/two-routes/1", [OK, OVER], user("one")),
            Call("/two-routes/2", [OK, OK, OVER], user("two")),
        ],
    ),
    "two-rules": Shape(
        one("two-rules", Rule(1, (exact("one"),)), Rule(2**32 - 1, (exact("two"),))),
        [Call("/two-rules", [OK, OVER], user("one")), Call("/two-rules", [OK] * 5, user("two"))],
    ),
    "shared-and-not": Shape(
        [
            Route(
                "mixed",
                [
                    Rule(1, (exact("one"),), shared=True),
                    Rule(2, (exact("two"),)),
                    Rule(3, (exact("three"),), shared=True),
                    Rule(1, (exact("four"),)),
                ],
                "/mixed",
                "mixed/gw/http",
                f"{POLICY}-7",
            )
        ],
        [
            Call("/mixed", [OK, OVER], user("one")),
            Call("/mixed", [OK, OK, OVER], user("two")),
            Call("/mixed", [OK, OK, OK, OVER], user("three")),
            Call("/mixed", [OK, OVER], user("four")),
            Call("/mixed", [OK] * 5, user("five")),
        ],
    ),
    "paths": Shape(
        one("paths", Rule(2, path=("exact", "/paths/a")), Rule(1, path=("regex", "/paths/b.*"))),
        [
            Call("/paths/a", [OK, OK, OVER]),
            Call("/paths/bcd", [OK]),
            Call("/paths/b", [OVER]),
            Call("/paths/c", [OK] * 3),
        ],
    ),
    "query-parameters": Shape(
        one("query-parameters", Rule(2, (exact("one"), Match("user", "exact", "alice", query=True)))),
        [
            Call("/query-parameters?user=alice", [OK, OK, OVER], user("one")),
            Call("/query-parameters?user=bob", [OK] * 3, user("one")),
        ],
    ),
    "regex-and-inverted-headers": Shape(
        one("regex", Rule(2, (Match("x-user-id", "regex", "a.*"), Match("x-org-id", "invert", "ours")))),
        [
            Call("/regex", [OK, OK, OVER], {**user("abc"), "x-org-id": "theirs"}),
            Call("/regex", [OK] * 3, {**user("abc"), "x-org-id": "ours"}),
            Call("/regex", [OK] * 3, {**user("xyz"), "x-org-id": "theirs"}),
        ],
    ),
}
