"""Why an amendment would change no limit now.

It is made all the same, because its rule may follow later. More often its domain, a key or its window is
misspelt, and the operator believes that it is in force.
"""

from __future__ import annotations

from collections.abc import Sequence

from ..amendments.index import Stack
from ..amendments.model import Amendment
from ..amendments.target import exact_entries, exactly
from ..matching.tree import Domain, RuleNode, RuleTree
from ..model import Entry, Rule
from ..text import unknown_domain
from ..windows.blocks import name as window_name
from .bucket import BucketNow
from .rule_candidates import why

_MOST_DOMAINS = 1_000
"""The largest number of domains that a misspelt one is compared with."""

_MOST_LOOKED_AT = 4_000
"""The largest number of nodes that are examined for a pattern; beyond it, nothing is said."""


def why_no_effect(
    tree: RuleTree | None, amendment: Amendment, stack: Stack, found: BucketNow | None, now: int
) -> str:
    """Return why an amendment would change no limit now; empty if it would, or if that is not known.

    For an exact target, `stack` has the amendments of its bucket, including it, and `found` the limits of the
    bucket with them.
    """
    target = amendment.target
    domains = tree.domains if tree is not None else {}
    domain = domains.get(target.domain)
    if domain is None:
        return unknown_domain(target.domain, [*domains][:_MOST_DOMAINS])
    if not target.exact:
        return _of_pattern(domain, amendment)
    entries = exact_entries(target)
    bucket = domain.entries_of_bucket(entries)
    if bucket != entries:
        return f"{target.text} shares the bucket {exactly(domain.name, bucket).text}: amend that"
    if found is None:
        return _without_limits(domain, amendment, entries)
    for each in why(stack, found, now):
        if each.amendment.id == amendment.id and not each.holds:
            return f"it changes no limit of {target.text}: {each.reason}{_windows(amendment, [found.rule])}"
    return ""


def _without_limits(domain: Domain, amendment: Amendment, entries: tuple[Entry, ...]) -> str:
    text, blocks = amendment.target.text, amendment.blocks and not amendment.window
    if domain.match(entries) is None:
        return f"no rule in force limits {text}{', and the block refuses it all the same' if blocks else ''}"
    return "" if blocks else f"{text} is unlimited: only a block of every window has an effect"


def _of_pattern(domain: Domain, amendment: Amendment) -> str:
    text, blocks = amendment.target.text, amendment.blocks and not amendment.window
    wanted = [entry.key for entry in amendment.target.entries]
    rules = _rules_with(domain, wanted) if wanted else domain.rules
    if rules is None:
        return ""
    if not rules:
        still = ", and the block refuses them all the same" if blocks else ""
        return f"no rule in force limits descriptors like {text}{still}"
    if amendment.window and not any(amendment.window in _names(rule) for rule in rules):
        reason = f"no rule has a window {amendment.window}{_windows(amendment, rules)}"
        return f"it changes no limit of {text}: {reason}"
    return ""


def _rules_with(domain: Domain, wanted: Sequence[bytes]) -> list[Rule] | None:
    """Return the rules of descriptors with these keys; None if there are too many nodes to find them."""
    looked_at = 0
    level: list[RuleNode] = [domain.root]
    for key in wanted:
        looked_at += sum(len(node.children) for node in level)
        if looked_at > _MOST_LOOKED_AT:
            return None
        level = [below for node in level for below in node.children.values() if _has_key(below, key)]
    return [node.rule for node in level if node.rule is not None]


def _has_key(node: RuleNode, key: bytes) -> bool:
    return node.key == key or b"*" in node.key


def _names(rule: Rule) -> list[str]:
    return [window_name(limit.window) for limit in rule.limits]


def _windows(amendment: Amendment, rules: Sequence[Rule]) -> str:
    """Return the windows of rules, for an amendment of a window that none of them has."""
    names = list(dict.fromkeys([name for rule in rules for name in _names(rule)]))
    if not amendment.window or amendment.window in names or not names:
        return ""
    return f", but {', '.join(names)}"
