"""A bidirectional gRPC call on its own HTTP/2 connection, without a socket (see link.py).

The library h2 implements HTTP/2. grpcio would copy a complete message on the event loop, which takes tens of
milliseconds for 16 MiB, and calls would wait. Here each frame of a message is written to a file as it
arrives.
"""

from __future__ import annotations

import urllib.parse
from collections import deque
from collections.abc import Mapping
from typing import NamedTuple

from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.errors import ErrorCodes
from h2.events import (
    ConnectionTerminated,
    DataReceived,
    PingAckReceived,
    RemoteSettingsChanged,
    ResponseReceived,
    StreamEnded,
    StreamReset,
    TrailersReceived,
    WindowUpdated,
)
from h2.exceptions import ProtocolError
from h2.settings import SettingCodes, Settings

from .spool import Spool

_PREFIX = 5
"""Bytes before a gRPC message: the flag for compression, and the length."""

_WINDOW = 1 << 20
"""The flow-control windows: bytes that the peer may send before a WINDOW_UPDATE."""

_TYPE, _SETTINGS = 3, 4
"""The place of the type in the header of a frame, and the type of the first frame of a server."""

_LONGEST_TEXT = 1_000

_MOST_UNANSWERED = 1_000
"""Messages that the peer may send before an answer. Each is a file, which takes 10 µs even if it is empty."""

_CODES = (
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
)
_OF_HTTP = {
    "400": "INTERNAL",
    "401": "UNAUTHENTICATED",
    "403": "PERMISSION_DENIED",
    "404": "UNIMPLEMENTED",
    "429": "UNAVAILABLE",
    "502": "UNAVAILABLE",
    "503": "UNAVAILABLE",
    "504": "UNAVAILABLE",
}
"""The gRPC status for an HTTP status without grpc-status, as gRPC defines it."""


class End(NamedTuple):
    """The end of a call: a gRPC status, and the reason in words."""

    code: str
    why: str


class StreamingCall:
    """One call. Pass bytes from the peer to `feed`, and send it the bytes that `drain` returns.

    `messages` has the last complete message, and `end` the end of the call. Each message is a complete set,
    so a peer that sends more of them than are read cannot fill the memory. A message may have at most
    `largest` bytes.
    """

    def __init__(
        self, path: str, authority: str, *, secure: bool, headers: Mapping[str, str], largest: int
    ) -> None:
        self._largest = largest
        self._http = H2Connection(H2Configuration(client_side=True, header_encoding="utf-8"))
        self._http.local_settings = Settings(
            client=True,
            initial_values={SettingCodes.ENABLE_PUSH: 0, SettingCodes.INITIAL_WINDOW_SIZE: _WINDOW},
        )
        self._http.initiate_connection()
        self._http.increment_flow_control_window(_WINDOW)
        self._stream = self._http.get_next_available_stream_id()
        self._http.send_headers(
            self._stream,
            [
                (":method", "POST"),
                (":scheme", "https" if secure else "http"),
                (":path", path),
                (":authority", authority),
                ("te", "trailers"),
                ("content-type", "application/grpc"),
                ("user-agent", "ratelimit-service"),
                *headers.items(),
            ],
        )
        self._unsent = bytearray()
        self._prefix = bytearray()
        self._spool: Spool | None = None
        self._missing = 0
        self._greeting = b""
        self.messages: deque[Spool] = deque(maxlen=1)
        self._unanswered = 0
        self.end: End | None = None
        self.answered = False
        """Whether the peer has sent SETTINGS, the first frame of an HTTP/2 server."""
        self.pongs = 0
        """The number of answered pings."""

    def send(self, message: bytes) -> None:
        """Send a message, as far as flow control allows it now, and the rest later."""
        self._unanswered = 0
        self._unsent += b"\0" + len(message).to_bytes(4, "big") + message
        self._flush()

    def ping(self) -> None:
        """Send a PING."""
        if self.end is None:
            self._http.ping(b"is there")

    def drain(self) -> bytes:
        """Return the bytes to send to the peer."""
        data: bytes = self._http.data_to_send()
        return data

    def feed(self, data: bytes) -> None:
        """Process bytes from the peer. Raises OSError if a message cannot be stored."""
        if self.end is not None:
            return
        if not self._greets(data):
            return
        try:
            events = self._http.receive_data(data)
            for event in events:
                self._take(event)
        except (ProtocolError, UnicodeDecodeError) as error:
            self._ends("INTERNAL", f"it violates HTTP/2: {str(error) or type(error).__name__}")

    def close(self) -> None:
        """Cancel the call. `drain` then returns the last bytes."""
        if self.end is None:
            self._http.reset_stream(self._stream, ErrorCodes.CANCEL)
            self._http.close_connection()
            self._ends("CANCELLED", "closed by us")

    def _take(self, event: object) -> None:
        match event:
            case DataReceived():
                self._collect(memoryview(event.data or b""))
                if event.flow_controlled_length and self.end is None:
                    self._http.acknowledge_received_data(event.flow_controlled_length, self._stream)
            case WindowUpdated():
                self._flush()
            case ResponseReceived():
                self._head(_texts(event.headers))
            case TrailersReceived():
                self._status(_texts(event.headers))
            case StreamEnded():
                self._ends("UNKNOWN", "it has ended the call without a status")
            case StreamReset():
                self._ends("UNAVAILABLE", f"it has reset the call ({_error(event.error_code)})")
            case ConnectionTerminated():
                more = _shown((event.additional_data or b"").decode("utf-8", "replace"))
                why = _error(event.error_code) + (f", {more}" if more else "")
                self._ends("UNAVAILABLE", f"it closes the connection (GOAWAY {why})")
            case PingAckReceived():
                self.pongs += 1
            case RemoteSettingsChanged():
                self.answered = True

    def _greets(self, data: bytes) -> bool:
        """Return whether the first frame is SETTINGS.

        If the peer speaks another protocol, h2 would take its bytes for a frame of some megabytes, and wait
        for the rest of it.
        """
        if len(self._greeting) < _TYPE + 1:
            self._greeting += data[: _TYPE + 1]
            if len(self._greeting) > _TYPE and self._greeting[_TYPE] != _SETTINGS:
                self._ends("INTERNAL", "it does not speak HTTP/2")
        return self.end is None

    def _head(self, headers: dict[str, str]) -> None:
        if "grpc-status" in headers:
            self._status(headers)
        elif headers.get(":status") != "200":
            status = headers.get(":status", "")
            self._ends(_OF_HTTP.get(status, "UNKNOWN"), f"it answers with HTTP status {_shown(status)}")
        elif not headers.get("content-type", "").startswith("application/grpc"):
            self._ends("UNKNOWN", f"it answers with {_shown(headers.get('content-type', 'nothing'))}")

    def _status(self, headers: dict[str, str]) -> None:
        number = headers.get("grpc-status", "")
        code = _CODES[int(number)] if number.isdecimal() and int(number) < len(_CODES) else "UNKNOWN"
        why = urllib.parse.unquote(headers.get("grpc-message", ""), errors="replace")
        self._ends(code, _shown(why) or "it has ended the call")

    def _collect(self, data: memoryview) -> None:
        while data and self.end is None:
            if self._spool is None:
                wanted = _PREFIX - len(self._prefix)
                self._prefix += data[:wanted]
                data = data[wanted:]
                if len(self._prefix) < _PREFIX:
                    return
                self._begin()
            part = data[: self._missing]
            if self._spool is not None:
                self._spool.write(part)
                self._missing -= len(part)
                data = data[len(part) :]
                if not self._missing:
                    self._complete(self._spool)

    def _begin(self) -> None:
        compressed, length = self._prefix[0], int.from_bytes(self._prefix[1:], "big")
        self._prefix.clear()
        if compressed:
            self._ends("INTERNAL", "it sends a compressed message, although no compression was offered")
        elif length > self._largest:
            self._ends(
                "RESOURCE_EXHAUSTED",
                f"its message has {length} bytes, more than {self._largest}: raise "
                "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
            )
        else:
            self._spool, self._missing = Spool(), length
            if not length:
                self._complete(self._spool)

    def _complete(self, message: Spool) -> None:
        self._spool = None
        self.messages.append(message)
        self._unanswered += 1
        if self._unanswered > _MOST_UNANSWERED:
            self._ends("RESOURCE_EXHAUSTED", "it sends set after set without waiting for an answer")

    def _flush(self) -> None:
        while self._unsent and self.end is None:
            room = min(
                self._http.local_flow_control_window(self._stream),
                self._http.max_outbound_frame_size,
                len(self._unsent),
            )
            if room <= 0:
                return
            self._http.send_data(self._stream, bytes(self._unsent[:room]))
            del self._unsent[:room]

    def _ends(self, code: str, why: str) -> None:
        if self.end is None:
            self.end = End(code, why)
            self._spool = None


def _texts(headers: object) -> dict[str, str]:
    assert isinstance(headers, list)
    return {str(name): str(value) for name, value in headers}


def _error(code: ErrorCodes | int | None) -> str:
    return code.name if isinstance(code, ErrorCodes) else f"error {code}"


def _shown(text: str) -> str:
    return text[:_LONGEST_TEXT]
