"""Taking values out of a document: each is of the right kind, or a Problem says what is there and what would be right.

Kinds are upstream's: where text is asked for, a whole number or a truth value means the characters that were written,
and nothing (`key:`) means empty text; a number with a fraction is never text, and text is never a number.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import Problem
from ..text import printable, shorten
from .document import Kind, Node, Scalar, Sequence
from .document import Mapping as MappingNode
from .guesses import Guess, guess, key_of_a_number
from .hints import amount_hint, flag_hint, limit_hint, looks_wrong
from .report import Report
from .vocabulary import KEYS, Level, harmless, known, misplaced

LONGEST_SHOWN = 80
"""How many characters of a value a message repeats."""

SEVERAL_LIMITS = "several limits are a list under rate_limits, each item beginning with '- '"
"""What to say to those who write them in another way."""

_SEVERAL = ("rate_limit", "unit")
"""The keys that stand twice where several limits are meant."""

_INT64 = range(-(2**63), 2**63)


class Fields:
    """The keys of one mapping that mean something at its level, checked; whatever else it has is reported.

    The readers answer None where a value is wrong, after reporting it.
    """

    def __init__(self, report: Report, file: str, level: Level, path: str, mapping: MappingNode) -> None:
        self.path = path
        self.line = mapping.line
        self.misplaced: set[str] = set()
        """The keys that cannot stand here, which has been reported."""
        self._report = report
        self._file = file
        self._nodes: dict[str, Node] = {}
        self._lines: dict[str, int] = {}
        strange: list[tuple[Scalar, Node, Guess]] = []
        for key, node in mapping.items:
            unknown = self._unknown(key, node, level, path)
            if unknown is not None:
                strange.append((key, node, unknown))
            elif key.text in KEYS[level]:
                self._nodes[key.text] = node
                self._lines[key.text] = key.line
            elif harmless(key.text, level):
                self._warn(key.line, self.at(key.text), misplaced(key.text, level))
                self._check_ignored(key, node, self.at(key.text))
            else:
                self._error(key.line, self.at(key.text), misplaced(key.text, level))
                self.misplaced.add(key.text)
        for key, node, unknown in strange:
            if unknown.meant and unknown.meant not in self._nodes:
                self._nodes[unknown.meant] = node
                self._lines[unknown.meant] = key.line
        self.unclear = any(not unknown.meant for _, _, unknown in strange)
        """Whether it has a key that may be meant for any that is missing here; that key has been reported."""
        self._warn_repeated([key for key in mapping.repeated if known(key.text)], path)

    def at(self, name: str) -> str:
        """The path of the key `name`; of the mapping itself where `name` is empty."""
        return f"{self.path}.{name}" if self.path and name else self.path or name

    def line_of(self, name: str) -> int:
        """The line of the key `name`, or of the mapping where it does not have that key."""
        return self._lines.get(name, self.line)

    def error(self, name: str, message: str) -> None:
        """Reports that the value of `name`, or its absence, is wrong."""
        self._error(self.line_of(name), self.at(name), message)

    def warn(self, name: str, message: str) -> None:
        """Reports that `name` is surely a mistake."""
        self._warn(self.line_of(name), self.at(name), message)

    def missing(self, name: str, message: str) -> None:
        """Reports that `name` is missing or empty, unless an unknown key may be the one that is missed."""
        if name in self._nodes or not self.unclear:
            self.error(name, message)

    def warn_of_looks(self, name: str, text: str) -> None:
        """Warns where `text`, which is that of `name`, has what an editor has put into it."""
        wrong = looks_wrong(text)
        if wrong:
            self.warn(name, wrong)

    def given(self, name: str) -> bool:
        """Whether `name` has a value other than null."""
        node = self._nodes.get(name)
        return node is not None and not _is_null(node)

    @property
    def hushed(self) -> bool:
        """Whether there are so many errors that no further ones will be told."""
        return self._report.full

    def text(self, name: str) -> str | None:
        """Text that is UTF-8; empty where there is none."""
        text = self.raw_text(name)
        if text is not None and not _is_unicode(text):
            self.error(name, "must be valid UTF-8")
            return None
        return text

    def raw_text(self, name: str) -> str | None:
        """Text that may have any bytes (as surrogate escapes); empty where there is none."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return ""
        if not isinstance(node, Scalar):
            self.error(name, f"must be text, not {describe(node)}")
            return None
        return node.text if self._fits(node, self.at(name), self._lines[name]) else None

    def scalar(self, name: str, wanted: str) -> Scalar | None:
        """What stands there, as it was written and of whatever kind; None where it is a list or a mapping, or nothing."""
        node = self._nodes.get(name)
        if isinstance(node, Scalar):
            return node
        if node is not None:
            self.error(name, f"must be {wanted}, not {describe(node)}")
        return None

    def choice(self, name: str, words: Iterable[str]) -> str | None:
        """One of `words`, in whatever case it is written; empty where there is none."""
        wanted = " or ".join(words)
        node = self.scalar(name, wanted) if self.given(name) else None
        if node is None:
            return None if self.given(name) else ""
        if node.text.lower() in words:
            return node.text.lower()
        self.error(name, f"must be {wanted}, not {describe(node)}")
        return None

    def flag(self, name: str) -> bool | None:
        """A truth value; False where there is none."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return False
        if isinstance(node, Scalar) and node.kind is Kind.BOOL:
            return bool(node.value)
        hint = _ending(flag_hint(node)) if isinstance(node, Scalar) else ""
        self.error(name, f"must be true or false, not {describe(node)}{hint}")
        return None

    def whole(self, name: str, least: int, most: int, absent: int) -> int | None:
        """A whole number from `least` to `most`; `absent` where there is none."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return absent
        if isinstance(node, Scalar) and node.kind is Kind.INT and least <= node.value <= most:
            return int(node.value)
        hint = ""
        if isinstance(node, Scalar):
            hint = _ending(amount_hint(node, least, most, endless=name.endswith("_per_unit")))
        self.error(name, f"must be a whole number from {least} to {most}, not {describe(node)}{hint}")
        return None

    def mapping(self, name: str, level: Level) -> Fields | None:
        """The mapping under `name`; None also where there is none."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return None
        if isinstance(node, MappingNode):
            return Fields(self._report, self._file, level, self.at(name), node)
        hint = ""
        if level is Level.RATE_LIMIT:
            hint = limit_hint(node.text) if isinstance(node, Scalar) else SEVERAL_LIMITS
        wanted = f"must be a mapping with keys such as {KEYS[level][0]!r}"
        self.error(name, f"{wanted}, not {describe(node)}{_ending(hint)}")
        return None

    def is_list(self, name: str) -> bool:
        """Whether a list stands under `name`."""
        return isinstance(self._nodes.get(name), Sequence)

    def mappings(self, name: str, level: Level, most: int | None = None) -> list[Fields]:
        """The mappings of the list under `name`, without those that are something else.

        With `most` the list, where there is one, has 1 to so many.
        """
        found = []
        for path, item in self._list(name, "each item beginning with '- '", most):
            if isinstance(item, MappingNode):
                found.append(Fields(self._report, self._file, level, path, item))
            else:
                wanted = f"must be a mapping such as '{KEYS[level][0]}: …', not {describe(item)}"
                self._error(item.line, path, wanted)
        return found

    def raw_texts(self, name: str, most: int, example: str) -> tuple[str, ...]:
        """The texts of the list under `name`, none of them empty or there twice; any bytes, as surrogate escapes."""
        found: dict[str, None] = {}
        for path, item in self._list(name, f"such as {example}", most):
            if not isinstance(item, Scalar) or item.kind is Kind.NULL:
                self._error(item.line, path, f"must be text, not {describe(item)}")
            elif not item.text:
                self._error(item.line, path, f"must not be empty: remove it, or write a text as in {example}")
            elif self._fits(item, path, item.line):
                if item.text in found:
                    self._error(item.line, path, f"{quoted(item.text)} stands in the list already: remove it")
                found[item.text] = None
        return tuple(found)

    def shares(self, name: str, most: int) -> tuple[float, ...]:
        """The numbers of the list under `name`, each above 0 and at most 1; ascending, and each once."""
        found = set()
        for path, item in self._list(name, "such as [0.5, 0.8, 1]", most):
            if isinstance(item, Scalar) and item.kind in (Kind.INT, Kind.FLOAT) and 0 < item.value <= 1:
                found.add(float(item.value))
            else:
                wanted = "must be a number above 0 and at most 1, such as 0.8 for 80 %"
                self._error(item.line, path, f"{wanted}, not {describe(item)}")
        return tuple(sorted(found))

    def _list(self, name: str, example: str, most: int | None) -> list[tuple[str, Node]]:
        """The items of the list under `name`, each with its path."""
        node = self._nodes.get(name)
        if node is None or _is_null(node):
            return []
        if not isinstance(node, Sequence):
            self.error(name, f"must be a list, {example}, not {describe(node)}")
            return []
        if most is not None and not 1 <= len(node.items) <= most:
            self.error(name, f"must have 1 to {most} items, not {len(node.items)}")
        return list(_items(node, self.at(name)))

    def struct(self, name: str) -> dict[str, Any] | None:
        """A mapping of anything that a protobuf Struct can hold, as plain data; None also where there is none."""
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
        if isinstance(node, Sequence):
            return [self._plain(item, f"{path}[{index}]") for index, item in enumerate(node.items)]
        if node.kind is Kind.STRING and not _is_unicode(node.text):
            self._error(node.line, path, "must be valid UTF-8")
        return node.value

    def _error(self, line: int, path: str, message: str) -> None:
        self._report.error(Problem(self._file, line, path, message))

    def _warn(self, line: int, path: str, message: str) -> None:
        self._report.warn(Problem(self._file, line, path, message))

    def _unknown(self, key: Scalar, node: Node, level: Level, path: str) -> Guess | None:
        """Report a key that the language does not have, and return what it may mean; None for all others."""
        if key.kind is Kind.STRING and known(key.text):
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

    def _fits(self, node: Scalar, path: str, line: int) -> bool:
        """Whether upstream takes this scalar wherever nobody asks for a number with a fraction."""
        if node.kind is not Kind.FLOAT and (node.kind is not Kind.INT or node.value in _INT64):
            return True
        self._error(
            line, path, f"{shown(node.text)} is read as a number, not as text: quote it if it is text"
        )
        return False

    def _check_ignored(self, key: Scalar, node: Node, path: str) -> None:
        """Upstream refuses unknown keys and odd values also where nobody reads them, except in metadata."""
        pending = [(key, node, path)]
        while pending:
            key, node, path = pending.pop()
            if key.text == "metadata":
                continue
            for item_path, item in _items(node, path):
                if isinstance(item, Scalar):
                    if item is node:
                        self._fits(item, path, key.line)
                    else:
                        self._error(item.line, item_path, f"must be a mapping, not {describe(item)}")
                elif isinstance(item, Sequence):
                    self._error(item.line, item_path, f"must be a mapping, not {describe(item)}")
                else:
                    self._warn_repeated(item.repeated, item_path)
                    pending += [
                        (inner, value, f"{item_path}.{inner.text}")
                        for inner, value in item.items
                        if self._unknown(inner, value, Level.DESCRIPTOR, item_path) is None
                    ]

    def _warn_repeated(self, keys: Iterable[Scalar], path: str) -> None:
        for key in keys:
            message = f"the key {quoted(key.text)} is given more than once: what is given last counts"
            if key.text in _SEVERAL:
                message += f"; {SEVERAL_LIMITS}"
            self._warn(key.line, path, message)


def _items(node: Node, path: str) -> Iterable[tuple[str, Node]]:
    if isinstance(node, Sequence):
        return [(f"{path}[{index}]", item) for index, item in enumerate(node.items)]
    return [(path, node)]


def _ending(hint: str) -> str:
    return f": {hint}" if hint else ""


def _is_null(node: Node) -> bool:
    return isinstance(node, Scalar) and node.kind is Kind.NULL


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def shown(text: str) -> str:
    """`text` as it can stand in a message: one line, printable, not long."""
    return printable(shorten(text, LONGEST_SHOWN))


def quoted(text: str) -> str:
    """`text` in quotes, as it can stand in a message."""
    return f"'{shown(text)}'"


def describe(node: Node) -> str:
    """What a node is, for the end of a sentence."""
    if isinstance(node, MappingNode):
        return "a mapping"
    if isinstance(node, Sequence):
        return "a list"
    if node.kind is Kind.NULL:
        return "nothing"
    return f"the text {quoted(node.text)}" if node.kind is Kind.STRING else shown(node.text)


def _named(key: Scalar) -> str:
    return f"{shown(key.text) or 'null'} ({key.kind.value})"
