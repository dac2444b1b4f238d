"""The types of settings: each reads the text of a variable as Go does, and validates it.

A reader raises ValueError with the rest of a sentence that begins with the name and the text of the variable:
"is not a port: give one from 0 to 65535".
"""

from __future__ import annotations

import math
import re
from typing import Annotated, NamedTuple

from ..core.text import either
from .field import Context, Reader, reader

_TRUE = frozenset(("1", "t", "T", "TRUE", "true", "True"))
_FALSE = frozenset(("0", "f", "F", "FALSE", "false", "False"))

_NANOSECONDS = {
    "ns": 1,
    "us": 1_000,
    "\u00b5s": 1_000,  # the micro sign
    "\u03bcs": 1_000,  # the Greek letter
    "ms": 1_000_000,
    "s": 1_000_000_000,
    "m": 60_000_000_000,
    "h": 3_600_000_000_000,
}
_SPAN = re.compile(r"(?P<whole>[0-9]*)(?:\.(?P<fraction>[0-9]*))?(?P<unit>[^0-9.]+)")
_LONGEST = 2**63 - 1
"""Nanoseconds of Go's longest duration: 292 years."""

_OCTAL = re.compile(r"^([+-]?)0(?=_?[0-7])")
_HOST = re.compile(r"[A-Za-z0-9._-]*|\[[0-9A-Za-z:.%_-]+\]")
_PORT = re.compile(r"[0-9]{1,9}")
_HEADER = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]*")


def read_text(text: str) -> str:
    """Read text. Raises ValueError for bytes that are not UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise ValueError("is not UTF-8: give text without other bytes") from None
    return text


def read_key_prefix(text: str) -> str:
    """Read text. If it has braces, they must be a hash tag of Redis."""
    _, brace, rest = read_text(text).partition("{")
    tag, closed, _ = rest.partition("}")
    if brace and not (tag and closed):
        raise ValueError(
            "has braces without a hash tag, so that Redis Cluster would spread the windows of a bucket: "
            "give some text between them, such as {rl}:, or no braces"
        )
    return text


def read_bool(text: str) -> bool:
    """Read a boolean, as Go's ParseBool does."""
    if text in _TRUE:
        return True
    if text in _FALSE:
        return False
    raise ValueError("is not a boolean: give true or false (or 1, t, T, TRUE, True, 0, f, F, FALSE, False)")


def read_duration(text: str) -> float:
    """Read a duration in seconds, as Go's ParseDuration does: "24h", "1h30m", "1.5s", "150us", "0".

    Never negative.
    """
    wrong = ValueError("is not a duration: give numbers with units, such as 24h, 1h30m, 1.5s, 150us, or 0")
    rest = text.removeprefix("+")
    if rest == "0":
        return 0.0
    total = position = 0
    while position < len(rest):
        span = _SPAN.match(rest, position)
        if span is None or not (span["whole"] or span["fraction"]) or span["unit"] not in _NANOSECONDS:
            raise wrong
        digits = f"{span['whole']}{span['fraction'] or ''}"
        if len(digits) > 40:
            raise wrong
        total += int(digits) * _NANOSECONDS[span["unit"]] // 10 ** len(span["fraction"] or "")
        position = span.end()
    if not rest or total > _LONGEST:
        raise wrong
    return total / 1e9


def read_positive_duration(text: str) -> float:
    """Read a duration of more than 0 s."""
    seconds = read_duration(text)
    if not seconds:
        raise ValueError("is not a positive duration: give more than 0, such as 1s or 250ms")
    return seconds


def read_ratio(text: str) -> float:
    """Read a finite number of at least 0."""
    try:
        number = math.nan if "_" in text or text != text.strip() else float(text)
    except ValueError:
        number = math.nan
    if not 0 <= number < math.inf:
        raise ValueError("is not a ratio: give a number from 0 to 1, such as 0.8")
    return number


def read_share(text: str) -> float:
    """Read a number from 0 to 1."""
    number = read_ratio(text)
    if number > 1:
        raise ValueError("is more than 1: give a number from 0 to 1, such as 0.1 for a tenth")
    return number


def read_list(text: str) -> tuple[str, ...]:
    """Read elements separated by commas, without surrounding space; empty elements are dropped."""
    return tuple(part.strip() for part in read_text(text).split(",") if part.strip())


def read_header(text: str) -> str:
    """Read the name of a response header, or an empty text."""
    if not _HEADER.fullmatch(text):
        raise ValueError(
            "is not the name of a header: give letters, digits and dashes, such as RateLimit-Limit"
        )
    return text


def read_path(text: str) -> str:
    """Read the path of a URL."""
    if not text.startswith("/") or not re.fullmatch(r"[!-~]+", text):
        raise ValueError("is not a path: give one that begins with a slash, such as /metrics")
    return text


class HostPort(NamedTuple):
    """An address. An empty `host` means every address of the machine, `port` 0 any free port."""

    host: str
    port: int


def host_port(text: str) -> HostPort:
    """Read an address as Go writes it: ":9090", "localhost:9090", "[::1]:9090"."""
    host, colon, digits = text.rpartition(":")
    if not colon or not _HOST.fullmatch(host) or not _PORT.fullmatch(digits) or int(digits) > 65535:
        raise ValueError("is not an address: give host:port, such as :9090, 127.0.0.1:9090 or [::1]:9090")
    return HostPort(host.strip("[]"), int(digits))


def read_address(text: str) -> str:
    """Return `text` if `host_port` can read it."""
    host_port(text)
    return text


class SecretText:
    """A text that is not shown in representations, and so not in logs."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """Return the text."""
        return self._text

    def __repr__(self) -> str:
        return "SecretText(***)"


def read_secret(text: str) -> SecretText:
    """Read text that is never shown."""
    return SecretText(read_text(text))


def whole_number(lowest: int, highest: int = 2**31 - 1, noun: str = "a whole number") -> Reader:
    """Return a reader of Go's integers (decimal, 0x, 0o, 0b, and octal after a 0) from `lowest` to
    `highest`.
    """

    def read(text: str) -> int:
        try:
            number = (
                int(_OCTAL.sub(r"\g<1>0o", text), 0) if re.fullmatch(r"[+-]?[0-9A-Za-z_]+", text) else None
            )
        except ValueError:
            number = None
        if number is None or not lowest <= number <= highest:
            raise ValueError(f"is not {noun}: give one from {lowest} to {highest}")
        return number

    return reader(read)


AUTO = 0
"""The value of WORKERS=auto."""

_MOST_WORKERS = 256


def workers(text: str, context: Context) -> int:
    """Read a number of workers, or auto."""
    if text.lower() == "auto":
        return AUTO
    try:
        number: int = whole_number(1, _MOST_WORKERS)(text, context)
    except ValueError:
        raise ValueError(f"is not a number of workers: give one from 1 to {_MOST_WORKERS}, or auto") from None
    return number


def optional_port() -> Reader:
    """A port, or nothing."""
    port = whole_number(0, 65535, "a port")
    return lambda text, context: port(text, context) if text else None


def choice(*values: str, also: dict[str, str] | None = None, refused: dict[str, str] | None = None) -> Reader:
    """Return a reader of one of `values`, in upper or lower case.

    `also` has aliases of values, `refused` the errors for known values that are not supported.
    """
    known = {value.lower(): value for value in values} | (also or {})

    def read(text: str) -> str:
        name = text.lower()
        if name in (refused or {}):
            raise ValueError((refused or {})[name])
        if name not in known:
            raise ValueError(f"is not known here: give {either(values)}")
        return known[name]

    return reader(read)


def one_or_more(*values: str) -> Reader:
    """Return a reader of some of `values`, separated by commas, in upper or lower case, in the given
    order.
    """
    known = {value.lower(): value for value in values}

    def read(text: str) -> tuple[str, ...]:
        names = [name.strip().lower() for name in text.split(",")]
        if len(set(names)) < len(names) or not known.keys() >= set(names):
            raise ValueError(f"is not known here: give {either(values)}, or both with a comma between them")
        return tuple([known[name] for name in names])

    return reader(read)


def some_of(*values: str) -> Reader:
    """Return a reader of some of `values`, separated by commas, in upper or lower case; maybe none."""

    def read(text: str) -> frozenset[str]:
        names = frozenset(name.strip().lower() for name in text.split(",") if name.strip())
        for name in sorted(names.difference(values)):
            raise ValueError(f"has {name!r}, which is not known here: give some of {', '.join(values)}")
        return names

    return reader(read)


Text = Annotated[str, reader(read_text)]
KeyPrefix = Annotated[str, reader(read_key_prefix)]
Bool = Annotated[bool, reader(read_bool)]
Duration = Annotated[float, reader(read_duration)]
PositiveDuration = Annotated[float, reader(read_positive_duration)]
Ratio = Annotated[float, reader(read_ratio)]
Share = Annotated[float, reader(read_share)]
TextList = Annotated[tuple[str, ...], reader(read_list)]
HeaderName = Annotated[str, reader(read_header)]
UrlPath = Annotated[str, reader(read_path)]
Address = Annotated[str, reader(read_address)]
Secret = Annotated[SecretText, reader(read_secret)]
Port = Annotated[int, whole_number(0, 65535, "a port")]
