"""Taking values out of a manifest, whose keys are camelCase, and saying where in it something is wrong."""

from __future__ import annotations

import difflib
from collections.abc import Sequence

from ..core.errors import Problem
from ..core.rules.document import Kind, Mapping, Node, Scalar
from ..core.rules.document import Sequence as SequenceNode
from ..core.rules.fields import describe, quoted, shown
from ..core.rules.report import Report


class Part:
    """A mapping in a manifest. A key with nothing after it counts as one that is not there."""

    def __init__(self, report: Report, file: str, path: str, node: Mapping) -> None:
        self.path = path
        self.line = node.line
        self._report = report
        self._file = file
        self._node = node
        self._found = {key.text: (key, value) for key, value in node.items if key.kind is Kind.STRING}
        for key in node.repeated:
            message = f"the key {quoted(key.text)} is given more than once: what is given last counts"
            report.warn(Problem(file, key.line, path, message))

    def only(self, known: Sequence[str]) -> Part:
        """This part, after reporting every key that is not one of `known`."""
        for key, _ in self._node.items:
            if key.kind is not Kind.STRING or key.text not in known:
                near = [] if self._report.full else difflib.get_close_matches(key.text, known, 1)
                hint = f"did you mean {near[0]!r}?" if near else f"the keys here are {', '.join(known)}"
                self.problem(key.line, self.path, f"unknown key {quoted(key.text)}: {hint}")
        return self

    def at(self, name: str) -> str:
        """The path of the key `name`."""
        return f"{self.path}.{name}" if self.path else name

    def line_of(self, name: str) -> int:
        """The line of the key `name`, or of the mapping where it does not have that key."""
        return self._found[name][0].line if name in self._found else self.line

    def error(self, name: str, message: str) -> None:
        """Reports that the value of `name`, or its absence, is wrong."""
        self.problem(self.line_of(name), self.at(name), message)

    def warn(self, name: str, message: str) -> None:
        """Reports something about `name` that one should know."""
        self._report.warn(Problem(self._file, self.line_of(name), self.at(name), message))

    def problem(self, line: int, path: str, message: str) -> None:
        """Reports that something in the file is wrong."""
        self._report.error(Problem(self._file, line, path, message))

    def node(self, name: str) -> Node | None:
        """What `name` has, whatever it is; None where there is nothing."""
        _, node = self._found.get(name, (None, None))
        return None if isinstance(node, Scalar) and node.kind is Kind.NULL else node

    def given(self, name: str) -> bool:
        """Whether `name` says anything: as in protobuf, 0, false and an empty list do not."""
        node = self.node(name)
        if isinstance(node, Scalar):
            return bool(node.value)
        return node is not None and bool(node.items)

    def text(self, name: str) -> str | None:
        """The text that `name` has, empty where there is none; None, after reporting it, where it is something else."""
        node = self.node(name)
        if node is None:
            return ""
        if isinstance(node, Scalar) and node.kind is Kind.STRING:
            return node.text
        self.error(name, f"must be text, not {describe(node)}")
        return None

    def mapping(self, name: str) -> Mapping | None:
        """The mapping under `name`; None where there is none, or, after reporting it, something else."""
        node = self.node(name)
        if node is None or isinstance(node, Mapping):
            return node
        self.error(name, f"must be a mapping, not {describe(node)}")
        return None

    def part(self, name: str) -> Part | None:
        """The same, as a part."""
        node = self.mapping(name)
        return Part(self._report, self._file, self.at(name), node) if node else None

    def items(self, name: str) -> list[tuple[str, Node]]:
        """The items of the list under `name`, each with its path."""
        node = self.node(name)
        if isinstance(node, SequenceNode):
            return [(f"{self.at(name)}[{index}]", item) for index, item in enumerate(node.items)]
        if node is not None:
            self.error(name, f"must be a list, each item beginning with '- ', not {describe(node)}")
        return []

    def parts(self, name: str) -> list[Part]:
        """The mappings of the list under `name`; an item that is none is reported."""
        found = []
        for path, item in self.items(name):
            if isinstance(item, Mapping):
                found.append(Part(self._report, self._file, path, item))
            else:
                self.problem(item.line, path, f"must be a mapping, not {describe(item)}")
        return found

    def entries(self, name: str) -> list[tuple[Scalar, str, Node]]:
        """Key, path and value of each entry of the mapping under `name`, whose keys are names that people chose."""
        part = self.part(name)
        if part is None:
            return []
        return [(key, f"{part.path}[{shown(key.text)}]", value) for key, value in part._node.items]
