"""A hash of rules: the same for rules that mean the same, wherever they were read from.

Files and lines are no part of it, so replicas that mount one configuration at different places agree. It is
computed by the process that reads the rules.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace

from ..model import DescriptorRule, DomainRules, Rule

_RULE = tuple([each.name for each in fields(Rule) if each.init and each.name not in ("source", "original")])
_DESCRIPTOR = ("key", "value", "share_threshold", "value_to_metric")
_DOMAIN = tuple(
    [
        each.name
        for each in fields(DomainRules)
        if each.name not in ("source", "digest", "descriptors", "limits")
    ]
)


def with_digest(domain: DomainRules) -> DomainRules:
    """Return the rules of a domain with their digest."""
    hashed = hashlib.sha256()
    for text in _texts(domain):
        hashed.update(text.encode("utf-8", "surrogatepass"))
        hashed.update(b"\n")
    return replace(domain, digest=hashed.hexdigest())


def digest_of(domains: Iterable[DomainRules]) -> str:
    """Return the digest of several domains, in whichever order."""
    lines = sorted([f"{domain.name!r} {domain.digest}" for domain in domains])
    return hashlib.sha256("\n".join(lines).encode("utf-8", "surrogatepass")).hexdigest()


def _texts(domain: DomainRules) -> Iterator[str]:
    yield repr([getattr(domain, name) for name in _DOMAIN])
    pending: list[tuple[int, DescriptorRule]] = [(0, each) for each in reversed(domain.descriptors)]
    while pending:
        depth, descriptor = pending.pop()
        yield repr((depth, [getattr(descriptor, name) for name in _DESCRIPTOR]))
        if descriptor.rule is not None:
            yield repr([_plain(getattr(descriptor.rule, name)) for name in _RULE])
        pending += [(depth + 1, each) for each in reversed(descriptor.children)]
    for limit in domain.limits:
        yield repr((limit.kind, limit.target, limit.amount, limit.window))


def _plain(value: object) -> object:
    return sorted(value) if isinstance(value, frozenset) else value
