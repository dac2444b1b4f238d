"""PyYAML's syntax errors in words that say where to look and what to change."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import yaml

_TAB = "a tab: indent with spaces"
_PLAIN_WORDS = (
    (
        "mapping values are not allowed",
        "an unexpected ':': check the indentation, or quote the text",
    ),
    ("could not find expected ':'", "a key without its ':'"),
    (
        "did not find expected key",
        "expected a key of this mapping or its end: check the indentation, or quote the text",
    ),
    (
        "did not find expected '-' indicator",
        "expected '- ' for the next item of this list, or its end: check the indentation",
    ),
    ("did not find expected ',' or ']'", "expected ',' or ']'"),
    ("did not find expected ',' or '}'", "expected ',' or '}'"),
    ("found unexpected end of stream", "the file ends inside a quoted text: close the quote"),
    ("found a tab character", _TAB),
)
_CONTEXTS = (
    ("flow sequence", "list"),
    ("flow mapping", "mapping"),
    ("block collection", "list"),
    ("block mapping", "mapping"),
    ("quoted scalar", "quoted text"),
    ("simple key", "key"),
)
_STAR = (
    "a text cannot begin with '*': quote it, as in value: '*.example.com', "
    "and to match any value leave `value` out"
)
_NAMED = {
    "while scanning an alias": _STAR,
    "while scanning an anchor": "a text cannot begin with '&': quote it",
}
"""The errors about a character that a name must follow, by PyYAML's context."""

_no_space = re.compile(r"^[ \t]*(?:- +)?([A-Za-z_]+):(?=[^\s:/])")
_ODD_SPACE = re.compile("[\u00a0\u2007\u202f\u200b\ufeff]")


def explain(error: yaml.YAMLError, data: bytes, at: Callable[[int], int]) -> tuple[int, str]:
    """Return the line of a syntax error, and what is wrong. `at` maps lines of `data` to those to report."""
    if isinstance(error, yaml.reader.ReaderError):
        line = at(data.count(b"\n", 0, error.position) + 1)
        if "UTF" in error.reason or error.encoding == "utf-8":
            return line, f"the byte 0x{error.character:02X} is not UTF-8 here: save the file as UTF-8"
        return line, f"a character that YAML does not allow (U+{error.character:04X}): remove or escape it"
    if not isinstance(error, yaml.MarkedYAMLError):
        return at(0), f"not valid YAML: {error}"
    line, problem = at(line_of(error.problem_mark)), error.problem or "cannot be parsed"
    if problem.startswith("found character") and "cannot start any token" in problem:
        char = _char_at(error.problem_mark, data)
        what = _TAB if char == "\t" else f"a text cannot begin with {char!r}: quote it"
        return line, f"not valid YAML: {what}"
    if error.context in _NAMED:
        return line, f"not valid YAML: {_NAMED[error.context]}"
    what = next((plain for start, plain in _PLAIN_WORDS if problem.startswith(start)), problem)
    context = next((plain for words, plain in _CONTEXTS if words in (error.context or "")), "")
    if context and error.context_mark is not None:
        what += f" (in the {context} that begins at line {at(line_of(error.context_mark))})"
    found = _cause_in_lines(error, data)
    if found is not None:
        return at(found[0]), f"not valid YAML: {found[1]}"
    return line, f"not valid YAML: {what}"


def _cause_in_lines(error: yaml.MarkedYAMLError, data: bytes) -> tuple[int, str] | None:
    """Return the cause of an error that PyYAML reports later, such as a ':' without a space, and its line."""
    lines = data.decode("utf-8", "replace").splitlines()
    number = line_of(error.problem_mark)
    for each in (number, number - 1):
        line = lines[each - 1] if 0 < each <= len(lines) else ""
        odd = _ODD_SPACE.search(line)
        if odd is not None:
            return each, f"a space that YAML does not know (U+{ord(odd[0]):04X}): write an ordinary space"
        glued = _no_space.match(line)
        if glued is not None:
            return each, f"a space is missing after '{glued[1]}:'"
    return None


def _char_at(mark: Any, data: bytes) -> str:
    lines = data.decode("utf-8", "replace").splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return line[mark.column : mark.column + 1]


def line_of(mark: Any) -> int:
    """Return the line of a mark, from 1 on."""
    return int(mark.line) + 1 if mark is not None else 1
