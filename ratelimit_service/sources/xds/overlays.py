"""Overlays: rule keys for the descriptors of a control plane, whose protocol does not have them.

An overlay has the form of a configuration file: a domain, and descriptors in descriptors. Its keys replace or
complete those of the same descriptor of a resource. An overlay adds no descriptors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

from ...core.errors import Problem
from ...core.rules.document import Document, MappingNode, Node, ScalarNode, SequenceNode
from ...core.rules.fields import shown

Overlays = Mapping[str, Document]
"""Overlays by their domains."""

_IDENTITY = ("key", "value", "descriptors")
_AMOUNTS = ("requests_per_unit", "tokens_per_unit", "unlimited")


def by_domain(documents: Sequence[Document]) -> tuple[Overlays, list[Problem]]:
    """Return overlays by domain, and the problems of those without a domain or with one that is taken."""
    found: dict[str, Document] = {}
    problems = []
    for document in documents:
        domain = _at(document.root, "domain")
        if not isinstance(domain, ScalarNode) or not domain.text:
            message = "an overlay must have a domain, and descriptors as a configuration file has them"
            problems.append(Problem(document.file, document.line, document.path, message))
        elif domain.text in found:
            other = found[domain.text].file
            message = f"{shown(domain.text)} has its overlay at {other} already: put them together"
            problems.append(Problem(document.file, domain.line, "domain", message))
        else:
            found[domain.text] = document
    return found, problems


def lay(below: MappingNode, above: MappingNode, *, but: Sequence[str] = _IDENTITY) -> None:
    """Copy the keys of `above` to `below`, replacing those that exist.

    The keys of a rate_limit are copied one by one.
    """
    said = {key.text: (key, node) for key, node in above.items if key.text not in but}
    if "rate_limits" in said:
        _drop(below, "rate_limit")
    there, limit = _at(below, "rate_limit"), said.get("rate_limit")
    if limit is not None and isinstance(limit[1], MappingNode) and isinstance(there, MappingNode):
        _lay_limit(there, limit[1])
        del said["rate_limit"]
    # One pass for all keys: metadata may have any number of them.
    below.items = [(key, value) for key, value in below.items if key.text not in said]
    below.items += [(key, _own(node)) for key, node in said.values()]
    below.repeated += [key for key in above.repeated if key.text not in but]


def _lay_limit(below: MappingNode, above: MappingNode) -> None:
    """Apply the keys of a rate_limit. Its amount replaces an amount of any kind."""
    names = {key.text for key, _ in above.items}
    if names.intersection(_AMOUNTS):
        for amount in _AMOUNTS:
            _drop(below, amount)
    if "unlimited" in names:
        _drop(below, "unit")
    lay(below, above, but=())


def lay_over(document: Document, overlay: Document) -> list[Problem]:
    """Apply an overlay to a document of its domain.

    Return a warning for each descriptor that the document lacks.
    """
    if not isinstance(document.root, MappingNode) or not isinstance(overlay.root, MappingNode):
        return []
    document.overlay = overlay.file
    lay(document.root, overlay.root, but=("domain", "descriptors"))
    return list(_lay_descriptors(document.root, overlay.root, overlay.file, overlay.path))


def _lay_descriptors(below: MappingNode, above: MappingNode, file: str, path: str) -> Iterator[Problem]:
    there = {_identity(each): each for _, each in _descriptors(below, "")}
    for place, wanted in _descriptors(above, path):
        found = there.get(_identity(wanted))
        if found is None:
            message = "has no effect: the control plane sends no such descriptor"
            yield Problem(file, wanted.line, place, message)
            continue
        lay(found, wanted)
        yield from _lay_descriptors(found, wanted, file, place)


def _descriptors(node: MappingNode, path: str) -> Iterator[tuple[str, MappingNode]]:
    below = _at(node, "descriptors")
    if isinstance(below, SequenceNode):
        for place, item in enumerate(below.items):
            if isinstance(item, MappingNode):
                yield f"{path}.descriptors[{place}]" if path else f"descriptors[{place}]", item


def _identity(descriptor: MappingNode) -> tuple[str, str]:
    return _text(_at(descriptor, "key")), _text(_at(descriptor, "value"))


def _text(node: Node | None) -> str:
    return node.text if isinstance(node, ScalarNode) else ""


def _own(node: Node) -> Node:
    """Return a copy of the outermost mapping, because documents must not share the nodes of an overlay."""
    return (
        MappingNode(node.line, list(node.items), list(node.repeated))
        if isinstance(node, MappingNode)
        else node
    )


def _at(node: Node | None, name: str) -> Node | None:
    if isinstance(node, MappingNode):
        for key, value in node.items:
            if key.text == name:
                return value
    return None


def _drop(node: MappingNode, name: str) -> None:
    node.items = [(key, value) for key, value in node.items if key.text != name]
