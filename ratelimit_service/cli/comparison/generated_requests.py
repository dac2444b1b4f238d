"""Generates requests for rules: descriptors that match each rule, with hits that exhaust its limit.

The same seed makes the same requests. Values that a rule leaves open begin with `compare-`, so no other
caller uses their buckets. If a rule names a value, the bucket of that value is charged.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from ...core.errors import InvalidRequest
from ...core.model import DescriptorRule, DomainRules, Rule
from ...loading.task import load_rules
from ...proto.ratelimit_pb2 import RateLimitRequest
from ...sources import files

_VALUES = 3
"""Different values for each key without a fixed value."""
_TOGETHER = 0.15
"""The share of requests with a second descriptor."""
_STRANGE = 0.05
"""The share of values that no rule names."""
_MOST_HITS = 1_000_000_000
"""The most descriptors of a gateway's request."""


class _Template(NamedTuple):
    """The keys and values of a rule's descriptor, and the largest limit of the rule."""

    entries: tuple[tuple[bytes, bytes], ...]
    rule: Rule


def load(paths: Sequence[Path], *, merge_domains: bool = False) -> Sequence[DomainRules]:
    """Return the domains in files of rules. Raises InvalidRules."""
    contents = files.read(files.find_in(paths), ", ".join(map(str, paths)), "")
    return load_rules(contents, merge_domains=merge_domains).domains


def requests(domains: Sequence[DomainRules], many: int, seed: int) -> Iterator[RateLimitRequest]:
    """Yield requests for the rules of all domains. Raises InvalidRequest if there are no rules."""
    dice = random.Random(seed)
    templates = {domain.name: list(_templates(domain.descriptors, ())) for domain in domains}
    names = [name for name, found in templates.items() if found]
    if not names:
        raise InvalidRequest("there is no rule to make requests for")
    for _ in range(many):
        domain = dice.choice(names)
        request = RateLimitRequest(domain=domain)
        for _ in range(2 if dice.random() < _TOGETHER else 1):
            _add(request, dice.choice(templates[domain]), dice, seed)
        yield request


def _templates(
    descriptors: Sequence[DescriptorRule], above: tuple[tuple[bytes, bytes], ...]
) -> Iterator[_Template]:
    for descriptor in descriptors:
        entries = (*above, (descriptor.key, descriptor.value))
        if descriptor.rule is not None:
            yield _Template(entries, descriptor.rule)
        yield from _templates(descriptor.children, entries)


def _add(request: RateLimitRequest, template: _Template, dice: random.Random, seed: int) -> None:
    descriptor = request.descriptors.add()
    for key, value in template.entries:
        made = b"compare-%d-%d" % (seed, dice.randrange(_VALUES))
        if dice.random() < _STRANGE:
            made += b"-strange"
            value = b""
        descriptor.entries.add(
            key=key.replace(b"*", b"x"), value=value.replace(b"*", made) if value else made
        )
    allowed = min((limit.amount for limit in template.rule.limits), default=10)
    hits = dice.choice([None, 0, 0, 1, allowed // 4, allowed // 2])
    if hits is not None:
        descriptor.hits_addend.value = min(hits, _MOST_HITS)
