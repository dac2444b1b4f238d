"""Warn of nested rules that do not apply to a value because it has a descriptor of its own.

Matching has no way back (matching/tree.py): once `team=dba` has met the descriptor that names this value, what is nested
under `key: team` for all teams is out of reach. That is upstream's language, and a surprise where an override for one value
was written. `descriptors: []` says that it is intended, and so do `unlimited: true` and a descriptor without any limit.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import NamedTuple

from ..matching.tree import Pattern
from ..model import DescriptorRule
from .fields import Fields, quoted

_MOST_COMPARED = 200_000
"""How often values are held against wildcards: a file with thousands of both is not searched to its end."""

_MOST_NAMED = 3


class _Dropped(NamedTuple):
    """A descriptor, and the names of what it lacks of the one that its value would meet otherwise."""

    descriptor: DescriptorRule
    names: Sequence[str]


def warn_of_dropped(descriptors: Sequence[DescriptorRule], written: Mapping[int, Fields]) -> None:
    """Warn of each descriptor that hides nested rules, once for all that hide the same.

    `written` has what the file says of each descriptor with a value, by the descriptor's identity.
    """
    search = _Search(written)
    pending = [descriptors]
    while pending:
        siblings = pending.pop()
        for default, found in search.among(siblings):
            _warn(default, found, written[id(found[0].descriptor)])
        pending += [descriptor.children for descriptor in siblings if descriptor.children]


def _warn(default: DescriptorRule, found: Sequence[_Dropped], fields: Fields) -> None:
    (descriptor, names), *others = found
    shown = ", ".join(map(quoted, names[:_MOST_NAMED])) + (" and more" if len(names) > _MOST_NAMED else "")
    intended = "name its key without a limit" if descriptor.children else "write 'descriptors: []'"
    alike = f"; the same is true of {len(others)} more" if others else ""
    entry = quoted(f"{_text(descriptor.key)}={_text(descriptor.value)}")
    above = quoted(_text(default.composite))
    fields.warn(
        "",
        f"is all that {entry} meets: what is nested under {above} at {default.source} ({shown}) does not limit it; "
        f"repeat it here, or {intended} if that is intended{alike}",
    )


class _Search:
    """Finds descriptors that hide nested rules."""

    def __init__(self, written: Mapping[int, Fields]) -> None:
        self._written = written
        self._left = _MOST_COMPARED
        self._nested: dict[int, list[DescriptorRule]] = {}

    def among(self, siblings: Sequence[DescriptorRule]) -> Iterator[tuple[DescriptorRule, list[_Dropped]]]:
        """Yield each descriptor whose nested rules siblings hide, with those siblings."""
        if not any(descriptor.children for descriptor in siblings):
            return
        level = _Level(siblings)
        hidden: dict[int, tuple[DescriptorRule, list[_Dropped]]] = {}
        for descriptor in siblings:
            if not descriptor.value or self._is_meant(descriptor):
                continue
            default = self._otherwise(level, descriptor)
            names = self._lacking(default, descriptor) if default is not None else ()
            if default is not None and names:
                hidden.setdefault(id(default), (default, []))[1].append(_Dropped(descriptor, names))
        yield from hidden.values()

    def _is_meant(self, descriptor: DescriptorRule) -> bool:
        if _is_exempt(descriptor):
            return True
        return not descriptor.children and self._written[id(descriptor)].given("descriptors")

    def _otherwise(self, level: _Level, descriptor: DescriptorRule) -> DescriptorRule | None:
        """What the value of a descriptor would meet if that descriptor were not there."""
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
        """The names of what is nested under `default`, limits something, and is not there under `descriptor`."""
        nested = self._nested.get(id(default))
        if nested is None:
            nested = [child for child in default.children if _limits_something(child)]
            self._nested[id(default)] = nested
        if not nested or not descriptor.children:
            return [_text(child.composite) for child in nested]
        level = _Level(descriptor.children)
        names: list[str] = []
        for child in nested:
            covering = (
                level.plain.get(child.composite) or self._wildcard(level, child) or level.plain.get(child.key)
            )
            if covering is None:
                names.append(_text(child.composite))
            elif not _is_exempt(covering):
                names += [f"{_text(child.composite)}.{name}" for name in self._lacking(child, covering)]
        return names


class _Level:
    """Siblings, as matching looks them up."""

    def __init__(self, siblings: Iterable[DescriptorRule]) -> None:
        self.plain = {descriptor.composite: descriptor for descriptor in siblings}
        self.wildcards = [
            (Pattern(descriptor.composite), descriptor)
            for descriptor in self.plain.values()
            if b"*" in descriptor.composite
        ]


def _is_exempt(descriptor: DescriptorRule) -> bool:
    """Whether the descriptor is there to let its value through."""
    return descriptor.rule.unlimited if descriptor.rule is not None else not descriptor.children


def _limits_something(descriptor: DescriptorRule) -> bool:
    """Whether the descriptor, or one below it, has a limit."""
    pending = [descriptor]
    while pending:
        each = pending.pop()
        if each.rule is not None and not each.rule.unlimited:
            return True
        pending += each.children
    return False


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")
