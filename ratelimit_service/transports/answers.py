"""Encodes the signals of an answer.

The numbers and names of fields are those of RateLimitResponse, HeaderValue and google.protobuf.Struct.
protobuf would take several times as long, and its output is what tests compare with.
"""

from __future__ import annotations

import struct

from ..core.answers.signals import HIDDEN, WHOLE, Signal, Signals
from .wire import LAST

try:
    from ._wire import varint
except ImportError:  # not built
    from .wire import varint

HEADERS = ("x-tokens-state", "x-tokens-used-share", "x-tokens-remaining")
"""The headers of a signal, for upstreams and callers."""

METADATA = ("tokens_state", "tokens_used_share", "tokens_remaining", "tokens_remaining_text")
"""The keys of a signal in the dynamic metadata.

Numbers of a Struct are doubles. They hold every budget exactly (COUNTER_MAX is 2^53 - 1), but not every
reader prints them in full, so the tokens are there as text as well.
"""

_STATE, _SHARE, _REMAINING = HEADERS
_STATE_KEY, _SHARE_KEY, _REMAINING_KEY, _TEXT_KEY = METADATA
_RESPONSE_HEADERS, _REQUEST_HEADERS, _DYNAMIC_METADATA = b"\x1a", b'"', b"2"


def signal_fields(signals: Signals) -> bytes:
    """Return the fields with signals: headers for the upstream and the caller, and dynamic metadata."""
    parts = []
    if signals.caller is not None:
        parts += [_header(_RESPONSE_HEADERS, *each) for each in _headers(signals.caller)]
    if signals.upstream is not None:
        parts += [_header(_REQUEST_HEADERS, *each) for each in _headers(signals.upstream)]
    if signals.metadata is not None:
        entries = _entries(signals.metadata)
        parts.append(_DYNAMIC_METADATA + varint(len(entries)) + entries)
    return b"".join(parts)


def share_text(share: int) -> str:
    """Return a share in ten-thousandths as a decimal number: `0.8312`."""
    return f"{share // WHOLE}.{share % WHOLE:04d}"


def _headers(signal: Signal) -> list[tuple[str, str]]:
    headers = [(_STATE, signal.state.value)]
    if signal.remaining != HIDDEN:
        headers += [(_SHARE, share_text(signal.share)), (_REMAINING, str(signal.remaining))]
    return headers


def _entries(signal: Signal) -> bytes:
    """Return the entries of a Struct."""
    return b"".join(
        [
            _entry(_STATE_KEY, _string(signal.state.value)),
            _entry(_SHARE_KEY, _number(signal.share / WHOLE)),
            _entry(_REMAINING_KEY, _number(signal.remaining)),
            _entry(_TEXT_KEY, _string(str(signal.remaining))),
        ]
    )


# All of these are shorter than 128 bytes, so that each length is one byte.


def _header(field: bytes, name: str, value: str) -> bytes:
    header = b"\n" + LAST[len(name)] + name.encode() + b"\x12" + LAST[len(value)] + value.encode()
    return field + LAST[len(header)] + header


def _entry(key: str, value: bytes) -> bytes:
    entry = b"\n" + LAST[len(key)] + key.encode() + b"\x12" + LAST[len(value)] + value
    return b"\n" + LAST[len(entry)] + entry


def _number(value: float) -> bytes:
    return b"\x11" + struct.pack("<d", value)


def _string(text: str) -> bytes:
    return b"\x1a" + LAST[len(text)] + text.encode()
