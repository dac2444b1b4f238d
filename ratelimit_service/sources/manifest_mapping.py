"""Read the values of a manifest, whose keys are camelCase, and report problems with their place in it."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import NamedTuple

from ..core.errors import Problem
from ..core.rules.document import Kind, MappingNode, Node, ScalarNode, SequenceNode
from ..core.rules.fields import describe, quoted, shown
from ..core.rules.report import Report


class NamedItem(NamedTuple):
    """An item of a mapping whose keys are free names."""

    key: ScalarNode
    path: str
    value: Node


class ManifestMapping:
    """A mapping in a manifest. A key without a value counts as missing."""

    def __init__(self, report: Report, file: str, path: str, node: MappingNode) -> None:
        self.path = path
        self.line = node.line
        self._report = report
        self._file = file
        self._node = node
        self._found = {key.text: (key, value) for key, value in node.items if key.kind is Kind.STRING}
        for key in node.repeated:
            message = f"the key {quoted(key.text)} is repeated: the last value counts"
            report.warn(Problem(file, key.line, path, message))

    def only(self, known: Sequence[str]) -> ManifestMapping:
        """Report every key that is not one of `known`, and return the mapping itself."""
        for key, _ in self._node.items:
            if key.kind is not Kind.STRING or key.text not in known:
                near = [] if self._report.full else difflib.get_close_matches(key.text, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(known)}"
                self.problem(key.line, self.path, f"unknown key {quoted(key.text)}: {hint}")
        return self

    def at(self, name: str) -> str:
        """Return the path of the key `name`."""
        return f"{self.path}.{name}" if self.path else name

    def line_of(self, name: str) -> int:
        """Return the line of the key `name`, or of the mapping if it does not have that key."""
        return self._found[name][0].line if name in self._found else self.line

    def error(self, name: str, message: str) -> None:
        """Report an error about the value of `name`, or its absence."""
        self.problem(self.line_of(name), self.at(name), message)

    def warn(self, name: str, message: str) -> None:
        """Report a warning about `name`."""
        self._report.warn(Problem(self._file, self.line_of(name), self.at(name), message))

    def problem(self, line: int, path: str, message: str) -> None:
        """Report an error in the file."""
        self._report.error(Problem(self._file, line, path, message))

    def node(self, name: str) -> Node | None:
        """Return the value of `name`, of any kind; None if it is missing."""
        _, node = self._found.get(name, (None, None))
        return None if isinstance(node, ScalarNode) and node.kind is Kind.NULL else node

    def given(self, name: str) -> bool:
        """Return whether `name` has a value. As in protobuf, 0, false and an empty list count as missing."""
        node = self.node(name)
        if isinstance(node, ScalarNode):
            return bool(node.value)
        return node is not None and bool(node.items)

    def text(self, name: str) -> str | None:
        """Return the text of `name`, empty if it is missing; None after reporting another kind."""
        node = self.node(name)
        if node is None:
            return ""
        if isinstance(node, ScalarNode) and node.kind is Kind.STRING:
            return node.text
        self.error(name, f"must be text, not {describe(node)}")
        return None

    def mapping(self, name: str) -> MappingNode | None:
        """Return the mapping under `name`; None if it is missing, or after reporting another kind."""
        node = self.node(name)
        if node is None or isinstance(node, MappingNode):
            return node
        self.error(name, f"must be a mapping, not {describe(node)}")
        return None

    def child(self, name: str) -> ManifestMapping | None:
        """Return `mapping` as a ManifestMapping."""
        node = self.mapping(name)
        return ManifestMapping(self._report, self._file, self.at(name), node) if node else None

    def items(self, name: str) -> list[tuple[str, Node]]:
        """Return the items of the list under `name`, each with its path."""
        node = self.node(name)
        if isinstance(node, SequenceNode):
            return [(f"{self.at(name)}[{index}]", item) for index, item in enumerate(node.items)]
        if node is not None:
            self.error(name, f"must be a list, each item beginning with '- ', not {describe(node)}")
        return []

    def children(self, name: str) -> list[ManifestMapping]:
        """Return the items of the list under `name` that are mappings, after reporting the others."""
        found = []
        for path, item in self.items(name):
            if isinstance(item, MappingNode):
                found.append(ManifestMapping(self._report, self._file, path, item))
            else:
                self.problem(item.line, path, f"must be a mapping, not {describe(item)}")
        return found

    def named_items(self, name: str) -> list[NamedItem]:
        """Return the items of the mapping under `name`, whose keys are free names."""
        mapping = self.child(name)
        if mapping is None:
            return []
        return [
            NamedItem(key, f"{mapping.path}[{shown(key.text)}]", value) for key, value in mapping._node.items
        ]
