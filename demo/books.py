"""What was used, as one can look it up: in Redis, in /metrics and in the decision log."""

from __future__ import annotations

import json
import re
from collections import Counter
from datetime import UTC, datetime
from typing import NamedTuple

import httpx

from .outcome import expect
from .parts import Parts

STARTS = {"minute": "%Y-%m-%dT%H:%MZ", "hour": "%Y-%m-%dT%HZ", "day": "%Y-%m-%d"}
"""How a counter key writes the start of a window (docs/keys.md)."""

LENGTHS = {"minute": 60, "hour": 60 * 60, "day": 24 * 60 * 60}
"""Seconds that a window lasts."""


class Account(NamedTuple):
    """Somebody with a budget: a team, or a namespace. `rule` is the one that /rlconfig shows for it."""

    kind: str
    name: str
    domain: str
    descriptor: str
    rule: str

    @property
    def bucket(self) -> str:
        """What the counters of it begin with."""
        return f"{{{self.domain}|{self.descriptor}}}"


def _team(name: str) -> Account:
    return Account("team", name, "team-budgets", f"team={name}", f"team-budgets.team_{name}")


def _namespace(name: str) -> Account:
    return Account("namespace", name, "token-budgets", f"client_ns={name}", "token-budgets.client_ns")


DBA, SUPPORT = _team("dba"), _team("support")
PAYMENTS, SEARCH = _namespace("payments"), _namespace("search")
ACCOUNTS = (DBA, SUPPORT, PAYMENTS, SEARCH)


class Window(NamedTuple):
    """One window of a budget, as it stands."""

    unit: str
    used: int
    limit: int

    @property
    def left(self) -> int:
        """What may still be used; the request that crosses the line leaves nothing."""
        return max(0, self.limit - self.used)

    @property
    def resets_in(self) -> int:
        """Whole seconds until it is new."""
        length = LENGTHS[self.unit]
        return length - int(datetime.now(UTC).timestamp()) % length


class Balance(NamedTuple):
    """All windows of a budget, the shortest first."""

    windows: tuple[Window, ...]

    @property
    def left(self) -> int:
        """What all of them have room for."""
        return min(window.left for window in self.windows)

    @property
    def used(self) -> int:
        """What the shortest has counted."""
        return self.windows[0].used


def start_of(unit: str) -> str:
    """The start of the window that it is now, as in a counter key."""
    return datetime.now(UTC).strftime(STARTS[unit])


class Books:
    """Of the parts that are running."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        text = httpx.get(f"http://{parts.service.debug}/rlconfig", trust_env=False).text
        self._limits: dict[str, dict[str, int]] = {}
        for rule, unit, limit in re.findall(r"^(\S+): unit=(\w+) \w+_per_unit=(\d+)", text, re.MULTILINE):
            if unit.lower() in LENGTHS:
                self._limits.setdefault(rule, {})[unit.lower()] = int(limit)
        for account in ACCOUNTS:
            in_force = f"no budget of a {', a '.join(LENGTHS)} is in force for {account.kind} {account.name}"
            expect(account.rule in self._limits, in_force)

    def balances(self) -> dict[Account, Balance]:
        """What everybody has used, by redis-cli, and the limits that /rlconfig showed."""
        wanted = [
            (account, unit)
            for account in ACCOUNTS
            for unit in sorted(self._limits[account.rule], key=lambda unit: LENGTHS[unit])
        ]
        keys = [f"{account.bucket}:{unit}:{start_of(unit)}" for account, unit in wanted]
        counts = self._parts.redis.cli("MGET", *keys).split("\n")
        windows: dict[Account, list[Window]] = {account: [] for account in ACCOUNTS}
        for (account, unit), count in zip(wanted, counts, strict=True):
            windows[account].append(Window(unit, int(count or 0), self._limits[account.rule][unit]))
        return {account: Balance(tuple(each)) for account, each in windows.items()}

    def counters(self, domain: str) -> dict[str, str]:
        """Every counter of a domain, as `redis-cli --scan` and `redis-cli GET` show them."""
        keys = self._parts.redis.cli("--scan", "--pattern", f"{{{domain}|*").split()
        return {key: self._parts.redis.cli("GET", key) for key in sorted(keys) if ":warned-" not in key}

    def tokens_by_team(self) -> dict[str, int]:
        """What /metrics says was charged, by team."""
        text = httpx.get(f"http://{self._parts.service.metrics}/metrics", trust_env=False).text
        name = r"^ratelimit_service_rate_limit_total_hits"
        found = re.findall(rf'{name}{{domain="team-budgets",key1="team_(\w+)"}} (\S+)$', text, re.MULTILINE)
        return {team: int(float(hits)) for team, hits in found}

    def tokens_by_user(self) -> dict[str, int]:
        """What the decision log says was charged, by user."""
        tokens: Counter[str] = Counter()
        for line in self._parts.decisions.read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                decided = json.loads(line)
                if user := dict(decided["descriptor"]).get("user"):
                    tokens[user] += decided["hits"] or 0
        return dict(tokens)
