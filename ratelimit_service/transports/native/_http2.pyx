# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""HTTP/2 and the framing of gRPC, by nghttp2: no socket, no clock, no decision.

    what was read ──Session.feed──▶ nghttp2 ──▶ Turn.calls: those of all connections that are whole
    what to write ◀─Session.drain── nghttp2 ◀── Call.write, Call.fail ◀── Turn.answered ◀── Call.reply

A server has one Turn, and a Session for each connection.

Strangers speak to this. A call that is malformed is refused by itself; a connection that breaks HTTP/2, or floods, is
told so and closed. `closed` says when: nothing here raises because of what a peer has sent.

Memory rules:

1. A Session owns its nghttp2_session. nghttp2 calls back only from within a method of that Session, which is therefore
   alive: `user_data` is a borrowed pointer to it.
2. A Stream is allocated when the HEADERS of a request begin, and is then both nghttp2's stream_user_data and in the
   Session's list. It is freed by `_forget`, which nghttp2 calls through `on_stream_close`; nghttp2_session_del does not
   call back, so that __dealloc__ does it for those that are left. Nobody else keeps a pointer to one: every method and
   callback asks `_stream` for it by the stream's number, and gets NULL where the stream is gone. `_stream` asks nghttp2,
   unless it is the one that it was asked for last; `_forget` makes it forget that one, too.
3. A Stream owns one buffer: what has come of the request until that is whole, what is left to send from then on.
4. What nghttp2 passes to a callback is valid within it: it is compared or copied there.
5. Names and values of headers are string literals, which nghttp2 need not copy, or are copied by nghttp2_submit_*.
6. A Session is not cleared by the garbage collector (no_gc_clear), and neither is a Call: what they are made of is there as
   long as they are. `abandon` breaks the only circle that they are part of.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from ratelimit_service.transports.native._nghttp2 cimport *


cdef enum:
    PREFIX = 5  # of a gRPC message: a byte that says whether it is compressed, and its length in four
    MOST_STREAMS = 1000
    MOST_HEADER_BYTES = 16384
    MOST_CONTINUATIONS = 8
    MOST_ACKS = 1000
    MOST_SETTINGS = 32
    MOST_UNSENT = 1024  # of a stream of messages
    MOST_OF_A_MESSAGE = 1024  # of an error, in bytes
    WINDOW = 1 << 20  # of the connection; a stream's is HTTP/2's own 64 KiB
    NERVES = 1000
    NERVES_BACK = 100
    NO_TIMEOUT = -1
    UNKNOWN = -1

cdef enum:  # of gRPC
    OK = 0
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13


cdef struct Stream:
    int32_t number
    Stream *before
    Stream *after
    int method           # its place in the Session's paths
    int64_t timeout      # milliseconds
    size_t header_bytes
    bint is_post
    bint is_grpc
    bint whole           # the peer has said everything
    bint answered        # so have we, or nghttp2 has it to send
    bint stays           # more messages may follow
    uint8_t *buffer      # rule 3
    size_t size          # how much of it is used
    size_t room          # how much there is
    size_t sent          # how much of what is used has been sent


cdef void set_header(nghttp2_nv *header, const char *name, size_t name_size, const char *value, size_t value_size) noexcept:
    header.name = <uint8_t *> name
    header.namelen = name_size
    header.value = <uint8_t *> value
    header.valuelen = value_size
    header.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE  # rule 5


cdef bint equal(const uint8_t *text, size_t size, const char *other, size_t other_size) noexcept:
    return size == other_size and memcmp(text, other, size) == 0


cdef int64_t milliseconds(const uint8_t *text, size_t size) noexcept:
    """A grpc-timeout: at most eight digits and a unit. What is none is passed over."""
    cdef int64_t number = 0
    cdef size_t index
    if size < 2 or size > 9:
        return NO_TIMEOUT
    for index in range(size - 1):
        if text[index] < c'0' or text[index] > c'9':
            return NO_TIMEOUT
        number = number * 10 + (text[index] - c'0')
    unit = text[size - 1]
    if unit == c'H':
        return number * 3_600_000
    if unit == c'M':
        return number * 60_000
    if unit == c'S':
        return number * 1_000
    if unit == c'm':
        return number
    if unit == c'u':
        return (number + 999) // 1_000
    if unit == c'n':
        return (number + 999_999) // 1_000_000
    return NO_TIMEOUT


cdef bytes percent_encoded(bytes message):
    """As grpc-message wants it: printable ASCII, and %XX for every other byte and for "%"."""
    return b"".join([
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in message[:MOST_OF_A_MESSAGE]
    ])


@cython.final
cdef class Turn:
    """What has come over the connections of a server, and what has been answered, since it was last taken.

    `begin` is called as soon as there is something, and not again until it has been taken and `end` says so.
    """

    cdef list _calls, _others, _answered, _owners
    cdef object _begin
    cdef bint _begun

    def __cinit__(self, object begin):
        self._begin = begin
        self._calls, self._others, self._answered, self._owners = [], [], [], []

    def take_calls(self):
        """The calls of the first method that are whole, in the order in which they came."""
        taken, self._calls = self._calls, []
        return taken

    def take_others(self):
        """The calls of other methods that are whole."""
        taken, self._others = self._others, []
        return taken

    def take_answered(self):
        """The calls that have been replied to."""
        taken, self._answered = self._answered, []
        return taken

    def take_owners(self):
        """The owners of sessions that may have something to `drain`."""
        taken, self._owners = self._owners, []
        return taken

    def end(self):
        """Begin anew with what comes from now on."""
        self._begun = False
        if self._calls or self._others or self._answered or self._owners:
            self._something()

    cdef int _something(self) except -1:
        if not self._begun:
            self._begun = True
            self._begin()
        return 0


@cython.final
@cython.freelist(256)
@cython.no_gc_clear
cdef class Call:
    """A call that is whole: a service.Call, once it has its `request`."""

    cdef readonly Session session
    cdef readonly int32_t number
    """Of its stream."""
    cdef readonly int method
    """The place of its path among those of the session."""
    cdef readonly int64_t timeout
    """In milliseconds, or -1."""
    cdef readonly bytes body
    cdef public object request
    cdef readonly object answer
    """What it has been replied to with."""
    cdef public object started

    def reply(self, object answer):
        """See service.Call. The turn has it then as answered; `write` and `fail` tell the peer."""
        self.answer = answer
        turn = self.session._turn
        turn._answered.append(self)
        turn._something()

    def write(self, bytes payload):
        """Answer with a message, and OK. Where the caller has gone, nothing happens."""
        self.session._reply(self.number, payload, False)
        self.session._touch()

    def fail(self, int status, str message):
        """Answer with a gRPC status other than OK."""
        session = self.session
        cdef Stream *stream = session._stream(self.number)
        if stream is not NULL and not stream.answered:
            session._refuse(stream, status, percent_encoded(message.encode("utf-8", "replace")))
            session._touch()


@cython.no_gc_clear
cdef class Session:
    """The server's end of one connection. Its calls go to `turn`, and so does its owner when there is something to write.

    `paths` are the methods: calls of the first are apart from those of the others. A message of more than `max_message`
    bytes is refused with RESOURCE_EXHAUSTED, and so are messages that have not arrived in full while they are more than
    `max_held` bytes together.
    """

    cdef nghttp2_session *_h2
    cdef Stream *_streams
    cdef tuple _paths
    cdef size_t _max_message
    cdef size_t _max_held
    cdef size_t _held
    cdef int _nerves
    cdef bint _failed
    cdef readonly bint opened
    """Whether the peer has introduced itself, as HTTP/2 demands."""
    cdef readonly size_t streams
    """How many streams are open."""
    cdef readonly size_t unread
    """How many replies have been given that the peer has not let us send in full."""
    cdef readonly uint64_t sent
    """Bytes that `drain` has returned so far."""
    cdef readonly object owner
    """Whoever `drain`s it, for the turn to know; None once it is abandoned."""
    cdef Turn _turn
    cdef bint _touched
    cdef Stream *_last
    cdef uint8_t *_out
    cdef size_t _out_room

    def __cinit__(self, Turn turn not None, object owner, object paths, size_t max_message, size_t max_held):
        cdef nghttp2_option *option = NULL
        cdef nghttp2_settings_entry settings[2]
        self._paths = tuple([bytes(path) for path in paths])
        self._max_message = max_message
        self._max_held = max_held
        self._nerves = NERVES
        self._turn = turn
        self.owner = owner
        if nghttp2_option_new(&option) != 0:
            raise MemoryError
        nghttp2_option_set_no_closed_streams(option, 1)
        nghttp2_option_set_max_outbound_ack(option, MOST_ACKS)
        nghttp2_option_set_max_settings(option, MOST_SETTINGS)
        nghttp2_option_set_max_continuations(option, MOST_CONTINUATIONS)
        # A gateway resets every call that it has waited too long for, thousands a second where the store is slow.
        # Those cost what any call costs; `_spend` counts the others.
        nghttp2_option_set_stream_reset_rate_limit(option, 1 << 62, 1 << 62)
        failure = nghttp2_session_server_new2(&self._h2, CALLBACKS, <void *> self, option)
        nghttp2_option_del(option)
        if failure:
            raise MemoryError
        settings[0].settings_id = NGHTTP2_SETTINGS_MAX_CONCURRENT_STREAMS
        settings[0].value = MOST_STREAMS
        settings[1].settings_id = NGHTTP2_SETTINGS_MAX_HEADER_LIST_SIZE
        settings[1].value = MOST_HEADER_BYTES
        if nghttp2_submit_settings(self._h2, NGHTTP2_FLAG_NONE, settings, 2) or \
                nghttp2_session_set_local_window_size(self._h2, NGHTTP2_FLAG_NONE, 0, WINDOW):
            raise MemoryError

    def __dealloc__(self):
        while self._streams is not NULL:
            self._forget(self._streams)
        if self._h2 is not NULL:
            nghttp2_session_del(self._h2)
        free(self._out)

    # What a server calls.

    def feed(self, bytes data):
        """Take what was read."""
        cdef Py_ssize_t taken
        if not self._failed:
            taken = nghttp2_session_mem_recv(self._h2, <const uint8_t *> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
            if taken < 0:
                self._failed = True
        self._touch()

    def abandon(self):
        """The connection has gone: nothing is taken, sent or told any more."""
        self._failed = True
        self.owner = None

    def send(self, int32_t number, bytes payload):
        """Send the first or another message of a stream of them; False where nobody hears it any more."""
        cdef Stream *stream = self._stream(number)
        if stream is NULL or (stream.answered and not stream.stays):
            return False
        if not stream.answered:
            self._reply(number, payload, True)
        elif stream.size - stream.sent > MOST_UNSENT:  # a peer that reads none of it
            nghttp2_submit_rst_stream(self._h2, NGHTTP2_FLAG_NONE, number, NGHTTP2_ENHANCE_YOUR_CALM)
            self._touch()
            return False
        else:
            self._queue(stream, payload)
            nghttp2_session_resume_data(self._h2, number)
        self._touch()
        return True

    def end(self, int32_t number):
        """End a stream of messages with OK."""
        cdef Stream *stream = self._stream(number)
        if stream is not NULL and stream.stays:
            stream.stays = False
            self.unread += 1
            nghttp2_session_resume_data(self._h2, number)
            self._touch()

    def is_open(self, int32_t number):
        """Whether the stream is still there."""
        return self._stream(number) is not NULL

    def drain(self):
        """The bytes to write now."""
        cdef const uint8_t *chunk
        cdef Py_ssize_t size
        cdef size_t used = 0
        cdef uint8_t *larger
        self._touched = False
        if self._failed:
            return b""
        while True:
            size = nghttp2_session_mem_send(self._h2, &chunk)
            if size <= 0:
                break
            if used + size > self._out_room:
                larger = <uint8_t *> realloc(self._out, 2 * (used + size))
                if larger is NULL:
                    raise MemoryError
                self._out = larger
                self._out_room = 2 * (used + size)
            memcpy(self._out + used, chunk, size)
            used += size
        if size < 0:
            self._failed = True
        self.sent += used
        data = PyBytes_FromStringAndSize(<char *> self._out, used) if used else b""
        if self._out_room > 65536:  # a large batch is no reason to keep its room for days
            free(self._out)
            self._out = NULL
            self._out_room = 0
        return data

    def announce_goaway(self):
        """Ask the peer to open no more streams; those that it opens meanwhile are served."""
        nghttp2_submit_shutdown_notice(self._h2)
        self._touch()

    def goaway(self):
        """Take no more streams, and be `closed` when those that are there have ended."""
        nghttp2_submit_goaway(
            self._h2, NGHTTP2_FLAG_NONE, nghttp2_session_get_last_proc_stream_id(self._h2), NGHTTP2_NO_ERROR, NULL, 0)
        self._touch()

    def relax(self):
        """Called every second: forgive a part of what the peer did that only floods are made of."""
        self._nerves = min(NERVES, self._nerves + NERVES_BACK)

    @property
    def closed(self):
        """Whether the connection is to be closed as soon as what `drain` has returned is written."""
        return self._failed or not (nghttp2_session_want_read(self._h2) or nghttp2_session_want_write(self._h2))

    # What the callbacks and the methods above are made of.

    cdef int _touch(self) except -1:
        """There may be something to write, or `closed` may have become true."""
        if self.owner is not None:
            if not self._touched:
                self._touched = True
                self._turn._owners.append(self.owner)
            self._turn._something()
        return 0

    cdef Stream *_stream(self, int32_t number) noexcept:
        if self._last is NULL or self._last.number != number:
            self._last = <Stream *> nghttp2_session_get_stream_user_data(self._h2, number)
        return self._last

    cdef int _open(self, int32_t number) noexcept:
        cdef Stream *stream = <Stream *> malloc(sizeof(Stream))
        if stream is NULL:
            return NGHTTP2_ERR_CALLBACK_FAILURE
        memset(stream, 0, sizeof(Stream))
        stream.number = number
        stream.method = UNKNOWN
        stream.timeout = NO_TIMEOUT
        stream.after = self._streams
        if self._streams is not NULL:
            self._streams.before = stream
        self._streams = stream
        self.streams += 1
        nghttp2_session_set_stream_user_data(self._h2, number, stream)
        return 0

    cdef void _forget(self, Stream *stream) noexcept:
        """Free it (rule 2). nghttp2 must not have it as stream_user_data any more, or be about to go itself."""
        if self._last is stream:
            self._last = NULL
        if stream.before is not NULL:
            stream.before.after = stream.after
        else:
            self._streams = stream.after
        if stream.after is not NULL:
            stream.after.before = stream.before
        self.streams -= 1
        if not stream.answered:
            self._held -= stream.room
        elif not stream.stays:
            self.unread -= 1
        free(stream.buffer)
        free(stream)

    cdef void _empty(self, Stream *stream) noexcept:
        """Let go of what has come of the request."""
        self._held -= stream.room
        free(stream.buffer)
        stream.buffer = NULL
        stream.size = stream.room = stream.sent = 0

    cdef void _spend(self) noexcept:
        """One more of what costs a peer nothing and us something. Whoever does little else is sent away."""
        self._nerves -= 1
        if self._nerves == 0:
            nghttp2_session_terminate_session(self._h2, NGHTTP2_ENHANCE_YOUR_CALM)

    cdef int _header(self, Stream *stream, const uint8_t *name, size_t name_size, const uint8_t *value, size_t size) noexcept:
        cdef Py_ssize_t index
        stream.header_bytes += name_size + size + 32  # as HTTP/2 counts them
        if equal(name, name_size, ":path", 5):
            for index in range(len(self._paths)):
                path = <bytes> self._paths[index]
                if equal(value, size, PyBytes_AS_STRING(path), PyBytes_GET_SIZE(path)):
                    stream.method = <int> index
        elif equal(name, name_size, ":method", 7):
            stream.is_post = equal(value, size, "POST", 4)
        elif equal(name, name_size, "content-type", 12):
            # application/grpc, application/grpc+proto, application/grpc;charset=...
            stream.is_grpc = size >= 16 and memcmp(value, "application/grpc", 16) == 0 and (
                size == 16 or value[16] == c'+' or value[16] == c';')
        elif equal(name, name_size, "grpc-timeout", 12):
            stream.timeout = milliseconds(value, size)
        return 0

    cdef int _headers_end(self, Stream *stream) except -1:
        """Refuse at once what is no call of ours, so that its body is not kept."""
        if stream.header_bytes > MOST_HEADER_BYTES:
            self._refuse(stream, RESOURCE_EXHAUSTED, b"the headers are larger than 16 KiB")
        elif not stream.is_post:
            self._refuse_http(stream, "405")
        elif not stream.is_grpc:
            self._refuse_http(stream, "415")
        elif stream.method == UNKNOWN:
            self._refuse(stream, UNIMPLEMENTED, b"no such method")
        return 0

    cdef int _chunk(self, Stream *stream, const uint8_t *data, size_t size) except -1:
        """Keep what has come of a message, of which there must be one, as large as it said and not too large."""
        cdef size_t room
        cdef uint8_t *larger
        if stream.size + size > stream.room:
            room = max(2 * stream.room, stream.size + size)
            if self._held - stream.room + room > self._max_held:
                self._refuse(stream, RESOURCE_EXHAUSTED, b"too many messages that have not arrived in full")
                return 0
            larger = <uint8_t *> realloc(stream.buffer, room)
            if larger is NULL:
                raise MemoryError
            self._held += room - stream.room
            stream.buffer, stream.room = larger, room
        memcpy(stream.buffer + stream.size, data, size)
        stream.size += size
        if stream.size < PREFIX:
            return 0
        if self._announced(stream) > self._max_message:
            self._refuse(stream, RESOURCE_EXHAUSTED, b"the message is larger than %d bytes" % self._max_message)
        elif stream.size > PREFIX + self._announced(stream):
            self._refuse(stream, UNIMPLEMENTED, b"the method takes one message%2C not more")
        return 0

    cdef size_t _announced(self, Stream *stream) noexcept:
        cdef uint8_t *head = stream.buffer
        return (<size_t> head[1] << 24) | (<size_t> head[2] << 16) | (<size_t> head[3] << 8) | <size_t> head[4]

    cdef int _end(self, Stream *stream) except -1:
        """The peer has said everything: a call is whole, or is none."""
        stream.whole = True
        if stream.answered:
            return 0
        if stream.size == 0:
            self._refuse(stream, UNIMPLEMENTED, b"the method takes one message, and there was none")
        elif stream.size < PREFIX or stream.size < PREFIX + self._announced(stream):
            self._refuse(stream, INTERNAL, b"the message ended early")
        elif stream.buffer[0]:
            self._refuse(stream, UNIMPLEMENTED, b"compressed messages are not supported")
        else:
            body = PyBytes_FromStringAndSize(<char *> stream.buffer + PREFIX, stream.size - PREFIX)
            call = <Call> Call.__new__(Call)
            call.session = self
            call.number = stream.number
            call.method = stream.method
            call.timeout = stream.timeout
            call.body = body
            (self._turn._calls if stream.method == 0 else self._turn._others).append(call)
            self._empty(stream)
            if self._nerves < NERVES:
                self._nerves += 1
        return 0

    cdef int _queue(self, Stream *stream, bytes payload) except -1:
        """Put a message behind what is left to send of a stream."""
        cdef size_t size = PyBytes_GET_SIZE(payload)
        cdef size_t left = stream.size - stream.sent
        cdef uint8_t *buffer = <uint8_t *> malloc(left + PREFIX + size)
        if buffer is NULL:
            raise MemoryError
        if left:
            memcpy(buffer, stream.buffer + stream.sent, left)
        buffer[left] = 0
        buffer[left + 1] = <uint8_t> (size >> 24)
        buffer[left + 2] = <uint8_t> (size >> 16)
        buffer[left + 3] = <uint8_t> (size >> 8)
        buffer[left + 4] = <uint8_t> size
        memcpy(buffer + left + PREFIX, PyBytes_AS_STRING(payload), size)
        free(stream.buffer)
        stream.buffer = buffer
        stream.size = stream.room = left + PREFIX + size
        stream.sent = 0
        return 0

    cdef int _reply(self, int32_t number, bytes payload, bint stays) except -1:
        cdef nghttp2_nv headers[2]
        cdef nghttp2_data_provider provider
        cdef Stream *stream = self._stream(number)
        if stream is NULL or stream.answered or self._failed:
            return 0
        self._queue(stream, payload)
        self._mark_answered(stream, stays)
        set_header(&headers[0], ":status", 7, "200", 3)
        set_header(&headers[1], "content-type", 12, "application/grpc", 16)
        provider.source.ptr = NULL
        provider.read_callback = read_out
        self._check(nghttp2_submit_response(self._h2, number, headers, 2, &provider))
        return 0

    cdef int _refuse(self, Stream *stream, int status, bytes message) except -1:
        """Answer with trailers only. `message` is percent-encoded."""
        cdef nghttp2_nv headers[5]
        cdef bytes digits = b"%d" % status
        self._empty(stream)
        self._mark_answered(stream, False)
        set_header(&headers[0], ":status", 7, "200", 3)
        set_header(&headers[1], "content-type", 12, "application/grpc", 16)
        set_header(&headers[2], "grpc-status", 11, PyBytes_AS_STRING(digits), PyBytes_GET_SIZE(digits))
        set_header(&headers[3], "grpc-message", 12, PyBytes_AS_STRING(message), PyBytes_GET_SIZE(message))
        headers[2].flags = headers[3].flags = NGHTTP2_NV_FLAG_NO_COPY_NAME  # rule 5
        set_header(&headers[4], "grpc-accept-encoding", 20, "identity", 8)
        self._check(nghttp2_submit_response(self._h2, stream.number, headers, 5, NULL))
        return 0

    cdef int _refuse_http(self, Stream *stream, const char *status) except -1:
        """Answer what is no gRPC at all, as HTTP does. `status` is a literal of three digits."""
        cdef nghttp2_nv header
        self._empty(stream)
        self._mark_answered(stream, False)
        set_header(&header, ":status", 7, status, 3)
        self._check(nghttp2_submit_response(self._h2, stream.number, &header, 1, NULL))
        return 0

    cdef void _mark_answered(self, Stream *stream, bint stays) noexcept:
        stream.answered = True
        stream.stays = stays
        if not stays:
            self.unread += 1

    cdef void _check(self, int failure) noexcept:
        """nghttp2 has not taken what it was given, which only happens without memory: the connection is of no use."""
        if failure:
            self._failed = True


# nghttp2's callbacks. `user_data` is the Session (rule 1).

cdef int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data) noexcept:
    if frame.headers.cat != NGHTTP2_HCAT_REQUEST:  # trailers
        return 0
    return (<Session> user_data)._open(frame.hd.stream_id)


cdef int on_header(
    nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
    const uint8_t *value, size_t size, uint8_t flags, void *user_data,
) noexcept:
    session = <Session> user_data
    cdef Stream *stream = session._stream(frame.hd.stream_id)
    if stream is NULL or frame.headers.cat != NGHTTP2_HCAT_REQUEST:
        return 0
    return session._header(stream, name, name_size, value, size)


cdef int on_data_chunk(
    nghttp2_session *h2, uint8_t flags, int32_t number, const uint8_t *data, size_t size, void *user_data
) noexcept:
    session = <Session> user_data
    cdef Stream *stream = session._stream(number)
    if stream is NULL or stream.answered:
        return 0
    try:
        return session._chunk(stream, data, size)
    except MemoryError:
        return NGHTTP2_ERR_CALLBACK_FAILURE


cdef int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data) noexcept:
    session = <Session> user_data
    cdef Stream *stream
    kind = frame.hd.type
    if kind == NGHTTP2_DATA or kind == NGHTTP2_HEADERS:
        stream = session._stream(frame.hd.stream_id)
        if stream is NULL:
            return 0
        try:
            if kind == NGHTTP2_HEADERS and frame.headers.cat == NGHTTP2_HCAT_REQUEST:
                session._headers_end(stream)
            if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                session._end(stream)
            elif kind == NGHTTP2_DATA and frame.hd.length == 0:
                session._spend()
        except MemoryError:
            return NGHTTP2_ERR_CALLBACK_FAILURE
    elif kind == NGHTTP2_RST_STREAM:
        stream = session._stream(frame.hd.stream_id)
        if stream is NULL or not stream.whole:
            session._spend()
    elif kind == NGHTTP2_PRIORITY:
        session._spend()
    elif kind == NGHTTP2_SETTINGS or kind == NGHTTP2_PING:
        if not frame.hd.flags & NGHTTP2_FLAG_ACK:
            session.opened = True
            session._spend()
    return 0


cdef int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data) noexcept:
    session = <Session> user_data
    cdef Stream *stream
    kind = frame.hd.type
    if kind == NGHTTP2_RST_STREAM:
        if frame.rst_stream.error_code != NGHTTP2_NO_ERROR:  # the peer has broken the rules on that stream
            session._spend()
    elif kind == NGHTTP2_HEADERS and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        stream = session._stream(frame.hd.stream_id)
        if stream is not NULL and not stream.whole:  # answered before the end: we want no more of it
            nghttp2_submit_rst_stream(h2, NGHTTP2_FLAG_NONE, frame.hd.stream_id, NGHTTP2_NO_ERROR)
    return 0


cdef int on_stream_close(nghttp2_session *h2, int32_t number, uint32_t error, void *user_data) noexcept:
    session = <Session> user_data
    cdef Stream *stream = session._stream(number)
    if stream is not NULL:
        nghttp2_session_set_stream_user_data(h2, number, NULL)
        session._forget(stream)
    return 0


cdef Py_ssize_t read_out(
    nghttp2_session *h2, int32_t number, uint8_t *buffer, size_t room, uint32_t *flags,
    nghttp2_data_source *source, void *user_data,
) noexcept:
    """Copy what is left to send of a stream; after the last of it come the trailers."""
    cdef nghttp2_nv trailer
    cdef Stream *stream = (<Session> user_data)._stream(number)
    if stream is NULL:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    cdef size_t size = min(room, stream.size - stream.sent)
    memcpy(buffer, stream.buffer + stream.sent, size)
    stream.sent += size
    if stream.sent == stream.size:
        if stream.stays:
            return <Py_ssize_t> size if size else NGHTTP2_ERR_DEFERRED
        flags[0] = NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        set_header(&trailer, "grpc-status", 11, "0", 1)
        if nghttp2_submit_trailer(h2, number, &trailer, 1):
            return NGHTTP2_ERR_CALLBACK_FAILURE
    return <Py_ssize_t> size


cdef nghttp2_session_callbacks *CALLBACKS = NULL
if nghttp2_session_callbacks_new(&CALLBACKS) != 0:
    raise MemoryError
nghttp2_session_callbacks_set_on_begin_headers_callback(CALLBACKS, on_begin_headers)
nghttp2_session_callbacks_set_on_header_callback(CALLBACKS, on_header)
nghttp2_session_callbacks_set_on_data_chunk_recv_callback(CALLBACKS, on_data_chunk)
nghttp2_session_callbacks_set_on_frame_recv_callback(CALLBACKS, on_frame_recv)
nghttp2_session_callbacks_set_on_frame_send_callback(CALLBACKS, on_frame_send)
nghttp2_session_callbacks_set_on_stream_close_callback(CALLBACKS, on_stream_close)
