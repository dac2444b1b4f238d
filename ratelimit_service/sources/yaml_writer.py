"""From a document to YAML text with the same meaning, in the style of configuration files.

Text that YAML 1.1 would resolve to another kind (`yes`, `010`, `1.5`, `2024-01-01`, `12:30`) is quoted.
Numbers, truth values and null keep their raw text. Aliases and merges are expanded.
"""

from __future__ import annotations

import base64
import re

from ..core.rules.document import Document, Kind, Node, ScalarNode, SequenceNode
from ..core.text import printable
from .yaml_text import resolve

_LONGEST_KEY = 120
"""The characters of a key before its `:`, of which YAML allows 1024. A longer key is written after a `?`."""

_plain = re.compile(r"[A-Za-z_/][A-Za-z0-9_./@*+-]*( [A-Za-z0-9_./@*+-]+)*")
_TAGS = {Kind.INT: "!!int", Kind.FLOAT: "!!float", Kind.BOOL: "!!bool", Kind.NULL: "!!null"}


def write(document: Document) -> str:
    """Return the text of a configuration file, with a comment about its source at the top."""
    place = f"{document.file}:{document.line}: {document.path}" if document.path else document.file
    lines = [f"# From {printable(place)}"]
    if document.root is not None:
        lines += _lines(document.root)
    return "\n".join(lines) + "\n"


def _lines(node: Node) -> list[str]:
    if isinstance(node, ScalarNode):
        return [scalar(node)]
    lines: list[str] = []
    if isinstance(node, SequenceNode):
        for item in node.items:
            first, *rest = _lines(item)
            lines.append(f"- {first}")
            lines += [f"  {line}" for line in rest]
        return lines or ["[]"]
    for key, value in node.items:
        name, below = scalar(key), _lines(value)
        if len(name) > _LONGEST_KEY:
            lines.append(f"? {name}")
            name = ""
        if isinstance(value, ScalarNode) or not value.items:
            lines.append(f"{name}: {below[0]}")
        else:
            lines.append(f"{name}:")
            lines += [f"  {line}" for line in below]
    return lines or ["{}"]


def scalar(node: ScalarNode) -> str:
    """Return a scalar in one line. Reading it returns the same kind, text and value."""
    if node.kind is Kind.STRING:
        return _text(node.text)
    if resolve(node.text)[0] is node.kind:
        return node.text or "null"
    return f"{_TAGS[node.kind]} {_text(node.text)}"


def _text(text: str) -> str:
    if _plain.fullmatch(text) and resolve(text)[0] is Kind.STRING:
        return text
    if text.isprintable():
        quoted = text.replace("'", "''")
        return f"'{quoted}'"
    try:
        text.encode()
    except UnicodeEncodeError:
        return f'!!binary "{base64.b64encode(text.encode("utf-8", "surrogateescape")).decode()}"'
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(char: str) -> str:
    if char in '"\\':
        return "\\" + char
    if char.isprintable():
        return char
    if char == "\n":
        return "\\n"
    return f"\\x{ord(char):02x}" if ord(char) < 0x100 else f"\\U{ord(char):08x}"
