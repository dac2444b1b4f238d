"""Other people's text, made fit to be shown: in a log line, an error, an answer.

What comes out is one line, and nothing in it acts on a terminal. Escaping what is escaped already changes nothing, so it
does no harm to do it twice.
"""

from __future__ import annotations

import re
from functools import lru_cache

_HIDDEN = "***"
_URL = re.compile(r"://(\S*)")
_PARAMETER = re.compile(r"(?<=[?&]password=)[^&]*")


_LONG = 16_384

_MOST_REMEMBERED = 4_096


class _Escapes(dict[int, str]):
    """What is shown for each code point, for `str.translate`: a loop in Python takes ten times as long.

    It remembers some of them; strangers have a million to choose from.
    """

    def __missing__(self, code: int) -> str:
        if len(self) >= _MOST_REMEMBERED:
            self.clear()
        shown = self[code] = self._shown(code)
        return shown

    def _shown(self, code: int) -> str:
        char = chr(code)
        return char if char.isprintable() else char.encode("unicode_escape").decode()


class _EscapesOfBytes(_Escapes):
    """The same for bytes decoded with `surrogateescape`: each that is not UTF-8 is a surrogate, and shown as the byte."""

    def _shown(self, code: int) -> str:
        return f"\\x{code - 0xDC00:02x}" if 0xDC80 <= code <= 0xDCFF else super()._shown(code)


_of_text, _of_bytes = _Escapes(), _EscapesOfBytes()


def show(value: bytes) -> str:
    """A descriptor's key or value for people: UTF-8 as it is, every other byte and control character escaped."""
    text = value.decode(errors="surrogateescape")
    return text if text.isprintable() else text.translate(_of_bytes)


def excerpt(value: bytes, longest: int) -> str:
    """As `show`, of the first `longest` bytes, and a note of how many there were: a value may be megabytes long."""
    if len(value) <= longest:
        return show(value)
    return f"{show(value[:longest])}… ({len(value)} bytes)"


def printable(text: str) -> str:
    """`text` with everything that is not printable escaped: newlines, ESC, bidirectional marks, lone surrogates."""
    return text if text.isprintable() else text.translate(_of_text)


@lru_cache(maxsize=4_096)
def header_text(name: str) -> str:
    """`name` as it can stand between the quotes of an x-ratelimit header: printable ASCII without quotes and backslashes.

    Envoy writes the names of limits into that header without escaping them.
    """
    return "".join([char if " " <= char <= "~" and char not in '"\\' else "_" for char in name])


def shorten(text: str, longest: int) -> str:
    """The first `longest` characters of `text`, and a note of how many there were."""
    return text if len(text) <= longest else f"{text[:longest]}… ({len(text)} characters)"


def fit(text: str, longest: int) -> str:
    """`text` printable and in one line, of `longest` characters at most and a note of how many there were.

    Of a text of megabytes only the beginning is looked at: to escape all of it takes a tenth of a second.
    """
    if len(text) <= _LONG:
        return shorten(printable(text), longest)
    return f"{printable(text[:longest])[:longest]}… ({len(text)} characters)"


def hide_credentials(text: str) -> str:
    """`text` with the user and password of every URL in it replaced: `redis://***@host`, `?password=***`."""
    if "://" not in text:
        return text
    return _URL.sub(_without_credentials, text)


def _without_credentials(url: re.Match[str]) -> str:
    # A password may hold an unescaped @ or /, so everything up to the last @ goes.
    _, at, place = url[1].rpartition("@")
    return f"://{_HIDDEN if at else ''}{at}{_PARAMETER.sub(_HIDDEN, place)}"
