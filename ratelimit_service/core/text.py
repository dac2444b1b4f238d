"""Untrusted text made safe to show: in a log line, an error, an answer.

The result is one line without control sequences for a terminal. Escaping it again changes nothing.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence

_HIDDEN = "***"
_plain_header = re.compile(r"[ !#-\[\]-~]*").fullmatch
_URL = re.compile(r"://(\S*)")
_PARAMETER = re.compile(r"(?<=[?&]password=)[^&]*")


_LONG = 16_384
"""The characters of a text that `fit` escapes as a whole."""

_MOST_CACHED = 4_096

_DOMAINS_SHOWN = 20


class _Escapes(dict[int, str]):
    """A table for `str.translate` that escapes unprintable code points, ten times as fast as a loop.

    It caches a bounded number of them, because callers can send a million.
    """

    def __missing__(self, code: int) -> str:
        if len(self) >= _MOST_CACHED:
            self.clear()
        text = self[code] = self._text(code)
        return text

    def _text(self, code: int) -> str:
        char = chr(code)
        return char if char.isprintable() else char.encode("unicode_escape").decode()


class _EscapesOfBytes(_Escapes):
    """A table for bytes decoded with `surrogateescape`: it shows surrogates as the bytes they stand for."""

    def _text(self, code: int) -> str:
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else super()._text(code)


_escapes, _escapes_of_bytes = _Escapes(), _EscapesOfBytes()

_BYTES = [bytes((byte,)).decode(errors="surrogateescape").translate(_escapes_of_bytes) for byte in range(256)]
"""Each byte, where it is not part of a longer character."""


def show(value: bytes) -> str:
    """Return a key or value of a descriptor as text, with escapes for control characters and non-UTF-8."""
    text = value.decode(errors="surrogateescape")
    if text.isprintable():
        return text
    if value.decode(errors="ignore").isascii():  # four times as fast as the table for characters
        return "".join([_BYTES[byte] for byte in value])
    return text.translate(_escapes_of_bytes)


def excerpt(value: bytes, longest: int) -> str:
    """Return `show` of the first `longest` bytes, and a note of the size if there are more."""
    if len(value) <= longest:
        return show(value)
    return f"{show(value[:longest])}… ({len(value)} bytes)"


def printable(text: str) -> str:
    """Return `text` with unprintable characters escaped: newlines, ESC, bidi marks, lone surrogates."""
    return text if text.isprintable() else text.translate(_escapes)


def header_text(name: str) -> str:
    """Return `name` as printable ASCII without quotes and backslashes, for an x-ratelimit header.

    Envoy copies the names of limits into that header without escaping them.
    """
    if _plain_header(name):
        return name
    return "".join([char if " " <= char <= "~" and char not in '"\\' else "_" for char in name])


def shorten(text: str, longest: int) -> str:
    """Return the first `longest` characters of `text`, and a note of the length if there are more."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


def fit(text: str, longest: int) -> str:
    """Return at most `longest` printable characters of `text`, and a note of the length if there are more.

    It escapes only the beginning of a long text: escaping megabytes takes a tenth of a second.
    """
    if len(text) <= _LONG:
        return shorten(printable(text), longest)
    return f"{printable(text[:longest])[:longest]}… ({len(text)} characters)"


def either(names: Iterable[str], word: str = "or") -> str:
    """Return `a`, `a or b`, or `a, b or c`, with another word if it is given."""
    *others, last = names
    return f"{', '.join(others)} {word} {last}" if others else last


def unknown_domain(domain: str, known: Sequence[str]) -> str:
    """Return a sentence about a domain without rules, with those that the service knows."""
    import difflib

    near = difflib.get_close_matches(domain, known, 1)
    if near:
        hint = f"did you mean '{printable(near[0])}'?"
    else:
        shown = printable(", ".join(known[:_DOMAINS_SHOWN])) + (", …" if len(known) > _DOMAINS_SHOWN else "")
        hint = f"its domains are {shown}" if known else "it has no domains"
    return f"the service has no rules for the domain '{printable(domain)}': {hint}"


def hide_credentials(text: str) -> str:
    """Return `text` without the credentials of its URLs: `redis://***@host`, `?password=***`."""
    if "://" not in text:
        return text
    return _URL.sub(_without_credentials, text)


def _without_credentials(url: re.Match[str]) -> str:
    # A password may contain an unescaped @ or /, so everything up to the last @ is hidden.
    _, at, place = url[1].rpartition("@")
    return f"://{_HIDDEN if at else ''}{at}{_PARAMETER.sub(_HIDDEN, place)}"
