# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""HTTP/2 and the framing of gRPC, on nghttp2: no socket, no clock, no decision.

    input  ──Session.feed──▶ nghttp2 ──▶ Turn.take_calls: the complete calls of all connections
    output ◀─Session.drain── nghttp2 ◀── NativeCall.write/fail ◀── Turn.take_answered ◀── NativeCall.reply

A server has one Turn with its Budget, and a Session for each connection.

The input comes from strangers. A malformed call is refused by itself; a connection that breaks HTTP/2, or
floods, gets a GOAWAY and is closed (`closed`). No method raises because of a peer's input. Four bounds hold
for each peer:

- Its *share*: streams and bytes in one turn of the event loop. `feed` takes no more than that.
- Its *abuse budget*, for frames that are cheap for a peer and expensive for this process, and for headers
  that are much larger decoded than on the wire. Part of it is restored every second, and one unit with each
  complete call. At 0 the connection ends.
- Its bytes, and those of all peers together (`Budget`).
- Time: the seconds until a request has arrived in full, and until the peer has read a reply in full
  (`check`).

Rules for nghttp2:

A. A callback does not change a session of nghttp2: it copies, counts and takes notes. `_after_reading` and
   `_after_writing` act on the notes once nghttp2 has returned. Callbacks make two calls, where nghttp2's
   manual puts them: set_stream_user_data, which stores a pointer, and submit_trailer from the read callback
   of the data that it follows.
B. Nothing is read after the end of a session. `_admit` finds malformed frames before nghttp2 reads them
   (`_frames.pxd`).

Memory rules:

1. A Session owns its nghttp2_session. nghttp2 calls back only from within a method of that Session, which is
   therefore alive: `user_data` is a borrowed pointer to it. `abandon` frees the nghttp2_session, unless a
   callback calls it; then the method that called nghttp2 frees it.
2. A Stream is allocated when the HEADERS of a request begin, and is then both nghttp2's stream_user_data and
   in one of the Session's lists. `_forget` frees it, when nghttp2 calls `on_stream_close`.
   nghttp2_session_del does not call back, so `_dispose` frees the remaining ones. No other pointer to a
   Stream is kept: every method and callback gets it from `_stream` by the stream's number, or NULL if the
   stream is closed. `_stream` gets it from nghttp2, and caches the last one; `_forget` clears that pointer as
   well.
3. A Stream owns one buffer: the input of the request until that is complete, then the unsent output. For a
   method that takes a stream of messages, the input of the next message is in `incoming`.
4. The data that nghttp2 passes to a callback is valid only within it: the callback compares or copies it.
5. Names and values of headers are string literals, which nghttp2 need not copy, or nghttp2_submit_* copies
   them.
6. The garbage collector does not clear a Session or a NativeCall (no_gc_clear), so their attributes exist as
   long as they do. `abandon` breaks the only cycle that they are part of. A Turn may be cleared before them,
   so their destructors use the Budget, which refers to nothing.
"""

cimport cython
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free, malloc, realloc
from libc.string cimport memcmp, memcpy, memset

from ratelimit_service.core.trace_context import TraceHeaders

from ratelimit_service.transports.native._frames cimport *
from ratelimit_service.transports.native._nghttp2 cimport *


cdef enum:
    PREFIX = 5  # bytes before a gRPC message: one for whether it is compressed, and four for its length
    MOST_STREAMS = 10000
    MOST_HEADER_BYTES = 16384  # of a request with its trailers, decoded; a larger one is refused
    MOST_BLOCK_BYTES = 65536  # of a block of headers, decoded, which takes long; more ends the session
    HONEST_BLOCK_BYTES = 5120  # that decoding may add to a block: HPACK's table of 4 KiB, and static entries
    MOST_CONTINUATIONS = 8
    MOST_ACKS = 1000
    MOST_SETTINGS = 32
    MOST_UNSENT = 1024  # bytes of a stream of messages that the peer has not read
    MOST_UNSENT_ANSWERS = 1048576  # the same, if these messages answer messages
    COST_OF_A_MESSAGE = 3  # units of the abuse budget
    MOST_MESSAGE = 4096  # bytes of a message in a stream of messages
    MOST_LATE = 50  # requests that one `check` refuses, because calls wait meanwhile
    MOST_ERROR_TEXT = 1024  # bytes of the text of an error
    MOST_TRACEPARENT = 128  # bytes; core/trace_context.py has the reasons for both
    MOST_TRACESTATE = 512
    WINDOW = 1 << 20  # of the connection; that of a stream is the 64 KiB of HTTP/2
    ABUSE_BUDGET = 1000
    UNITS_OF_A_STREAM = 8  # units of the abuse budget that take as long as the decision on a call
    FEEDS_OF_A_STREAM = 4  # calls of `feed` that take as long
    BYTES_OF_WORK = 64     # the same for the first DENSE_BYTES of a body, to decode, match and count them
    HPACK_OF_WORK = 512    # the same for bytes of a block of headers
    BULK_OF_WORK = 8192    # the same for further bytes of a body
    ABUSE_BUDGET_BACK = 10  # milliseconds after which a unit is restored
    BYTES_OF_A_STREAM = 512  # of input in one turn, for each stream of the connection's share
    LEAST_BYTES_OF_A_TURN = 4096
    LEAST_HELD = 4096  # bytes of a connection that may wait even if all connections together keep too many
    NO_TIMEOUT = -1
    UNKNOWN = -1

cdef enum:  # bytes of memory, measured and rounded up
    STREAM_COST = 512  # in nghttp2 and here
    CALL_COST = 1024  # a NativeCall, its Request and its Plan
    TRACE_COST = 1024  # the trace context of a call
    BODY_COST = 16  # for each of the first DENSE_BYTES of a body, with its share of the decoded descriptors
    DENSE_BYTES = 16384  # all allowed descriptors fit into these (REQUEST_MAX_ENTRIES)
    BULK_COST = 2  # for each further byte
    FRAME_COST = 256  # a frame that nghttp2 has not written yet

cdef enum:  # statuses of gRPC
    OK = 0
    DEADLINE_EXCEEDED = 4
    RESOURCE_EXHAUSTED = 8
    UNIMPLEMENTED = 12
    INTERNAL = 13

cdef enum:  # states of a Stream; each has a list of its streams, the one that entered it first at the front
    ARRIVING = 0   # the request is not complete
    IN_HAND = 1    # the request is complete, and not answered
    LEAVING = 2    # there is output to send
    RESTING = 3    # a stream of messages without output
    STATES = 4

cdef enum:  # reasons for the refusal of a Stream
    NOT_REFUSED = 0
    NOT_POST
    NOT_GRPC
    NO_METHOD
    LARGE_HEADERS
    LARGE_MESSAGE
    TWO_MESSAGES
    NO_MESSAGE
    SHORT_MESSAGE
    COMPRESSED
    SLOW
    FULL
    LARGE_PART


cdef struct Stream:
    int32_t number
    Stream *before
    Stream *after
    uint8_t state
    uint8_t refusal      # its reason, once a callback has noted it or it was sent
    uint64_t since       # the time at which it entered its state, by the Session's clock
    int method           # the index of its path in the Session's paths
    int64_t timeout      # milliseconds
    size_t header_bytes
    bint is_post
    bint is_grpc
    bint complete        # the peer has ended the request
    bint answered        # nghttp2 has the answer
    bint stays           # more messages may follow
    uint8_t *buffer      # rule 3
    size_t size          # bytes of it in use
    size_t room          # bytes allocated
    size_t sent          # bytes of it that nghttp2 has taken
    uint8_t *incoming    # rule 3: the next message of a stream of messages
    size_t incoming_size # bytes of it in use
    size_t incoming_room # bytes allocated
    uint8_t status       # the gRPC status at the end of a stream of messages

cdef struct List:
    Stream *first
    Stream *last

cdef struct Numbers:  # numbers of streams
    int32_t *items
    size_t size
    size_t room


cdef int note(Numbers *numbers, int32_t number) noexcept:
    """Append a number; return an error of nghttp2 if there is no memory."""
    cdef int32_t *larger
    if numbers.size == numbers.room:
        larger = <int32_t *> realloc(numbers.items, (2 * numbers.room + 16) * sizeof(int32_t))
        if larger is NULL:
            return NGHTTP2_ERR_CALLBACK_FAILURE
        numbers.items = larger
        numbers.room = 2 * numbers.room + 16
    numbers.items[numbers.size] = number
    numbers.size += 1
    return 0


cdef void set_header(
    nghttp2_nv *header, const char *name, size_t name_size, const char *value, size_t value_size
) noexcept:
    header.name = <uint8_t *> name
    header.namelen = name_size
    header.value = <uint8_t *> value
    header.valuelen = value_size
    header.flags = NGHTTP2_NV_FLAG_NO_COPY_NAME | NGHTTP2_NV_FLAG_NO_COPY_VALUE  # rule 5


# The statuses of gRPC, two bytes each: a literal, for rule 5.
cdef const char *STATUSES = b"0 1 2 3 4 5 6 7 8 9 10111213141516"


cdef size_t announced(const uint8_t *head) noexcept:
    """Return the length that the prefix of a message announces."""
    return (<size_t> head[1] << 24) | (<size_t> head[2] << 16) | (<size_t> head[3] << 8) | <size_t> head[4]


cdef bint equal(const uint8_t *text, size_t size, const char *other, size_t other_size) noexcept:
    return size == other_size and memcmp(text, other, size) == 0


cdef int64_t milliseconds(const uint8_t *text, size_t size) noexcept:
    """Return a grpc-timeout, which is at most eight digits and a unit; NO_TIMEOUT for anything else."""
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
    """Return a text for grpc-message: printable ASCII, and %XX for every other byte and for "%"."""
    return b"".join([
        b"%c" % byte if 0x20 <= byte <= 0x7E and byte != 0x25 else b"%%%02X" % byte
        for byte in message[:MOST_ERROR_TEXT]
    ])


cdef bytes LONG_TRACESTATE = b"," * (MOST_TRACESTATE + 1)  # replaces values that are too long together

REFUSALS = {
    LARGE_HEADERS: (RESOURCE_EXHAUSTED, b"the headers are larger than 16 KiB"),
    NO_METHOD: (UNIMPLEMENTED, b"no such method"),
    TWO_MESSAGES: (UNIMPLEMENTED, percent_encoded(b"the method takes one message, not more")),
    NO_MESSAGE: (UNIMPLEMENTED, percent_encoded(b"the method takes one message, and there was none")),
    SHORT_MESSAGE: (INTERNAL, b"the message ended early"),
    COMPRESSED: (UNIMPLEMENTED, b"compressed messages are not supported"),
    SLOW: (DEADLINE_EXCEEDED, b"the request did not arrive in full in time"),
    FULL: (RESOURCE_EXHAUSTED, b"too many bytes of requests and replies wait here"),
    LARGE_PART: (RESOURCE_EXHAUSTED, b"the message is larger than %d bytes" % MOST_MESSAGE),
}


STREAMS, HEADER_BYTES, ABUSE, PART_BYTES = MOST_STREAMS, MOST_HEADER_BYTES, ABUSE_BUDGET, MOST_MESSAGE
UNSENT_ANSWERS, LEAST_HELD_BYTES = MOST_UNSENT_ANSWERS, LEAST_HELD
"""The bounds that docs/bounds.md lists."""


def library_version():
    """Return the version of the loaded libnghttp2: as a number, 0x013400 for 1.52.0, and as text."""
    info = nghttp2_version(0)
    return info.version_num, (<bytes> info.version_str).decode()


@cython.final
cdef class Budget:
    """The bytes that a server keeps for its peers, and the bound on each kind.

    Half of `most` is for connections, a quarter for incomplete requests and unread replies (`waiting`), and a
    quarter for calls `in_hand`: a peer that exhausts one of them does not affect the others.
    """

    cdef readonly size_t connections
    cdef readonly size_t waiting
    cdef readonly size_t in_hand
    cdef readonly size_t most_connections
    cdef readonly size_t most_waiting
    cdef readonly size_t most_in_hand

    def __cinit__(self, size_t most):
        self.most_connections = most // 2
        self.most_waiting = most // 4
        self.most_in_hand = most // 4

    def connect(self, size_t cost):
        """Count a connection. Peers checks before whether there is room for it."""
        self.connections += cost

    def disconnect(self, size_t cost):
        """Count a closed connection."""
        self.connections -= cost

    @property
    def held(self):
        """The bytes of all kinds."""
        return self.connections + self.waiting + self.in_hand

    @property
    def full(self):
        """Whether no more bytes may wait."""
        return self.waiting > self.most_waiting

    @property
    def pressed(self):
        """Whether so many bytes wait that the connections with most of them must be closed."""
        return self.waiting > self.most_waiting // 4 * 3


@cython.final
cdef class Turn:
    """The calls and answers of one turn of the event loop, over all connections of a server.

    `begin` is called as soon as there is something to process, and not again until `end`.
    """

    cdef readonly Budget budget
    cdef readonly uint64_t number
    """The number of the turn."""
    cdef public int share
    """The streams that a connection may open in this turn. Further ones wait for the next turn."""
    cdef public int total
    """The streams that all connections may open in this turn."""
    cdef readonly int opened
    """The streams that all connections have opened in this turn, and other work in units of the time for one:
    taking input, and the bytes of calls."""
    cdef readonly int work
    """The part of `opened` that is the calls of the turn."""
    cdef int _beyond
    cdef int _feeds
    cdef list _calls, _others, _answered, _owners, _postponed
    cdef object _begin
    cdef bint _begun

    def __cinit__(self, object begin, Budget budget not None):
        self._begin = begin
        self.budget = budget
        self.share = MOST_STREAMS
        self.total = 1 << 30
        self._calls, self._others, self._answered, self._owners, self._postponed = [], [], [], [], []

    def spend(self, int streams):
        """Count work that takes as long as this number of streams."""
        self.opened += streams

    def begin(self):
        """Restore the share of each connection; return the owners of those that wait for it (`postpone`)."""
        self.number += 1
        self.opened = self.work = self._beyond = 0
        taken, self._postponed = self._postponed, []
        return taken

    def leave_half(self):
        """Reserve half of the turn for input that has not waited, however much input has."""
        self._beyond = max(0, self.opened - self.total // 2)

    def take_calls(self):
        """Take the complete calls of the first method, in the order of their arrival."""
        taken, self._calls = self._calls, []
        return taken

    def take_others(self):
        """Take the complete calls of other methods."""
        taken, self._others = self._others, []
        return taken

    def take_answered(self):
        """Take the answered calls."""
        taken, self._answered = self._answered, []
        return taken

    def take_owners(self):
        """Take the owners of sessions that may have output to `drain`."""
        taken, self._owners = self._owners, []
        return taken

    @property
    def waiting(self):
        """The number of owners that wait for the next turn."""
        return len(self._postponed)

    def postpone(self, owner):
        """Continue with the owner of a session in the next turn, because its input exceeds its share."""
        self._postponed.append(owner)
        self._something()

    def end(self, bint more=False):
        """End the turn. The next one begins with the next input, or at once if there is `more` to process."""
        self._begun = False
        if more or self._calls or self._others or self._answered or self._owners or self._postponed:
            self._something()

    cdef int _something(self) except -1:
        if not self._begun:
            self._begun = True
            self._begin()
        return 0


@cython.final
@cython.freelist(256)
@cython.no_gc_clear
cdef class NativeCall:
    """A complete call. It is a service.Call as soon as `request` is set."""

    cdef readonly Session session
    cdef readonly int32_t number
    """The number of its stream."""
    cdef readonly int method
    """The index of its path in those of the session."""
    cdef readonly int64_t timeout
    """Milliseconds, or -1."""
    cdef readonly bytes body
    cdef readonly bint last
    """Whether it represents the end of a stream of messages, and no message."""
    cdef readonly tuple wrong
    """The gRPC status and its text if the peer ended the stream of messages with an error; otherwise None."""
    cdef readonly object trace
    """The trace context from the peer (core/trace_context.py); None if there is none, and without tracing."""
    cdef public object request
    cdef readonly object answer
    """The answer, once there is one."""
    cdef public object started
    cdef size_t _cost

    def __dealloc__(self):
        if self._cost:
            self.session.calls -= 1
            self.session._in_hand -= self._cost
            self.session._budget.in_hand -= self._cost

    def reply(self, object answer):
        """See service.Call. The turn then lists the call as answered; `write` or `fail` answers the peer."""
        self.answer = answer
        turn = self.session._turn
        turn._answered.append(self)
        turn._something()

    @property
    def gone(self):
        """Whether the caller has disconnected, or has cancelled the call."""
        return self.session._stream(self.number) is NULL

    def write(self, bytes payload):
        """Answer with a message and the status OK. Does nothing if the caller has disconnected."""
        self.session._reply(self.number, payload, False)
        self.session._touch()

    def fail(self, int status, str message):
        """Answer with another gRPC status than OK. Does nothing if the caller has disconnected."""
        session = self.session
        cdef Stream *stream = session._stream(self.number)
        if stream is not NULL and not stream.answered:
            session._refuse(stream, status, percent_encoded(message.encode("utf-8", "replace")))
            session._touch()


@cython.final
@cython.no_gc_clear
cdef class Session:
    """The server side of one connection.

    `paths` are those of the methods, and `owner` represents the session in the Turn. A message may have
    `max_message` bytes, and the requests and replies of the connection together `max_held`. `now` is the
    clock of `check`, in milliseconds. The methods from the index `many` on take a stream of messages of at
    most MOST_MESSAGE bytes: each message is a NativeCall, and so is their end. With `traced`, calls have the
    trace context of their headers.
    """

    cdef nghttp2_session *_h2
    cdef List _lists[STATES]
    cdef tuple _paths
    cdef int _many
    cdef size_t _max_message
    cdef size_t _max_held
    cdef size_t _in_hand
    cdef size_t _kept
    cdef int _abuse_budget
    cdef uint64_t _now        # milliseconds
    cdef uint32_t _error      # the HTTP/2 error that ends the session; 0: none
    cdef bint _ending         # the session was ended
    cdef bint _failed
    cdef bint _inside         # within a call of nghttp2: rule A
    cdef Frames _frames
    cdef uint64_t _turn_number
    cdef int _streams_left    # of the share of that turn
    cdef size_t _bytes_left
    cdef int32_t _block       # the stream whose block of headers is incomplete; 0: none
    cdef size_t _block_bytes  # of that block so far, decoded
    cdef int _block_units     # units of the abuse budget that it has cost
    cdef Numbers _refused     # streams whose refusal is not sent yet
    cdef Numbers _unwanted    # streams that were answered before their request was complete
    cdef dict _traces         # the trace contexts of incomplete requests, by stream; None without tracing
    cdef readonly bint opened
    """Whether the peer has sent the preface and SETTINGS, as HTTP/2 demands."""
    cdef readonly size_t streams
    """The number of open streams."""
    cdef readonly size_t waiting
    """Bytes of incomplete requests, of replies that the peer has not read, and those that `keep` counts."""
    cdef readonly int calls
    """The number of its calls that are not yet answered, including those of closed streams."""
    cdef readonly object owner
    """The object that calls `drain`; None once the session is abandoned."""
    cdef public bint forbidden
    """Whether every call is refused because of the peer's certificate. Valid even after `abandon`."""
    cdef Turn _turn
    cdef Budget _budget
    cdef bint _touched
    cdef Stream *_last
    cdef uint8_t *_out
    cdef size_t _out_room
    cdef size_t _out_used     # bytes written by nghttp2 and not yet drained

    def __cinit__(
        self, Turn turn not None, object owner, object paths, size_t max_message, size_t max_held,
        uint64_t now=0, int many=1 << 30, bint traced=False,
    ):
        cdef nghttp2_option *option = NULL
        cdef nghttp2_settings_entry settings[2]
        self._paths = tuple([bytes(path) for path in paths])
        self._many = many
        self._traces = {} if traced else None
        self._max_message = max_message
        self._max_held = max_held
        self._abuse_budget = ABUSE_BUDGET
        self._now = now
        self._turn = turn
        self._budget = turn.budget
        self._turn_number = turn.number - 1
        begin(&self._frames)
        self.owner = owner
        if nghttp2_option_new(&option) != 0:
            raise MemoryError
        nghttp2_option_set_no_closed_streams(option, 1)
        # Envoy puts the name of its cluster into :authority. Istio's cluster names are like
        # `outbound|8081||host`, and nghttp2 would reset streams whose authority is not valid in a URL.
        # `_header` checks the headers that a call depends on; the others have no effect.
        nghttp2_option_set_no_http_messaging(option, 1)
        nghttp2_option_set_max_outbound_ack(option, MOST_ACKS)
        nghttp2_option_set_max_settings(option, MOST_SETTINGS)
        nghttp2_option_set_max_continuations(option, MOST_CONTINUATIONS)
        # A gateway resets every call that takes too long, thousands a second while the store is slow. Such a
        # reset costs no more than any call; `_spend` counts the other resets.
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
        self._dispose()

    # Called by the server.

    def feed(self, bytes data):
        """Take input, and return the number of bytes taken; the rest is for the next turn."""
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        cdef const uint8_t *start = <const uint8_t *> PyBytes_AS_STRING(data)
        cdef size_t admitted
        if self._failed or self._ending:
            self._touch()
            return size
        if self._turn.opened >= self._turn.total + self._turn._beyond:
            return 0
        self._turn._feeds += 1
        if self._turn._feeds == FEEDS_OF_A_STREAM:
            self._turn._feeds = 0
            self._turn.opened += 1
        if self._turn_number != self._turn.number:
            self._turn_number = self._turn.number
            self._streams_left = self._turn.share
            self._bytes_left = max(
                <size_t> LEAST_BYTES_OF_A_TURN, <size_t> self._streams_left * BYTES_OF_A_STREAM)
        if self._turn.opened >= self._turn.total:  # no more long calls in this turn
            self._bytes_left = min(self._bytes_left, <size_t> LEAST_BYTES_OF_A_TURN)
        if self.owner is None:  # orphaned: the turn bounds how many of these sessions are fed
            self._streams_left, self._bytes_left = MOST_STREAMS, size
        self._streams_left = min(
            self._streams_left, self._turn.total + self._turn._beyond - self._turn.opened)
        admitted = self._admit(start, size)
        if admitted:
            self._inside = True
            if nghttp2_session_mem_recv(self._h2, start, admitted) < 0:
                self._failed = True
            self._inside = False
        self._after_reading()
        self._touch()
        return size if self._failed or self._ending else <Py_ssize_t> admitted

    def abandon(self):
        """End the session without any output: the connection is closed."""
        self._failed = True
        self.owner = None
        if not self._inside:
            self._dispose()

    def orphan(self):
        """The connection is closed: take the arrived calls of the first method, and write no output."""
        self.owner = None

    def keep(self, size_t size):
        """Count bytes of input and output that are kept for the peer outside of the session."""
        if size and not self._failed:
            size += FRAME_COST * nghttp2_session_get_outbound_queue_size(self._h2)
        self._wait_for(size - self._kept)
        self._kept = size

    def send(self, int32_t number, bytes payload):
        """Send a message of a stream of messages; return False if the stream has ended."""
        cdef Stream *stream = self._stream(number)
        if stream is NULL or (stream.answered and not stream.stays):
            return False
        cdef size_t most = MOST_UNSENT if stream.method < self._many else MOST_UNSENT_ANSWERS
        if not stream.answered:
            self._reply(number, payload, True)
        elif stream.size - stream.sent > most or self.waiting > self._max_held or (
                self._budget.full and self.waiting > LEAST_HELD):  # the peer does not read
            nghttp2_submit_rst_stream(self._h2, NGHTTP2_FLAG_NONE, number, NGHTTP2_ENHANCE_YOUR_CALM)
            self._touch()
            return False
        else:
            self._queue(stream, payload)
            if stream.state != LEAVING:
                self._move(stream, LEAVING)
            nghttp2_session_resume_data(self._h2, number)
        self._touch()
        return True

    def end(self, int32_t number, uint8_t status=OK):
        """End a stream of messages. Does nothing if none was sent, or the stream has ended."""
        cdef Stream *stream = self._stream(number)
        if stream is not NULL and stream.stays:
            self._finish(stream, status)
            self._touch()

    def is_open(self, int32_t number):
        """Return whether a stream is open."""
        return self._stream(number) is not NULL

    def drain(self):
        """Return the output to write now."""
        self._touched = False
        if self._failed:
            return b""
        self._write()
        data = PyBytes_FromStringAndSize(<char *> self._out, self._out_used) if self._out_used else b""
        self._out_used = 0
        if self._out_room > 65536:  # do not keep memory that only a large batch needs
            free(self._out)
            self._out = NULL
            self._out_room = 0
        return data

    cdef int _write(self) except -1:
        """Append all output of nghttp2 to what `drain` returns next."""
        cdef const uint8_t *chunk
        cdef Py_ssize_t size = 0
        cdef size_t used = self._out_used
        cdef uint8_t *larger
        while True:
            self._inside = True
            size = nghttp2_session_mem_send(self._h2, &chunk)
            self._inside = False
            if size == 0 and self._after_writing():
                continue
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
            self._out_used = used
        if size < 0:
            self._failed = True
        return 0

    def announce_goaway(self):
        """Ask the peer to open no more streams; streams that it opens meanwhile are served."""
        if not self._failed:
            nghttp2_submit_shutdown_notice(self._h2)
            self._touch()

    def goaway(self):
        """Accept no more streams. The session is `closed` when the open ones have ended."""
        if not self._failed:
            last = nghttp2_session_get_last_proc_stream_id(self._h2)
            nghttp2_submit_goaway(self._h2, NGHTTP2_FLAG_NONE, last, NGHTTP2_NO_ERROR, NULL, 0)
            # The GOAWAY names the last stream that is served. nghttp2 refuses later streams once it has
            # written the GOAWAY, so it is written before the next read: a peer repeats later calls on another
            # server, and their charges would count twice.
            self._write()
            self._touch()

    def check(self, uint64_t now, uint64_t request_time, uint64_t reply_time):
        """Restore a part of the abuse budget, and refuse requests that take too long to arrive.

        Return whether a reply waits for longer than `reply_time`, because the peer does not read it, or reads
        too slowly. Called about once a second. All times are in milliseconds.
        """
        cdef Stream *stream
        cdef int late
        if self._failed:
            return False
        if now > self._now:
            self._abuse_budget = <int> min(
                <uint64_t> ABUSE_BUDGET, self._abuse_budget + (now - self._now) // ABUSE_BUDGET_BACK)
            self._now = now
        now = self._now
        for late in range(MOST_LATE):
            stream = self._lists[ARRIVING].first
            if stream is NULL or now - stream.since <= request_time:
                break
            if stream.number == self._block:  # nghttp2 accepts only the rest of these headers
                self._error = NGHTTP2_ENHANCE_YOUR_CALM
                self._touch()
                break
            stream.refusal = SLOW
            self._send_refusal(stream)
            self._touch()
        self._end_if_broken()
        stream = self._lists[LEAVING].first
        return stream is not NULL and now - stream.since > reply_time

    @property
    def last_stream(self):
        """The number of the last stream that the peer has opened; 0 if there was none."""
        return 0 if self._failed else nghttp2_session_get_last_proc_stream_id(self._h2)

    @property
    def busy(self):
        """Whether a request is arriving or in hand, or a reply is being sent."""
        return self._lists[ARRIVING].first is not NULL or self._lists[IN_HAND].first is not NULL or (
            self._lists[LEAVING].first is not NULL)

    @property
    def error(self):
        """The HTTP/2 error with which this server ends the session; 0 if there is none."""
        return self._error

    @property
    def closed(self):
        """Whether the connection is to be closed, once the output of `drain` is written."""
        return self._failed or not (
            nghttp2_session_want_read(self._h2) or nghttp2_session_want_write(self._h2))

    # Helpers of the methods above and of the callbacks.

    cdef int _touch(self) except -1:
        """Note that there may be output, or that `closed` may have become true."""
        if self.owner is not None:
            if not self._touched:
                self._touched = True
                self._turn._owners.append(self.owner)
            self._turn._something()
        return 0

    cdef void _dispose(self) noexcept:
        """Free the memory of nghttp2 and the streams; calls in hand may still need the Session itself."""
        cdef int state
        for state in range(STATES):
            while self._lists[state].first is not NULL:
                self._forget(self._lists[state].first)
        if self._h2 is not NULL:
            nghttp2_session_del(self._h2)
            self._h2 = NULL
        free(self._out)
        free(self._refused.items)
        free(self._unwanted.items)
        self._out = NULL
        self._refused.items = self._unwanted.items = NULL
        self._out_used = self._out_room = self._refused.room = self._refused.size = 0
        self._unwanted.room = self._unwanted.size = 0
        if self._budget is not None:
            self._wait_for(-self._kept)
            self._kept = 0

    cdef size_t _admit(self, const uint8_t *data, size_t size) noexcept:
        """Return the number of bytes, of `size`, that nghttp2 may read now.

        If that is not all of them, `_error` is set, or the rest exceeds the share of this turn.
        """
        cdef Frames *frames = &self._frames
        cdef size_t at = 0
        cdef size_t some
        cdef size_t head
        cdef bint split
        size = min(size, self._bytes_left)
        while at < size:
            if frames.left:
                some = pass_payload(frames, size - at)
                at += some
                if frames.head[3] == F_HEADERS or frames.head[3] == F_CONTINUATION:
                    # HPACK takes long for few bytes, also of streams whose headers nghttp2 no longer reports.
                    self._turn.opened += <int> (some // HPACK_OF_WORK)
                continue
            head = at
            split = frames.known != 0  # nghttp2 already has the beginning of this head
            at += take_head(frames, data + at, size - at)
            if frames.known < FRAME_HEAD:
                break
            self._error = malformed(frames)
            if self._error:
                return head
            if frames.head[3] == F_HEADERS:
                if self._streams_left <= 0 and not split:
                    frames.known = 0
                    self._bytes_left = 0
                    return head
                self._streams_left -= 1
                self._turn.opened += 1
            else:
                self._spend(self._cost_of_frame())
                if self._error:
                    return head
            frames.known = 0
            frames.left = payload_size(frames)
        self._bytes_left -= at
        return at

    cdef int _cost_of_frame(self) noexcept:
        """Return the units of the abuse budget that the current frame costs."""
        cdef size_t size = payload_size(&self._frames)
        cdef uint8_t kind = self._frames.head[3]
        cdef uint8_t flags = self._frames.head[4]
        if kind == F_DATA:
            return 1 if size == 0 and not flags & F_END_STREAM else 0
        if kind == F_PRIORITY:
            return 1
        if kind == F_PING:
            return 0 if flags & F_ACK else 1
        if kind == F_SETTINGS:  # each entry may change the windows of all streams
            return 0 if flags & F_ACK else 1 + <int> (size // 6 * self.streams // 256)
        if kind == F_GOAWAY:  # nghttp2 iterates over all streams
            return 1 + <int> (self.streams // 64)
        return 0

    cdef void _spend(self, int units) noexcept:
        """Spend units of the peer's abuse budget."""
        if units:
            self._abuse_budget -= units
            self._turn.opened += units // UNITS_OF_A_STREAM
            if self._abuse_budget <= 0 and not self._error:
                self._error = NGHTTP2_ENHANCE_YOUR_CALM

    cdef int _after_reading(self) except -1:
        """Act on the notes of the callbacks after nghttp2 has read."""
        cdef size_t index
        cdef size_t kept = 0
        cdef Stream *stream
        if self._failed:
            if self.owner is None:
                self._dispose()
            return 0
        for index in range(self._refused.size):
            stream = self._stream(self._refused.items[index])
            if stream is NULL or stream.answered:
                continue
            if stream.number == self._block:  # it is answered once its headers have ended
                self._refused.items[kept] = stream.number
                kept += 1
            else:
                self._send_refusal(stream)
        self._refused.size = kept
        self._end_if_broken()
        return 0

    cdef bint _after_writing(self) noexcept:
        """Act on the notes of the callbacks after nghttp2 has written; return whether more output exists."""
        cdef size_t index
        cdef bint more = self._unwanted.size != 0
        for index in range(self._unwanted.size):
            nghttp2_submit_rst_stream(
                self._h2, NGHTTP2_FLAG_NONE, self._unwanted.items[index], NGHTTP2_NO_ERROR)
        self._unwanted.size = 0
        if self._error and not self._ending:
            self._end_if_broken()
            more = True
        return more

    cdef void _end_if_broken(self) noexcept:
        """End the session if there is an error; nothing is read after that (rule B)."""
        if self._error and not self._ending and not self._failed:
            self._ending = True
            self._check(nghttp2_session_terminate_session(self._h2, self._error))

    # Streams.

    cdef Stream *_stream(self, int32_t number) noexcept:
        if self._h2 is NULL:
            return NULL
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
        self.streams += 1
        nghttp2_session_set_stream_user_data(self._h2, number, stream)
        full = not self._has_room_for(STREAM_COST)
        self._enter(stream, ARRIVING)
        return self._decline(stream, FULL) if full else 0

    cdef void _forget(self, Stream *stream) noexcept:
        """Free a stream (rule 2), which nghttp2 no longer uses."""
        if self._last is stream:
            self._last = NULL
        if self._block == stream.number:
            self._block = 0
        if self._traces is not None and self._traces.pop(stream.number, None) is not None:
            self._wait_for(-TRACE_COST)
        self._leave(stream)
        self.streams -= 1
        free(stream.incoming)
        free(stream.buffer)
        free(stream)

    cdef void _enter(self, Stream *stream, uint8_t state) noexcept:
        """Append a stream that is in no list to the list of a state."""
        cdef List *there = &self._lists[state]
        stream.state = state
        stream.since = self._now
        stream.before, stream.after = there.last, NULL
        if there.last is NULL:
            there.first = stream
        else:
            there.last.after = stream
        there.last = stream
        if state != IN_HAND:  # in that state, the NativeCall counts its bytes
            self._wait_for(STREAM_COST + stream.room + stream.incoming_room)

    cdef void _leave(self, Stream *stream) noexcept:
        """Remove a stream from its list."""
        cdef List *there = &self._lists[stream.state]
        if stream.before is NULL:
            there.first = stream.after
        else:
            stream.before.after = stream.after
        if stream.after is NULL:
            there.last = stream.before
        else:
            stream.after.before = stream.before
        if stream.state != IN_HAND:
            self._wait_for(-(STREAM_COST + stream.room + stream.incoming_room))

    cdef void _move(self, Stream *stream, uint8_t state) noexcept:
        self._leave(stream)
        self._enter(stream, state)

    cdef void _wait_for(self, size_t more) noexcept:
        """Count bytes that wait for the peer. Negative numbers work, because unsigned numbers wrap around."""
        self.waiting += more
        self._budget.waiting += more

    cdef bint _has_room_for(self, size_t more) noexcept:
        """Return whether so many more bytes may be kept for the peer."""
        budget = self._budget
        return self.waiting + more <= self._max_held and (
            budget.waiting + more <= budget.most_waiting or self.waiting + more <= LEAST_HELD)

    cdef void _empty_incoming(self, Stream *stream) noexcept:
        """Free the input of the next message. Its bytes count as waiting: its stream is never IN_HAND."""
        self._wait_for(-stream.incoming_room)
        free(stream.incoming)
        stream.incoming = NULL
        stream.incoming_size = stream.incoming_room = 0

    cdef void _empty(self, Stream *stream) noexcept:
        """Free the buffer, whose bytes count as waiting unless it is empty."""
        self._wait_for(-stream.room)
        free(stream.buffer)
        stream.buffer = NULL
        stream.size = stream.room = stream.sent = 0

    cdef int _decline(self, Stream *stream, uint8_t why) noexcept:
        """Note that a stream is to be refused, and free its request."""
        if stream.refusal or stream.answered:
            return 0
        self._empty_incoming(stream)
        self._empty(stream)
        stream.refusal = why
        return note(&self._refused, stream.number)

    # Requests.

    cdef int _header(
        self, Stream *stream, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
        const uint8_t *value, size_t size,
    ) noexcept:
        cdef Py_ssize_t index
        cdef int units
        self._block_bytes += name_size + size + 32  # as HTTP/2 counts them
        stream.header_bytes += name_size + size + 32
        # One byte of HPACK can become a header of 4 KiB. An honest peer sends each of its headers once.
        if self._block_bytes > frame.hd.length + HONEST_BLOCK_BYTES:
            units = 1 + <int> ((self._block_bytes - frame.hd.length - HONEST_BLOCK_BYTES) // 1024)
            self._spend(units - self._block_units)
            self._block_units = units
        if self._block_bytes > MOST_BLOCK_BYTES and not self._error:
            self._error = NGHTTP2_ENHANCE_YOUR_CALM
        if self._error:
            return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE  # the session ends after this read
        if stream.header_bytes > MOST_HEADER_BYTES:
            return self._decline(stream, LARGE_HEADERS)
        if frame.headers.cat != NGHTTP2_HCAT_REQUEST:  # trailers
            return 0
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
        elif self._traces is not None:
            return self._trace_header(stream, name, name_size, value, size)
        return 0

    cdef int _trace_header(
        self, Stream *stream, const uint8_t *name, size_t name_size, const uint8_t *value, size_t size
    ) noexcept:
        """Keep the trace context of a request, as `sent_in` of core/trace_context.py does."""
        cdef bint is_parent = equal(name, name_size, "traceparent", 11)
        if not is_parent and not equal(name, name_size, "tracestate", 10):
            return 0
        try:
            known = self._traces.get(stream.number)
            if known is None:
                if not self._has_room_for(TRACE_COST):
                    return 0
                self._wait_for(TRACE_COST)
            parent, state = known or (None, None)
            if is_parent:  # of several, none is valid
                valid = parent is None and size <= MOST_TRACEPARENT
                parent = PyBytes_FromStringAndSize(<const char *> value, size) if valid else b""
            elif size + (0 if state is None else <size_t> len(state) + 1) > MOST_TRACESTATE:
                state = LONG_TRACESTATE
            else:
                more = PyBytes_FromStringAndSize(<const char *> value, size)
                state = more if state is None else state + b"," + more
            self._traces[stream.number] = (parent, state)
        except MemoryError:
            return NGHTTP2_ERR_CALLBACK_FAILURE
        return 0

    cdef object _take_trace(self, int32_t number):
        """Remove and return the trace context of a request; None if it has none."""
        known = self._traces.pop(number, None)
        if known is None:
            return None
        self._wait_for(-TRACE_COST)
        parent, state = known
        return TraceHeaders(parent or b"", b"" if state is None or state is LONG_TRACESTATE else state)

    cdef int _headers_end(self, Stream *stream, bint trailers) noexcept:
        """Refuse a request that is no call once its headers have ended, so that its body is not kept."""
        self._block = 0
        if trailers:
            return 0
        if not stream.is_post:
            return self._decline(stream, NOT_POST)
        if not stream.is_grpc:
            return self._decline(stream, NOT_GRPC)
        if stream.method == UNKNOWN:
            return self._decline(stream, NO_METHOD)
        return 0

    cdef int _chunk(self, Stream *stream, const uint8_t *data, size_t size) noexcept:
        """Keep input of the message of a request; refuse it if it is larger than announced or allowed."""
        cdef size_t room
        cdef uint8_t *larger
        if stream.size + size > stream.room:
            room = max(2 * stream.room, stream.size + size)
            if stream.size >= PREFIX:
                room = max(stream.size + size, min(room, PREFIX + announced(stream.buffer)))
            if not self._has_room_for(room - stream.room):
                return self._decline(stream, FULL)
            larger = <uint8_t *> realloc(stream.buffer, room)
            if larger is NULL:
                return NGHTTP2_ERR_CALLBACK_FAILURE
            self._wait_for(room - stream.room)
            stream.buffer, stream.room = larger, room
        memcpy(stream.buffer + stream.size, data, size)
        stream.size += size
        if stream.size < PREFIX:
            return 0
        if announced(stream.buffer) > self._max_message:
            return self._decline(stream, LARGE_MESSAGE)
        if stream.size > PREFIX + announced(stream.buffer):
            return self._decline(stream, TWO_MESSAGES)
        return 0

    cdef int _messages(self, Stream *stream, const uint8_t *data, size_t size) except -1:
        """Take input of a stream of messages, and create a call for each complete message."""
        cdef size_t wanted, some
        if stream.incoming is NULL:
            if not self._has_room_for(PREFIX + MOST_MESSAGE):
                return self._decline(stream, FULL)
            stream.incoming = <uint8_t *> malloc(PREFIX + MOST_MESSAGE)
            if stream.incoming is NULL:
                raise MemoryError
            stream.incoming_room = PREFIX + MOST_MESSAGE
            self._wait_for(stream.incoming_room)
        while size:
            wanted = PREFIX + announced(stream.incoming) if stream.incoming_size >= PREFIX else PREFIX
            some = min(size, wanted - stream.incoming_size)
            memcpy(stream.incoming + stream.incoming_size, data, some)
            stream.incoming_size += some
            data += some
            size -= some
            if stream.incoming_size < PREFIX:
                break
            if stream.incoming[0]:
                return self._hand_over_end(stream, COMPRESSED)
            if announced(stream.incoming) > MOST_MESSAGE:
                return self._hand_over_end(stream, LARGE_PART)
            if stream.incoming_size == PREFIX + announced(stream.incoming):
                self._spend(COST_OF_A_MESSAGE)
                if self._error:
                    return 0
                if self.owner is None:
                    stream.incoming_size = 0
                    continue
                self._turn.opened += 1
                body = PyBytes_FromStringAndSize(
                    <char *> stream.incoming + PREFIX, stream.incoming_size - PREFIX)
                if not self._hand_over(stream, body):
                    return self._hand_over_end(stream, FULL)
                stream.incoming_size = 0
        if stream.incoming_size == 0:
            self._empty_incoming(stream)
        return 0

    cdef int _hand_over_end(self, Stream *stream, uint8_t why) except -1:
        """Create a call for the end of a stream of messages, so that the messages are answered before it."""
        self._empty_incoming(stream)
        stream.refusal = why
        wrong = None if why == NOT_REFUSED else REFUSALS[why]
        if not self._hand_over(stream, b"", True, wrong):
            self._spend(ABUSE_BUDGET)  # the peer has so many calls in flight that another has no room
        return 0

    cdef bint _hand_over(self, Stream *stream, bytes body, bint last=False, tuple wrong=None) except -1:
        """Create a call for a complete message; return False if there is no room for it."""
        cdef size_t size = PyBytes_GET_SIZE(body)
        cdef size_t dense = min(size, <size_t> DENSE_BYTES)
        cdef size_t cost = CALL_COST + BODY_COST * dense + BULK_COST * (size - dense)
        if self.owner is None and stream.method:
            return True
        budget = self._budget
        # A single call is accepted, however small the bounds are. A connection may have at most as many bytes
        # in hand as it leaves for all others, so that a few connections cannot use up all of them.
        if (budget.in_hand and budget.in_hand + cost > budget.most_in_hand) or \
                (self._in_hand
                 and self._in_hand + cost > min(self._max_held, budget.most_in_hand - budget.in_hand)):
            return False
        call = <NativeCall> NativeCall.__new__(NativeCall)
        call.session = self
        if self._traces is not None and (trace := self._take_trace(stream.number)) is not None:
            call.trace = trace
            cost += TRACE_COST
        call.number = stream.number
        call.method = stream.method
        call.timeout = stream.timeout
        call.body = body
        call.last = last
        call.wrong = wrong
        call._cost = cost
        self._in_hand += cost
        budget.in_hand += cost
        self.calls += 1
        bytes_of_work = <int> (dense // BYTES_OF_WORK + (size - dense) // BULK_OF_WORK)
        self._turn.opened += bytes_of_work
        self._turn.work += 1 + bytes_of_work
        (self._turn._calls if stream.method == 0 else self._turn._others).append(call)
        return True

    cdef int _end(self, Stream *stream) except -1:
        """Create a call for a request that the peer has ended, or refuse it."""
        stream.complete = True
        if stream.refusal or (stream.answered and not stream.stays):
            return 0
        if stream.method >= self._many:
            return self._hand_over_end(stream, SHORT_MESSAGE if stream.incoming_size else NOT_REFUSED)
        if stream.answered:
            return 0
        if stream.size == 0:
            return self._decline(stream, NO_MESSAGE)
        if stream.size < PREFIX or stream.size < PREFIX + announced(stream.buffer):
            return self._decline(stream, SHORT_MESSAGE)
        if stream.buffer[0]:
            return self._decline(stream, COMPRESSED)
        body = PyBytes_FromStringAndSize(<char *> stream.buffer + PREFIX, stream.size - PREFIX)
        if not self._hand_over(stream, body):
            return self._decline(stream, FULL)
        self._empty(stream)
        self._move(stream, IN_HAND)
        if self._abuse_budget < ABUSE_BUDGET:
            self._abuse_budget += 1
        return 0

    # Replies.

    cdef int _queue(self, Stream *stream, bytes payload) except -1:
        """Append a message to the output of a stream. Its bytes count as waiting."""
        cdef size_t size = PyBytes_GET_SIZE(payload)
        cdef size_t left = stream.size - stream.sent
        cdef size_t room
        cdef uint8_t *buffer
        if stream.room - stream.size < PREFIX + size:
            # A single reply gets exactly the room that it needs. The room for several messages doubles, so
            # that later messages do not each copy the earlier ones.
            room = left + PREFIX + size if left == 0 else 2 * (left + PREFIX + size)
            buffer = <uint8_t *> malloc(room)
            if buffer is NULL:
                raise MemoryError
            if left:
                memcpy(buffer, stream.buffer + stream.sent, left)
            free(stream.buffer)
            self._wait_for(room - stream.room)
            stream.buffer, stream.room, stream.size, stream.sent = buffer, room, left, 0
        buffer = stream.buffer + stream.size
        buffer[0] = 0
        buffer[1] = <uint8_t> (size >> 24)
        buffer[2] = <uint8_t> (size >> 16)
        buffer[3] = <uint8_t> (size >> 8)
        buffer[4] = <uint8_t> size
        memcpy(buffer + PREFIX, PyBytes_AS_STRING(payload), size)
        stream.size += PREFIX + size
        return 0

    cdef int _reply(self, int32_t number, bytes payload, bint stays) except -1:
        cdef nghttp2_nv headers[2]
        cdef nghttp2_data_provider provider
        cdef Stream *stream = self._stream(number)
        if stream is NULL or stream.answered or self._failed:
            return 0
        self._mark_answered(stream, stays)
        self._queue(stream, payload)
        if self.waiting > self._max_held:  # the peer does not read its replies
            self._error = NGHTTP2_ENHANCE_YOUR_CALM
            self._end_if_broken()
            return 0
        set_header(&headers[0], ":status", 7, "200", 3)
        set_header(&headers[1], "content-type", 12, "application/grpc", 16)
        provider.source.ptr = NULL
        provider.read_callback = read_out
        self._check(nghttp2_submit_response(self._h2, number, headers, 2, &provider))
        return 0

    cdef int _send_refusal(self, Stream *stream) except -1:
        """Send the refusal of a stream."""
        if stream.refusal == NOT_POST:
            return self._refuse_http(stream, "405")
        if stream.refusal == NOT_GRPC:
            return self._refuse_http(stream, "415")
        if stream.refusal == LARGE_MESSAGE:
            text = b"the message is larger than %d bytes" % self._max_message
            return self._refuse(stream, RESOURCE_EXHAUSTED, text)
        status, message = REFUSALS[stream.refusal]
        return self._refuse(stream, status, message)

    cdef int _refuse(self, Stream *stream, int status, bytes message) except -1:
        """Answer with trailers only. `message` is percent-encoded."""
        cdef nghttp2_nv headers[5]
        cdef bytes digits = b"%d" % status
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
        """Answer a request that is not gRPC with an HTTP status, a literal of three digits."""
        cdef nghttp2_nv header
        self._mark_answered(stream, False)
        set_header(&header, ":status", 7, status, 3)
        self._check(nghttp2_submit_response(self._h2, stream.number, &header, 1, NULL))
        return 0

    cdef void _finish(self, Stream *stream, uint8_t status) noexcept:
        """End a stream of messages, after its remaining output."""
        stream.stays = False
        stream.status = status
        if stream.state != LEAVING:
            self._move(stream, LEAVING)
        nghttp2_session_resume_data(self._h2, stream.number)

    cdef void _mark_answered(self, Stream *stream, bint stays) noexcept:
        self._move(stream, LEAVING)
        self._empty(stream)
        stream.answered = True
        stream.stays = stays

    cdef void _check(self, int failure) noexcept:
        """End the session if a call of nghttp2 has failed, which happens only without memory."""
        if failure:
            self._failed = True


# Callbacks of nghttp2. `user_data` is the Session (rule 1). They do not change a session of nghttp2 (rule A).

cdef int on_begin_headers(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data) noexcept:
    session = <Session> user_data
    session._block = frame.hd.stream_id
    session._block_bytes = 0
    session._block_units = 0
    if frame.headers.cat != NGHTTP2_HCAT_REQUEST:  # trailers
        return 0
    return session._open(frame.hd.stream_id)


cdef int on_header(
    nghttp2_session *h2, const nghttp2_frame *frame, const uint8_t *name, size_t name_size,
    const uint8_t *value, size_t size, uint8_t flags, void *user_data,
) noexcept:
    session = <Session> user_data
    cdef Stream *stream = session._stream(frame.hd.stream_id)
    if stream is NULL:
        return NGHTTP2_ERR_TEMPORAL_CALLBACK_FAILURE
    return session._header(stream, frame, name, name_size, value, size)


cdef int on_data_chunk(
    nghttp2_session *h2, uint8_t flags, int32_t number, const uint8_t *data, size_t size, void *user_data
) noexcept:
    session = <Session> user_data
    cdef Stream *stream = session._stream(number)
    if stream is NULL or stream.refusal:
        return 0
    if stream.method >= session._many:
        if stream.answered and not stream.stays:
            return 0
        try:
            return session._messages(stream, data, size)
        except MemoryError:
            return NGHTTP2_ERR_CALLBACK_FAILURE
    return 0 if stream.answered else session._chunk(stream, data, size)


cdef int on_frame_recv(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data) noexcept:
    session = <Session> user_data
    cdef Stream *stream
    kind = frame.hd.type
    if kind == NGHTTP2_DATA or kind == NGHTTP2_HEADERS:
        stream = session._stream(frame.hd.stream_id)
        if stream is NULL:
            return 0
        if kind == NGHTTP2_HEADERS:
            if session._headers_end(stream, frame.headers.cat != NGHTTP2_HCAT_REQUEST):
                return NGHTTP2_ERR_CALLBACK_FAILURE
            if frame.headers.cat != NGHTTP2_HCAT_REQUEST and not frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
                session._spend(1)  # trailers end a request
        if frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
            try:
                return session._end(stream)
            except MemoryError:
                return NGHTTP2_ERR_CALLBACK_FAILURE
    elif kind == NGHTTP2_RST_STREAM:
        stream = session._stream(frame.hd.stream_id)
        if stream is NULL or not stream.complete:
            session._spend(1)
    elif kind == NGHTTP2_SETTINGS:
        session.opened = True
    return 0


cdef int on_frame_send(nghttp2_session *h2, const nghttp2_frame *frame, void *user_data) noexcept:
    session = <Session> user_data
    cdef Stream *stream
    kind = frame.hd.type
    if kind == NGHTTP2_RST_STREAM:
        if frame.rst_stream.error_code != NGHTTP2_NO_ERROR:  # the peer broke a rule of HTTP/2 in that stream
            session._spend(1)
    elif kind == NGHTTP2_HEADERS and frame.hd.flags & NGHTTP2_FLAG_END_STREAM:
        stream = session._stream(frame.hd.stream_id)
        if stream is not NULL and not stream.complete:  # answered before its end: the rest is not wanted
            return note(&session._unwanted, frame.hd.stream_id)
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
    """Copy output of a stream to nghttp2, and submit the trailers after the last byte."""
    cdef nghttp2_nv trailer
    session = <Session> user_data
    cdef Stream *stream = session._stream(number)
    if stream is NULL:
        return NGHTTP2_ERR_CALLBACK_FAILURE
    cdef size_t size = min(room, stream.size - stream.sent)
    if size:
        memcpy(buffer, stream.buffer + stream.sent, size)
    stream.sent += size
    if stream.sent == stream.size:
        if stream.stays:
            session._empty(stream)
            if stream.state != RESTING:
                session._move(stream, RESTING)
            return <Py_ssize_t> size if size else NGHTTP2_ERR_DEFERRED
        flags[0] = NGHTTP2_DATA_FLAG_EOF | NGHTTP2_DATA_FLAG_NO_END_STREAM
        set_header(&trailer, "grpc-status", 11, STATUSES + 2 * stream.status, 2 if stream.status > 9 else 1)
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
