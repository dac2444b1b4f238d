"""The use of budgets, from Redis, /metrics and the decision log."""

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
"""The format of a window's start in a counter key (docs/keys.md)."""

LENGTHS = {"minute": 60, "hour": 60 * 60, "day": 24 * 60 * 60}
"""The length of a window in seconds."""


class Account(NamedTuple):
    """The owner of a budget: a team or a namespace. `rule` is its rule in /rlconfig."""

    kind: str
    name: str
    domain: str
    descriptor: str
    rule: str

    @property
    def bucket(self) -> str:
        """The prefix of its counter keys."""
        return f"{{{self.domain}|{self.descriptor}}}"


def _team(name: str) -> Account:
    return Account("team", name, "team-budgets", f"team={name}", f"team-budgets.team_{name}")


def _namespace(name: str) -> Account:
    return Account("namespace", name, "token-budgets", f"client_ns={name}", "token-budgets.client_ns")


DBA, SUPPORT = _team("dba"), _team("support")
PAYMENTS, SEARCH = _namespace("payments"), _namespace("search")
ACCOUNTS = (DBA, SUPPORT, PAYMENTS, SEARCH)


class Window(NamedTuple):
    """A window of a budget, with its current use."""

    unit: str
    used: int
    limit: int

    @property
    def left(self) -> int:
        """The remaining budget; 0 after the request that crosses the line."""
        return max(0, self.limit - self.used)

    @property
    def resets_in(self) -> int:
        """Seconds until the next window."""
        length = LENGTHS[self.unit]
        return length - int(datetime.now(UTC).timestamp()) % length


class Balance(NamedTuple):
    """The windows of a budget, the shortest first."""

    windows: tuple[Window, ...]

    @property
    def left(self) -> int:
        """The smallest remaining budget of the windows."""
        return min(window.left for window in self.windows)

    @property
    def used(self) -> int:
        """The use in the shortest window."""
        return self.windows[0].used


def start_of(unit: str) -> str:
    """Return the start of the current window, as in a counter key."""
    return datetime.now(UTC).strftime(STARTS[unit])


class Books:
    """Reads the use from the running parts."""

    def __init__(self, parts: Parts) -> None:
        self._parts = parts
        text = httpx.get(f"http://{parts.service.debug}/rlconfig", trust_env=False).text
        self._limits: dict[str, dict[str, int]] = {}
        self._amended: dict[str, int] = {}
        """The limits of windows that an operator has changed, by counter."""
        for rule, unit, limit in re.findall(r"^(\S+): unit=(\w+) \w+_per_unit=(\d+)", text, re.MULTILINE):
            if unit.lower() in LENGTHS:
                self._limits.setdefault(rule, {})[unit.lower()] = int(limit)
        for account in ACCOUNTS:
            in_force = f"no budget of a {', a '.join(LENGTHS)} is in force for {account.kind} {account.name}"
            expect(account.rule in self._limits, in_force)

    def look_for_amendments(self, account: Account) -> None:
        """Read from the API what the limits of an account are by now."""
        bucket = self._parts.bucket(account.domain, account.descriptor)
        self._amended |= {window["counter"]: window["effective_limit"] for window in bucket["windows"]}

    def balances(self) -> dict[Account, Balance]:
        """Return every balance: the use from redis-cli, and the limits from /rlconfig or an operator."""
        wanted = [
            (account, unit)
            for account in ACCOUNTS
            for unit in sorted(self._limits[account.rule], key=lambda unit: LENGTHS[unit])
        ]
        keys = [f"{account.bucket}:{unit}:{start_of(unit)}" for account, unit in wanted]
        counts = self._parts.redis.cli("MGET", *keys).split("\n")
        windows: dict[Account, list[Window]] = {account: [] for account in ACCOUNTS}
        for (account, unit), key, count in zip(wanted, keys, counts, strict=True):
            limit = self._amended.get(key, self._limits[account.rule][unit])
            windows[account].append(Window(unit, int(count or 0), limit))
        return {account: Balance(tuple(each)) for account, each in windows.items()}

    def counters(self, domain: str) -> dict[str, str]:
        """Return every counter of a domain, by `redis-cli --scan` and `redis-cli GET`."""
        keys = self._parts.redis.cli("--scan", "--pattern", f"{{{domain}|*").split()
        return {key: self._parts.redis.cli("GET", key) for key in sorted(keys) if ":warned-" not in key}

    def tokens_by_team(self) -> dict[str, int]:
        """Return the charges in /metrics, by team."""
        text = httpx.get(f"http://{self._parts.service.metrics}/metrics", trust_env=False).text
        name = r"^ratelimit_service_rate_limit_total_hits"
        found = re.findall(rf'{name}{{domain="team-budgets",key1="team_(\w+)"}} (\S+)$', text, re.MULTILINE)
        return {team: int(float(hits)) for team, hits in found}

    def tokens_by_user(self) -> dict[str, int]:
        """Return the charges in the decision log, by user."""
        tokens: Counter[str] = Counter()
        for line in self._parts.decisions.read_text("utf-8").splitlines(keepends=True):
            if line.endswith("\n"):
                decided = json.loads(line)
                if user := dict(decided["descriptor"]).get("user"):
                    tokens[user] += decided["hits"] or 0
        return dict(tokens)
