"""Read the values of a document, and report each value of the wrong kind.

The conversions are upstream's. For a key that expects text, a whole number or a truth value means its raw
text, and a missing value (`key:`) means empty text. A number with a fraction is never text, and text is never
a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import Problem
from ..text import either, printable, shorten
from .document import Kind, MappingNode, Node, ScalarNode, SequenceNode
from .guesses import Guess, guess, key_of_a_number
from .hints import amount_hint, flag_hint, limit_hint, looks_wrong
from .report import Report
from .vocabulary import KEYS, Level, harmless, is_known_key, misplaced_message

LONGEST_SHOWN = 80
"""The characters of a value that a message repeats."""

SEVERAL_LIMITS = "several limits are a list under rate_limits, each item beginning with '- '"
"""The hint for several limits that are written in another way."""

_SEVERAL = ("rate_limit", "unit")
"""Repeating one of these keys is likely an attempt to write several limits."""

_SHARE = "a number above 0 and at most 1, such as 0.8 for 80 %"

_INT64 = range(-(2**63), 2**63)


class Fields:
    """The keys of one mapping that are allowed at its level. It reports all other keys.

    The methods that read a value report an invalid one and return None.
    """

    def __init__(self, report: Report, file: str, level: Level, path: str, mapping: MappingNode) -> None:
        self.path = path
        self.line = mapping.line
        self.misplaced: set[str] = set()
        """The keys at the wrong level, which were reported as errors."""
        self._report = report
        self._file = file
        self._nodes: dict[str, Node] = {}
        self._lines: dict[str, int] = {}
        unknown_keys: list[tuple[ScalarNode, Node, Guess]] = []
        for key, node in mapping.items:
            unknown = self._unknown(key, node, level, path)
            if unknown is not None:
                unknown_keys.append((key, node, unknown))
            elif key.text in KEYS[level]:
                self._nodes[key.text] = node
                self._lines[key.text] = key.line
            elif harmless(key.text, level):
                self._warn(key.line, self.at(key.text), misplaced_message(key.text, level))
                self._check_ignored(key, node, self.at(key.text))
            else:
                self._error(key.line, self.at(key.text), misplaced_message(key.text, level))
                self.misplaced.add(key.text)
        for key, node, unknown in unknown_keys:
            if unknown.meant and unknown.meant not in self._nodes:
                self._nodes[unknown.meant] = node
                self._lines[unknown.meant] = key.line
        self.unclear = any(not unknown.meant for _, _, unknown in unknown_keys)
        """Whether it has an unknown key that may stand for any missing key."""
        self._warn_repeated([key for key in mapping.repeated if is_known_key(key.text)], path)

    def at(self, name: str) -> str:
        """Return the path of the key `name`, or of the mapping if `name` is empty."""
        return f"{self.path}.{name}" if self.path and name else self.path or name

    def line_of(self, name: str) -> int:
        """Return the line of the key `name`, or of the mapping if it does not have that key."""
        return self._lines.get(name, self.line)

    def error(self, name: str, message: str) -> None:
        """Report an error about the value of `name`, or its absence."""
        self._error(self.line_of(name), self.at(name), message)

    def warn(self, name: str, message: str) -> None:
        """Report a warning about `name`."""
        self._warn(self.line_of(name), self.at(name), message)

    def missing(self, name: str, message: str) -> None:
        """Report that `name` is missing or empty, unless an unknown key may stand for it."""
        if name in self._nodes or not self.unclear:
            self.error(name, message)

    def warn_of_looks(self, name: str, text: str) -> None:
        """Warn if `text`, the value of `name`, has characters that an editor likely inserted."""
        wrong = looks_wrong(text)
        if wrong:
            self.warn(name, wrong)

    def given(self, name: str) -> bool:
        """Return whether `name` has a value other than null."""
        node = self._nodes.get(name)
        return node is not None and not _is_null(node)

    @property
    def report_is_full(self) -> bool:
        """Return whether further errors will be dropped."""
        return self._report.full

    def text(self, name: str) -> str | None:
        """Return text that is UTF-8; empty if it is missing."""
        text = self.raw_text(name)
        if text is not None and not _is_unicode(text):
            self.error(name, "must be valid UTF-8")
            return None
        return text

    def raw_text(self, name: str) -> str | None:
        """Return text with any bytes, as surrogate escapes; empty if it is missing."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return ""
        if not isinstance(node, ScalarNode):
            self.error(name, f"must be text, not {describe(node)}")
            return None
        return node.text if self._fits(node, self.at(name), self._lines[name]) else None

    def scalar(self, name: str, wanted: str) -> ScalarNode | None:
        """Return a scalar of any kind; None if it is missing."""
        node = self._nodes.get(name)
        if isinstance(node, ScalarNode):
            return node
        if node is not None:
            self.error(name, f"must be {wanted}, not {describe(node)}")
        return None

    def choice(self, name: str, words: Iterable[str]) -> str | None:
        """Return one of `words`, whose case does not matter; empty if it is missing."""
        wanted = either(words)
        node = self.scalar(name, wanted) if self.given(name) else None
        if node is None:
            return None if self.given(name) else ""
        if node.text.lower() in words:
            return node.text.lower()
        self.error(name, f"must be {wanted}, not {describe(node)}")
        return None

    def flag(self, name: str) -> bool | None:
        """Return a truth value; False if it is missing."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return False
        if isinstance(node, ScalarNode) and node.kind is Kind.BOOL:
            return bool(node.value)
        hint = _ending(flag_hint(node)) if isinstance(node, ScalarNode) else ""
        self.error(name, f"must be true or false, not {describe(node)}{hint}")
        return None

    def whole(self, name: str, least: int, most: int, absent: int) -> int | None:
        """Return a whole number from `least` to `most`, or `absent` if it is missing."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return absent
        if isinstance(node, ScalarNode) and node.kind is Kind.INT and least <= node.value <= most:
            return int(node.value)
        hint = ""
        if isinstance(node, ScalarNode):
            hint = _ending(amount_hint(node, least, most, endless=name.endswith("_per_unit")))
        self.error(name, f"must be a whole number from {least} to {most}, not {describe(node)}{hint}")
        return None

    def mapping(self, name: str, level: Level) -> Fields | None:
        """Return the mapping under `name`; None if it is missing."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return None
        if isinstance(node, MappingNode):
            return Fields(self._report, self._file, level, self.at(name), node)
        hint = ""
        if level is Level.RATE_LIMIT:
            hint = limit_hint(node.text) if isinstance(node, ScalarNode) else SEVERAL_LIMITS
        wanted = f"must be a mapping with keys such as {KEYS[level][0]!r}"
        self.error(name, f"{wanted}, not {describe(node)}{_ending(hint)}")
        return None

    def is_list(self, name: str) -> bool:
        """Return whether the value of `name` is a list."""
        return isinstance(self._nodes.get(name), SequenceNode)

    def list_or_off(self, name: str, wanted: str) -> bool:
        """Return whether the value of `name` is a list. Report one that is neither a list nor off."""
        if self.is_list(name):
            return True
        node = self.scalar(name, wanted)
        if node is not None and node.text.lower() not in ("off", "false"):
            self.error(name, f"must be {wanted}, not {describe(node)}")
        return False

    def mappings(self, name: str, level: Level, most: int | None = None) -> list[Fields]:
        """Return the mappings in the list under `name`. With `most`, a list has 1 to `most` items."""
        found = []
        for path, item in self._list(name, "each item beginning with '- '", most):
            if isinstance(item, MappingNode):
                found.append(Fields(self._report, self._file, level, path, item))
            else:
                wanted = f"must be a mapping such as '{KEYS[level][0]}: …', not {describe(item)}"
                self._error(item.line, path, wanted)
        return found

    def raw_texts(self, name: str, most: int, example: str) -> tuple[str, ...]:
        """Return the items of the list under `name`: unique texts with any bytes, as surrogate escapes."""
        found: dict[str, None] = {}
        for path, item in self._list(name, f"such as {example}", most):
            if not isinstance(item, ScalarNode) or item.kind is Kind.NULL:
                self._error(item.line, path, f"must be text, not {describe(item)}")
            elif not item.text:
                self._error(
                    item.line, path, f"must not be empty: remove it, or write a text, as in {example}"
                )
            elif self._fits(item, path, item.line):
                if item.text in found:
                    self._error(item.line, path, f"{quoted(item.text)} is in the list already: remove it")
                found[item.text] = None
        return tuple(found)

    def shares(self, name: str, most: int) -> tuple[float, ...]:
        """Return the unique numbers of the list under `name`, ascending: each above 0 and at most 1."""
        found = set()
        for path, item in self._list(name, "such as [0.5, 0.8, 1]", most):
            if isinstance(item, ScalarNode) and item.kind in (Kind.INT, Kind.FLOAT) and 0 < item.value <= 1:
                found.add(float(item.value))
            else:
                self._error(item.line, path, f"must be {_SHARE}, not {describe(item)}")
        return tuple(sorted(found))

    def share(self, name: str) -> float | None:
        """Return a number above 0 and at most 1; 0 if it is missing."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return 0.0
        if isinstance(node, ScalarNode) and node.kind in (Kind.INT, Kind.FLOAT) and 0 < node.value <= 1:
            return float(node.value)
        self.error(name, f"must be {_SHARE}, not {describe(node)}")
        return None

    def _list(self, name: str, example: str, most: int | None) -> list[tuple[str, Node]]:
        """Return the items of the list under `name`, each with its path."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return []
        if not isinstance(node, SequenceNode):
            self.error(name, f"must be a list, {example}, not {describe(node)}")
            return []
        if most is not None and not 1 <= len(node.items) <= most:
            self.error(name, f"must have 1 to {most} items, not {len(node.items)}")
        return list(_items(node, self.at(name)))

    def struct(self, name: str) -> dict[str, Any] | None:
        """Return the mapping under `name` as plain data for a protobuf Struct; None if it is missing."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return None
        if not isinstance(node, MappingNode):
            self.error(name, f"must be a mapping, such as 'tier: gold', not {describe(node)}")
            return None
        plain: dict[str, Any] = self._plain(node, self.at(name))
        return plain

    def _plain(self, node: Node, path: str) -> Any:
        if isinstance(node, MappingNode):
            self._warn_repeated(node.repeated, path)
            plain = {}
            for key, value in node.items:
                if key.kind is not Kind.STRING or not _is_unicode(key.text):
                    self._error(key.line, path, f"the key {_named(key)} is not text: quote it")
                    continue
                plain[key.text] = self._plain(value, f"{path}.{shown(key.text)}")
            return plain
        if isinstance(node, SequenceNode):
            return [self._plain(item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        if node.kind is Kind.STRING and not _is_unicode(node.text):
            self._error(node.line, path, "must be valid UTF-8")
        return node.value

    def _error(self, line: int, path: str, message: str) -> None:
        self._report.error(Problem(self._file, line, path, message))

    def _warn(self, line: int, path: str, message: str) -> None:
        self._report.warn(Problem(self._file, line, path, message))

    def _unknown(self, key: ScalarNode, node: Node, level: Level, path: str) -> Guess | None:
        """Report an unknown key, and return what it may mean; None for known keys."""
        if key.kind is Kind.STRING and is_known_key(key.text):
            return None
        if key.kind is not Kind.STRING:
            hint = key_of_a_number(key, node) or f"the keys here are {', '.join(KEYS[level])}"
            unknown = Guess("", hint)
            message = f"the key {_named(key)} is not text: {hint}"
        else:
            keys = f"the keys here are {', '.join(KEYS[level])}"
            unknown = Guess("", keys) if self._report.full else guess(key.text, level, node)
            message = f"unknown key {quoted(key.text)}: {unknown.hint}"
        self._error(key.line, path, message)
        return unknown

    def _fits(self, node: ScalarNode, path: str, line: int) -> bool:
        """Return whether upstream accepts this scalar as text, and report it otherwise."""
        if node.kind is not Kind.FLOAT and (node.kind is not Kind.INT or node.value in _INT64):
            return True
        self._error(
            line, path, f"{shown(node.text)} is read as a number, not as text: quote it if it is text"
        )
        return False

    def _check_ignored(self, key: ScalarNode, node: Node, path: str) -> None:
        """Report what upstream refuses even in ignored values other than metadata."""
        pending = [(key, node, path)]
        while pending:
            key, node, path = pending.pop()
            if key.text == "metadata":
                continue
            for item_path, item in _items(node, path):
                if isinstance(item, ScalarNode):
                    if item is node:
                        self._fits(item, path, key.line)
                    else:
                        self._error(item.line, item_path, f"must be a mapping, not {describe(item)}")
                elif isinstance(item, SequenceNode):
                    self._error(item.line, item_path, f"must be a mapping, not {describe(item)}")
                else:
                    self._warn_repeated(item.repeated, item_path)
                    pending += [
                        (inner, value, f"{item_path}.{inner.text}")
                        for inner, value in item.items
                        if self._unknown(inner, value, Level.DESCRIPTOR, item_path) is None
                    ]

    def _warn_repeated(self, keys: Iterable[ScalarNode], path: str) -> None:
        for key in keys:
            message = f"the key {quoted(key.text)} is repeated: the last value counts"
            if key.text in _SEVERAL:
                message += f"; {SEVERAL_LIMITS}"
            self._warn(key.line, path, message)


def _items(node: Node, path: str) -> Iterable[tuple[str, Node]]:
    if isinstance(node, SequenceNode):
        return [(f"{path}[{index}]", item) for index, item in enumerate(node.items)]
    return [(path, node)]


def _ending(hint: str) -> str:
    return f": {hint}" if hint else ""


def _is_null(node: Node) -> bool:
    return isinstance(node, ScalarNode) and node.kind is Kind.NULL


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """Return `text` for a message: one line, printable, and short."""
    return printable(shorten(text, LONGEST_SHOWN))


def quoted(text: str) -> str:
    """Return `text` for a message, in quotes."""
    return f"'{shown(text)}'"


def describe(node: Node) -> str:
    """Return what a node is, for the end of a message."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, SequenceNode):
        return "a list"
    if node.kind is Kind.NULL:
        return "nothing"
    return f"the text {quoted(node.text)}" if node.kind is Kind.STRING else shown(node.text)


def _named(key: ScalarNode) -> str:
    return f"{shown(key.text) or 'null'} ({key.kind.value})"
