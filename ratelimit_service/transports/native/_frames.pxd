# cython: language_level=3
"""Frames of HTTP/2 on the wire, before nghttp2 reads them.

nghttp2 1.52 to 1.67 abort the process if a frame of the wrong size follows the end of a session
(CVE-2026-27135). So `malformed` finds these frames first. Sizes and flags are those of RFC 9113, section 6.
"""

from libc.stdint cimport int32_t, uint8_t, uint32_t
from libc.string cimport memcpy

cdef enum:
    PREFACE = 24
    FRAME_HEAD = 9
    LARGEST_FRAME = 16384

cdef enum:  # types
    F_DATA = 0
    F_HEADERS = 1
    F_PRIORITY = 2
    F_RST_STREAM = 3
    F_SETTINGS = 4
    F_PUSH_PROMISE = 5
    F_PING = 6
    F_GOAWAY = 7
    F_WINDOW_UPDATE = 8
    F_CONTINUATION = 9

cdef enum:  # flags
    F_ACK = 0x1
    F_END_STREAM = 0x1
    F_PADDED = 0x8
    F_HAS_PRIORITY = 0x20

cdef enum:  # errors
    E_NONE = 0
    E_PROTOCOL_ERROR = 1
    E_FRAME_SIZE_ERROR = 6


cdef struct Frames:
    size_t left           # bytes of the preface or of a payload that have not arrived
    size_t known          # bytes of the next frame's head that have arrived
    uint8_t head[9]


cdef inline void begin(Frames *frames) noexcept:
    """Begin a connection: the preface comes first."""
    frames.left = PREFACE
    frames.known = 0
    frames.head[3] = 0


cdef inline size_t pass_payload(Frames *frames, size_t size) noexcept:
    """Return how many of `size` bytes belong to the current payload."""
    cdef size_t passed = min(frames.left, size)
    frames.left -= passed
    return passed


cdef inline size_t take_head(Frames *frames, const uint8_t *data, size_t size) noexcept:
    """Add to the head of the next frame, which is complete at 9 `known` bytes; return the bytes taken."""
    cdef size_t taken = min(FRAME_HEAD - frames.known, size)
    memcpy(frames.head + frames.known, data, taken)
    frames.known += taken
    return taken


cdef inline size_t payload_size(const Frames *frames) noexcept:
    return (<size_t> frames.head[0] << 16) | (<size_t> frames.head[1] << 8) | <size_t> frames.head[2]


cdef inline uint32_t malformed(const Frames *frames) noexcept:
    """Return the error of HTTP/2 that is in the current head itself, or E_NONE."""
    cdef size_t size = payload_size(frames)
    cdef uint8_t kind = frames.head[3]
    cdef uint8_t flags = frames.head[4]
    cdef size_t least
    if size > LARGEST_FRAME:
        return E_FRAME_SIZE_ERROR
    if kind == F_DATA or kind == F_HEADERS:
        least = 1 if flags & F_PADDED else 0
        if kind == F_HEADERS and flags & F_HAS_PRIORITY:
            least += 5
        return E_FRAME_SIZE_ERROR if size < least else E_NONE
    if kind == F_PRIORITY:
        return E_FRAME_SIZE_ERROR if size != 5 else E_NONE
    if kind == F_RST_STREAM or kind == F_WINDOW_UPDATE:
        return E_FRAME_SIZE_ERROR if size != 4 else E_NONE
    if kind == F_SETTINGS:
        return E_FRAME_SIZE_ERROR if size % 6 or (flags & F_ACK and size) else E_NONE
    if kind == F_PING:
        return E_FRAME_SIZE_ERROR if size != 8 else E_NONE
    if kind == F_GOAWAY:
        return E_FRAME_SIZE_ERROR if size < 8 else E_NONE
    if kind == F_PUSH_PROMISE:  # only servers may send it
        return E_PROTOCOL_ERROR
    return E_NONE
