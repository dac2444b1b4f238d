"""Why a rule limits a descriptor and others do not.

    consider(domain, entries) -> RuleChoice       the rule that wins, and each that loses with the reason
    possible(domain, entries) -> PossibleRules    which rules could apply, where only some entries are known
    why(stack, budget, now) -> each amendment with whether it holds, and why not

It follows the tree as the lookup does (matching/tree.py) and takes the winner from there, so the two cannot
differ.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from ..amendments.effect import end_for
from ..amendments.index import Stack
from ..amendments.model import Amendment, Kind
from ..matching.tree import Domain, RuleNode
from ..model import Entry, Rule
from ..text import excerpt
from ..windows.blocks import name as window_name
from .bucket import BucketNow

_MOST = 100
"""The largest number of listed rules."""

_MOST_LOOKED_AT = 4_000
"""The largest number of examined nodes, which take some milliseconds."""

_LONGEST = 100


class Candidate(NamedTuple):
    """One rule that was considered: its path as in statistics, where it is from, and why it wins or loses."""

    rule: str
    source: str
    wins: bool
    reason: str


class RuleChoice(NamedTuple):
    """The rule for a descriptor, and all that were considered; `left_out` counts those that are not
    listed.
    """

    winner: Rule | None
    candidates: tuple[Candidate, ...]
    left_out: int = 0


class PossibleRule(NamedTuple):
    """A rule that would apply to a descriptor with some more entries: the keys of these, in the rule's
    order.
    """

    rule: Rule
    missing: tuple[bytes, ...]


class PossibleRules(NamedTuple):
    """The rules that could apply; `more` is whether there are others."""

    rules: tuple[PossibleRule, ...]
    more: bool = False


class AmendmentNow(NamedTuple):
    """An amendment of a bucket, whether it holds in a window, and why not."""

    amendment: Amendment
    holds: bool
    reason: str


def consider(domain: Domain, entries: tuple[Entry, ...]) -> RuleChoice:
    """Return the rule that limits a descriptor with these entries, and those that do not."""
    found = _Candidates(domain.name)
    node = domain.root
    levels: list[str] = []
    for place, entry in enumerate(entries):
        following = node.next(entry)
        for below in found.below(node, following):
            if below.key == entry.key or _matches(node, below, entry):
                found.add(below, levels, False, _why_not(node, below, following, entry))
        if following is None:
            if place and node.rule is not None:
                found.add(node, levels[:-1], False, f"the descriptor goes on with {_text(entry.key)}")
            return found.considered(None)
        if place and node.rule is not None:
            found.add(node, levels[:-1], False, f"the descriptor goes on with {_text(entry.key)}")
        levels.append(following.level)
        node = following
    if not entries:
        return found.considered(None)
    last = entries[-1]
    match = domain.match(entries)
    if match is not None:
        found.add(node, levels[:-1], True, _why(node, last))
    elif node is not domain.root:
        found.add(
            node,
            levels[:-1],
            False,
            "it has no limit of its own: a descriptor needs an entry of its children",
        )
    for below in found.below(node):
        found.add(below, levels, False, f"it needs an entry {_text(below.key)} as well")
    return found.considered(match.rule if match is not None else None)


def possible(domain: Domain, entries: tuple[Entry, ...]) -> PossibleRules:
    """Return the rules of descriptors that have these entries, in this order, and at least one more."""
    found: list[PossibleRule] = []
    looked_at = 0
    pending: list[tuple[RuleNode, int, tuple[bytes, ...]]] = [(domain.root, 0, ())]
    while pending:
        node, known, missing = pending.pop()
        if known == len(entries) and missing and node.rule is not None:
            found.append(PossibleRule(node.rule, missing))
        wanted = entries[known] if known < len(entries) else None
        chosen = node.next(wanted) if wanted is not None else None
        below: list[tuple[RuleNode, int, tuple[bytes, ...]]] = []
        if chosen is not None:
            below.append((chosen, known + 1, missing))
        for each in node.children.values():
            looked_at += 1
            if wanted is None or (each.key != wanted.key and each is not chosen):
                below.append((each, known, (*missing, each.key)))
            if looked_at >= _MOST_LOOKED_AT or len(found) >= _MOST:
                return PossibleRules(tuple(found[:_MOST]), True)
        pending += reversed(below)
    return PossibleRules(tuple(found))


def why(stack: Stack, bucket: BucketNow | None, now: int) -> list[AmendmentNow]:
    """Return each amendment of a bucket, whether it has an effect, and why not."""
    windows = [window.limit.window for window in bucket.windows] if bucket is not None else []
    names = [window_name(window) for window in windows]
    holding = (
        {one.id for window in bucket.windows for one in window.effect.by} if bucket is not None else set()
    )
    found = []
    for amendment in (*stack.overrides, *stack.top_ups):
        if amendment.id in holding:
            found.append(AmendmentNow(amendment, True, "it holds"))
        elif bucket is None:
            reason = (
                "it blocks" if amendment.blocks and not amendment.window else "no rule has a limit to amend"
            )
            found.append(AmendmentNow(amendment, amendment.blocks and not amendment.window, reason))
        elif end_for(amendment, windows) <= now:
            found.append(AmendmentNow(amendment, False, "it has ended"))
        elif amendment.window and amendment.window not in names:
            found.append(AmendmentNow(amendment, False, f"the rule has no window {amendment.window}"))
        elif amendment.kind is Kind.TOP_UP:
            found.append(AmendmentNow(amendment, False, "nothing is added to a block"))
        else:
            found.append(AmendmentNow(amendment, False, "a more specific override comes first"))
    return found


class _Candidates:
    """Collects candidates, as many as are listed."""

    def __init__(self, domain: str) -> None:
        self._domain = domain
        self._found: list[Candidate] = []
        self._left_out = 0
        self._looked_at = 0

    def below(self, node: RuleNode, chosen: RuleNode | None = None) -> Iterator[RuleNode]:
        """Yield the nodes below one, without the chosen one: as many as are looked at in all."""
        for number, below in enumerate(node.children.values()):
            if below is chosen:
                continue
            if self._looked_at >= _MOST_LOOKED_AT:
                later = chosen is not None and chosen in list(node.children.values())[number:]
                self._left_out += len(node.children) - number - later
                return
            self._looked_at += 1
            yield below

    def add(self, node: RuleNode, above: list[str], wins: bool, reason: str) -> None:
        if len(self._found) >= _MOST and not wins:
            self._left_out += 1
            return
        path = ".".join([self._domain, *above, node.level])
        source = node.rule.source if node.rule is not None else ""
        self._found.append(Candidate(path, source, wins, reason))

    def considered(self, winner: Rule | None) -> RuleChoice:
        self._found.sort(key=lambda each: not each.wins)  # the winner first
        return RuleChoice(winner, tuple(self._found), self._left_out)


def _matches(node: RuleNode, below: RuleNode, entry: Entry) -> bool:
    joined = entry.key + b"_" + entry.value
    return any(pattern.matches(joined) for pattern, each in node.wildcards if each is below)


def _why(node: RuleNode, entry: Entry) -> str:
    if b"*" in node.composite:
        return f"its pattern {_text(node.composite[len(entry.key) + 1 :])} matches the value"
    if node.composite != entry.key:
        return "it is for this value"
    return f"it is for any value of {_text(entry.key)}"


def _why_not(node: RuleNode, below: RuleNode, following: RuleNode | None, entry: Entry) -> str:
    """Return why the lookup did not continue with `below`, which has the key of an entry or matches it."""
    value = below.composite[len(below.key) + 1 :]
    if b"*" in below.composite:
        if not _matches(node, below, entry):
            return f"its pattern {_text(value or below.composite)} does not match the value"
        if following is not None and b"*" in following.composite:
            return "a pattern before it in the file matches"
        return "a rule for this value comes first"
    if value:
        return f"it is for the value {_text(value)}"
    return "a rule for this value, or a pattern that matches it, comes first"


def _text(value: bytes) -> str:
    return excerpt(value, _LONGEST)
