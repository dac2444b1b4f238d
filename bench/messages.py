"""The rules of the benchmark, and its requests as bytes.

A traffic is a text, for the command line of another process: the name of a constant request ("charge"),
"mixed" or "cold:KEY". `requests(traffic, …)` is deterministic, so that charges can be computed without a
report of their sender.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

from ratelimit_service.proto.ratelimit_pb2 import RateLimitRequest

EXAMPLES = Path(__file__).parents[1] / "config" / "examples"
DOMAIN = "bench"
LIMIT = 4_000_000_000
"""The amount of budgets that are not exhausted in a run."""
TEAMS = 10_000
ZIPF = 1.1
"""The k-th team sends 1 / k^ZIPF of the requests of the first."""
SEED = 20_261_121
_SECOND_DESCRIPTOR = 5
"""One of this many teams sends a user as well."""
_AMOUNTS = (90, 260, 520, 900, 1_500, 4_000)
"""The tokens of a prompt and its completion, from and to."""

_RULES = f"""\
domain: {DOMAIN}
descriptors:
  - key: team
    rate_limit: {{unit: year, tokens_per_unit: {LIMIT}}}
  - key: user
    rate_limit: {{unit: day, tokens_per_unit: {LIMIT}}}
  - key: cold
    rate_limit: {{unit: year, tokens_per_unit: {LIMIT}}}
  - key: fleeting
    rate_limit: {{unit: minute, tokens_per_unit: {LIMIT}}}
  - key: both
    rate_limits:
      - {{unit: hour, tokens_per_unit: {LIMIT}}}
      - {{unit: year, tokens_per_unit: {LIMIT}}}
  - key: spent
    rate_limit: {{unit: year, tokens_per_unit: 0}}
"""


def rules(count: int = 0, *, ledger: bool = False) -> str:
    """Return a configuration, with `count` additional rules, each with its own value. With `ledger`, every
    other rule has one.
    """
    return (
        _RULES.replace("    rate_limit", "    ledger: {}\n    rate_limit") if ledger else _RULES
    ) + "".join(
        f"  - {{key: named, value: t{number}, rate_limit: {{unit: year, tokens_per_unit: {LIMIT}}}}}\n"
        for number in range(count)
    )


def rules_for_others() -> str:
    """The same for envoyproxy/ratelimit behind `--target`: limits of requests, one window for each bucket."""
    head, _, tail = _RULES.partition("  - key: both\n")
    both = f"  - key: both\n    rate_limit: {{unit: year, requests_per_unit: {LIMIT}}}\n"
    return (head + both + tail[tail.index("  - key: spent") :]).replace(
        "tokens_per_unit", "requests_per_unit"
    )


def write_rules(directory: Path, count: int = 0, *, ledger: bool = False) -> list[Path]:
    """Write the configuration of the service: these rules, and those of config/examples."""
    file = directory / "rules.yaml"
    scratch = directory / "rules.tmp"
    scratch.write_text(rules(count, ledger=ledger), "utf-8")
    scratch.replace(file)
    return [file, EXAMPLES]


class LoadRequest(NamedTuple):
    """A request: its bytes, and the buckets (key and value) that it charges, with amounts."""

    body: bytes
    charges: tuple[tuple[str, str, int], ...] = ()


def message(*descriptors: tuple[str, str, int]) -> bytes:
    """Return a framed request; each descriptor is a key, a value and hits."""
    request = RateLimitRequest(domain=DOMAIN)
    for key, value, hits in descriptors:
        descriptor = request.descriptors.add()
        descriptor.entries.add(key=key.encode(), value=value.encode())
        descriptor.hits_addend.value = hits
    return framed(request.SerializeToString())


def framed(data: bytes) -> bytes:
    """Frame an uncompressed message of gRPC."""
    return b"\0" + len(data).to_bytes(4, "big") + data


def load_request(*descriptors: tuple[str, str, int]) -> LoadRequest:
    """Return a request with its charges."""
    return LoadRequest(
        message(*descriptors), tuple(item for item in descriptors if item[2] and item[0] != "spent")
    )


FOUR_BY_TWO = "4 descriptors × 2 windows"
CONSTANT = {
    "charge": load_request(("team", "dba", 1)),
    "check": load_request(("team", "dba", 0)),
    FOUR_BY_TWO: load_request(*[("both", f"dba{number}", 1) for number in range(4)]),
    "over the limit": load_request(("spent", "dba", 0)),
    "no match": LoadRequest(message(("nobody", "x", 1))),
    "charge of a named team": load_request(("named", "t7", 1)),
}
"""The constant requests."""


class Zipf:
    """Draws numbers from 0 to `count` - 1; the k-th is drawn 1 / k^`exponent` times as often as the first."""

    def __init__(self, count: int, exponent: float, seed: int) -> None:
        self._numbers = range(count)
        self._weights = list(itertools.accumulate(1 / (k + 1) ** exponent for k in range(count)))
        self._random = random.Random(seed)

    def draw(self, many: int) -> list[int]:
        """Draw numbers."""
        return self._random.choices(self._numbers, cum_weights=self._weights, k=many)


@lru_cache(maxsize=200_000)
def _mixed(team: int, hits: int) -> LoadRequest:
    descriptors = [("team", f"t{team}", hits)]
    if team % _SECOND_DESCRIPTOR == 0:
        descriptors.append(("user", f"u{team}", hits))
    return load_request(*descriptors)


def requests(traffic: str, many: int, connection: int = 0) -> Iterator[LoadRequest]:
    """Return the first `many` requests of a connection."""
    kind, _, detail = traffic.partition(":")
    if kind in CONSTANT:
        return itertools.repeat(CONSTANT[kind], many)
    if kind == "mixed":
        return itertools.islice(_mixture(SEED + connection), many)
    if kind == "cold":
        return _cold(detail, many, connection)
    raise ValueError(f"no such traffic: {traffic}")


def _mixture(seed: int) -> Iterator[LoadRequest]:
    """Yield checks and charges without end: each prompt is checked and later charged, with others in
    between.
    """
    draw, dice = Zipf(TEAMS, ZIPF, seed), random.Random(seed)
    while True:
        for place, team in enumerate(draw.draw(4_096)):
            yield _mixed(team, dice.choice(_AMOUNTS) if place % 2 else 0)


def _cold(key: str, many: int, connection: int) -> Iterator[LoadRequest]:
    """Yield charges of new buckets: each value comes once."""
    marker = f"c{connection:03d}n{0:09d}"
    start, end = message((key, marker, 1)).split(marker.encode())
    for number in range(many):
        value = f"c{connection:03d}n{number:09d}"
        yield LoadRequest(start + value.encode() + end, ((key, value, 1),))


def expected(traffic: str, sent: Sequence[int]) -> dict[tuple[str, str], int]:
    """Return the charges of each bucket by connections that have `sent` these numbers of requests."""
    charged: dict[tuple[str, str], int] = {}
    kind = traffic.partition(":")[0]
    if kind in CONSTANT:
        return {(key, value): hits * sum(sent) for key, value, hits in CONSTANT[kind].charges}
    for connection, many in enumerate(sent):
        for request in requests(traffic, many, connection):
            for key, value, hits in request.charges:
                charged[key, value] = charged.get((key, value), 0) + hits
    return charged
