"""What PyYAML says of text that is no YAML, in words that say where to look and what to change."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import yaml

_PLAIN_WORDS = (
    (
        "mapping values are not allowed",
        "a ':' that the text before it does not allow: check the indentation, or quote",
    ),
    ("could not find expected ':'", "a key without its ':'"),
    (
        "did not find expected key",
        "neither a key of this mapping nor its end: check the indentation, or quote the text",
    ),
    (
        "did not find expected '-' indicator",
        "neither '- ' for the next item of this list nor its end: check the indentation",
    ),
    ("did not find expected ',' or ']'", "expected ',' or ']'"),
    ("did not find expected ',' or '}'", "expected ',' or '}'"),
    ("found unexpected end of stream", "the file ends inside a quoted text: close the quote"),
)
_CONTEXTS = (
    ("flow sequence", "list"),
    ("flow mapping", "mapping"),
    ("block collection", "list"),
    ("block mapping", "mapping"),
    ("quoted scalar", "quoted text"),
    ("simple key", "key"),
)


def explain(error: yaml.YAMLError, data: bytes, at: Callable[[int], int]) -> tuple[int, str]:
    """The line of a syntax error, and what is wrong there in plain words; `at` says what a line of `data` is called."""
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
        what = "a tab: indent with spaces" if char == "\t" else f"a text cannot begin with {char!r}: quote it"
        return line, f"not valid YAML: {what}"
    what = next((plain for start, plain in _PLAIN_WORDS if problem.startswith(start)), problem)
    context = next((plain for words, plain in _CONTEXTS if words in (error.context or "")), "")
    if context and error.context_mark is not None:
        what += f" (in the {context} that begins at line {at(line_of(error.context_mark))})"
    return line, f"not valid YAML: {what}"


def _char_at(mark: Any, data: bytes) -> str:
    lines = data.decode("utf-8", "replace").splitlines()
    line = lines[mark.line] if mark.line < len(lines) else ""
    return line[mark.column : mark.column + 1]


def line_of(mark: Any) -> int:
    """The line of a place in the text, from 1 on."""
    return int(mark.line) + 1 if mark is not None else 1
