"""Warn of nested rules that do not apply to a value because it has a descriptor of its own.

Matching never backtracks (matching/tree.py). `team=dba` matches the descriptor for this value, so the rules
nested under `key: team` for all teams do not apply to it. That is upstream's language, and a surprise for the
author of an exception for one value. `descriptors: []` says that it is intended, and so does
`unlimited: true` or a descriptor without a limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..matching.tree import Pattern
from ..model import DescriptorRule
from .fields import Fields, quoted

_MOST_COMPARED = 200_000
"""The comparisons of values with wildcards, and of nested rules with others. In a file with thousands of
both, the search ends early.
"""

_MOST_NAMED = 3


class _HiddenRules(NamedTuple):
    """A descriptor, and the names of the nested rules that do not apply to its value."""

    descriptor: DescriptorRule
    names: Sequence[str]


def warn_of_hidden_rules(descriptors: Sequence[DescriptorRule], written: Mapping[int, Fields]) -> None:
    """Warn of descriptors that hide nested rules, once for all descriptors that hide the same rules.

    `written` has the fields of each descriptor with a value, by the id of the descriptor.
    """
    search = _Search(written)
    pending = [descriptors]
    while pending:
        siblings = pending.pop()
        for default, found in search.among(siblings):
            _warn(default, found, written[id(found[0].descriptor)])
        pending += [descriptor.children for descriptor in siblings if descriptor.children]


def _warn(default: DescriptorRule, found: Sequence[_HiddenRules], fields: Fields) -> None:
    (descriptor, names), *others = found
    shown = ", ".join(map(quoted, names[:_MOST_NAMED])) + (" and more" if len(names) > _MOST_NAMED else "")
    intended = "name its key without a limit" if descriptor.children else "write 'descriptors: []'"
    alike = f"; the same is true of {len(others)} more" if others else ""
    entry = quoted(f"{_text(descriptor.key)}={_text(descriptor.value)}")
    above = quoted(_text(default.composite))
    fields.warn(
        "",
        f"is the only match for {entry}: the rules nested under {above} at {default.source} ({shown}) "
        f"do not limit it; repeat them here, or {intended} if that is intended{alike}",
    )


class _Search:
    """Finds descriptors that hide nested rules."""

    def __init__(self, written: Mapping[int, Fields]) -> None:
        self._written = written
        self._left = _MOST_COMPARED
        self._nested: dict[int, list[DescriptorRule]] = {}

    def among(
        self, siblings: Sequence[DescriptorRule]
    ) -> Iterator[tuple[DescriptorRule, list[_HiddenRules]]]:
        """Yield each descriptor whose nested rules are hidden by siblings, with those siblings."""
        if not any(descriptor.children for descriptor in siblings):
            return
        level = _Level(siblings)
        hidden: dict[int, tuple[DescriptorRule, list[_HiddenRules]]] = {}
        for descriptor in siblings:
            if not descriptor.value or self._is_intended(descriptor):
                continue
            default = self._match_without(level, descriptor)
            names = self._lacking(default, descriptor) if default is not None else ()
            if default is not None and names:
                hidden.setdefault(id(default), (default, []))[1].append(_HiddenRules(descriptor, names))
        yield from hidden.values()

    def _is_intended(self, descriptor: DescriptorRule) -> bool:
        if _is_exempt(descriptor):
            return True
        return not descriptor.children and self._written[id(descriptor)].given("descriptors")

    def _match_without(self, level: _Level, descriptor: DescriptorRule) -> DescriptorRule | None:
        """Return the descriptor that the value of `descriptor` would match without it."""
        wildcard = None if b"*" in descriptor.composite else self._wildcard(level, descriptor)
        return wildcard or level.plain.get(descriptor.key)

    def _wildcard(self, level: _Level, descriptor: DescriptorRule) -> DescriptorRule | None:
        for pattern, wildcard in level.wildcards:
            self._left -= 1
            if self._left < 0:
                return None
            if pattern.matches(descriptor.composite):
                return wildcard
        return None

    def _lacking(self, default: DescriptorRule, descriptor: DescriptorRule) -> Sequence[str]:
        """Return the names of the rules under `default` that have no counterpart under `descriptor`.

        At most one more than a warning names, because thousands of values may lack the same thousands of
        rules.
        """
        nested = self._nested.get(id(default))
        if nested is None:
            nested = [child for child in default.children if _limits_something(child)]
            self._nested[id(default)] = nested
        if not nested or not descriptor.children:
            return [_text(child.composite) for child in nested[: _MOST_NAMED + 1]]
        level = _Level(descriptor.children)
        names: list[str] = []
        for child in nested:
            self._left -= 1
            if len(names) > _MOST_NAMED or self._left < 0:
                break
            covering = (
                level.plain.get(child.composite) or self._wildcard(level, child) or level.plain.get(child.key)
            )
            if covering is None:
                names.append(_text(child.composite))
            elif not _is_exempt(covering):
                names += [f"{_text(child.composite)}.{name}" for name in self._lacking(child, covering)]
        return names


class _Level:
    """Siblings, for lookups as in matching."""

    def __init__(self, siblings: Iterable[DescriptorRule]) -> None:
        self.plain = {descriptor.composite: descriptor for descriptor in siblings}
        self.wildcards = [
            (Pattern(descriptor.composite), descriptor)
            for descriptor in self.plain.values()
            if b"*" in descriptor.composite
        ]


def _is_exempt(descriptor: DescriptorRule) -> bool:
    """Return whether the descriptor exempts its value from limits."""
    return descriptor.rule.unlimited if descriptor.rule is not None else not descriptor.children


def _limits_something(descriptor: DescriptorRule) -> bool:
    """Return whether the descriptor, or one below it, has a limit."""
    pending = [descriptor]
    while pending:
        each = pending.pop()
        if each.rule is not None and not each.rule.unlimited:
            return True
        pending += each.children
    return False


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
