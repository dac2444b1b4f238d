"""Rules with amended limits, which the planner uses.

An amended rule is a copy of the rule with other amounts. Buckets with the same amounts share one.
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from ..cache import MIB, BoundedCache
from ..model import Limit, Override, Rule, Window
from .effect import Effect, effect, is_blocked
from .index import Stack
from .model import Amendment

_RULES_BYTES = 2 * MIB
_BYTES_OF_A_RULE, _BYTES_OF_A_LIMIT = 900, 250

BLOCKED = "it is blocked"
"""The reason of a refusal if a descriptor without a limit is blocked. It names neither the author nor the
target."""


NO_ROOM = -1
"""The room of a blocked window: it refuses even a check, which a limit of 0 requests allows, as in upstream.
"""


class DescriptorAmendments(NamedTuple):
    """What amends one descriptor of a request."""

    stack: Stack
    override: Override | None = None
    """The limit in the request."""

    def brought(self, window: Window) -> bool:
        """Return whether the limit of a window is in the request."""
        override = self.override
        return override is not None and window[:2] == (override.unit, max(1, override.multiplier))


class AmendedRule(NamedTuple):
    """An amended rule at a moment, the span of time in which it does not change, and its amendments.

    `room` has, for each limit, the room of its window: the amount of the limit, or NO_ROOM if it is blocked.
    """

    rule: Rule
    room: tuple[int, ...]
    begin: float
    end: float
    by: tuple[Amendment, ...]


class AmendedRules:
    """Amends rules.

    The copies are cached, so that caches by rule elsewhere (refusals) have few entries.
    """

    def __init__(self) -> None:
        self._rules: BoundedCache[tuple[Rule, bool, tuple[int, ...]], Rule] = BoundedCache(
            _RULES_BYTES, _weight
        )

    def amend(self, rule: Rule, held: DescriptorAmendments, now: int) -> AmendedRule:
        """Return a rule as amended at `now`.

        A block is enforced even if the rule is in shadow mode.
        """
        effects = [
            effect(limit, held.stack, now, brought=held.brought(limit.window)) for limit in rule.limits
        ]
        shadow = rule.shadow and not any([each.blocked for each in effects])
        amounts = tuple([each.amount for each in effects])
        return AmendedRule(
            rule
            if shadow is rule.shadow and amounts == tuple([limit.amount for limit in rule.limits])
            else self._copy(rule, shadow, amounts),
            tuple([NO_ROOM if each.blocked else each.amount for each in effects]),
            max([each.begin for each in effects]),
            min([each.end for each in effects]),
            tuple(dict.fromkeys([amendment for each in effects for amendment in each.by])),
        )

    def _copy(self, rule: Rule, shadow: bool, amounts: tuple[int, ...]) -> Rule:
        key = (rule, shadow, amounts)
        copy = self._rules.get(key)
        if copy is None:
            limits = [
                limit if amount == limit.amount else Limit(amount, limit.window, limit.name)
                for limit, amount in zip(rule.limits, amounts, strict=True)
            ]
            copy = replace(rule, limits=tuple(limits), shadow=shadow, original=rule.original or rule)
            self._rules.put(key, copy)
        return copy


def block_of(held: DescriptorAmendments, now: int) -> Effect:
    """Return whether a descriptor without a limit is blocked; see Effect.blocked."""
    return is_blocked(held.stack, now)


def _weight(key: tuple[Rule, bool, tuple[int, ...]], copy: Rule) -> int:
    return _BYTES_OF_A_RULE + _BYTES_OF_A_LIMIT * len(copy.limits)
