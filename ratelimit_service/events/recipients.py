"""The receivers of the event of an amendment: those that the rules name whose limits it changes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

from ..core.amendments.target import Target, TargetEntry, fits
from ..core.matching.tree import Domain, RuleNode, RuleTree
from ..core.model import Entry, Rule

_AT_ONCE = 2_000
"""Descriptors of the configuration that are visited before others get the event loop."""


async def recipients(rules: RuleTree | None, target: Target) -> tuple[str, ...] | None:
    """Return the names in `notify` of all rules that a target may apply to; None for all receivers.

    It is None if one of these rules has no `notify`, or if there is no such rule.
    """
    domain = rules.domains.get(target.domain) if rules is not None else None
    if domain is None:
        return None
    names: set[str] = set()
    known = False
    for visited, rule in enumerate(_rules(domain, target), 1):
        if not visited % _AT_ONCE:
            await asyncio.sleep(0)
        if rule is None:
            continue
        if rule.notify is None:
            return None
        known = True
        names.update(rule.notify)
    return tuple(sorted(names)) if known else None


def _rules(domain: Domain, target: Target) -> Iterator[Rule | None]:
    """Yield the rules that a target may apply to, and None for descriptors in between."""
    if not target.entries:
        yield from domain.rules
        return
    nodes = [domain.root]
    for entry in target.entries:
        below: list[RuleNode] = []
        for node in nodes:
            if entry.exact:
                following = node.next(Entry(entry.key, entry.pieces[0]))
                if following is not None:
                    below.append(following)
                continue
            for child in node.children.values():
                yield None
                if _may_match(child, entry):
                    below.append(child)
        nodes = below
    for node in nodes:
        yield node.rule


def _may_match(node: RuleNode, entry: TargetEntry) -> bool:
    """Return whether a descriptor of the configuration may match an entry that is a pattern.

    A descriptor is found by its key and value joined (RuleNode.next), so the comparison is of these.
    """
    first, *others = entry.pieces
    begin = entry.key + b"_" + first
    before, star, _ = node.composite.partition(b"*")
    if star:
        return before.startswith(begin) or begin.startswith(before)
    return node.composite == entry.key or fits((begin, *others), node.composite)
