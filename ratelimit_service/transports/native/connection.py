"""One connection of the native transport: a `_http2.Session` between the reads and writes of asyncio."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from typing import TYPE_CHECKING, cast

from ...listening.certificates import is_for
from ...listening.networks import network_of
from ...runtime.exceptions import report
from ._http2 import Session
from .lifetime import Lifetime
from .methods import PATHS, REFLECT
from .tls import Tls

if TYPE_CHECKING:
    from .host import Host
    from .queues import Group

PATIENCE = 10.0
"""Seconds in which a peer must begin to speak HTTP/2, and read a reply in full; after that its connection is
closed."""

COST, TLS_COST = 16_384, 49_152
"""Bytes of memory of a connection, measured and rounded up: for HTTP/2, and for TLS in addition."""

_ROOM_FOR_ONE = 262_144
"""Bytes that a connection may always keep in addition to one message of the largest size, even if
GRPC_MAX_CONNECTION_BYTES is smaller."""

_LINGER, _LINGER_READS = 1.0, 256
"""Seconds between the end of a session and closing the socket, in which the peer may read to the end and
close its side, and the reads that are discarded then. Input to a closed socket resets the connection;
a peer whose write fails by that may discard answers that it has not read, and repeat counted charges."""

_WHY_ENDED = dict.fromkeys((1, 6), "the peer broke HTTP/2") | {11: "the peer has spent its abuse budget"}
"""What the log says of errors of HTTP/2 that end a session."""


class Connection(asyncio.BufferedProtocol):
    """Reads calls into the turn, and writes their answers at its end.

    `maximum_age` is in seconds; 0 is no limit. With `tls`, the session begins after the handshake.
    """

    __slots__ = (
        "_gone",
        "_host",
        "_lingers",
        "_loop",
        "_paused",
        "_rest",
        "_stuck_since",
        "_tls",
        "_transport",
        "calls",
        "group",
        "left",
        "life",
        "network",
        "session",
        "used",
    )

    def __init__(self, host: Host, maximum_age: float, tls: Tls | None = None) -> None:
        self._host = host
        self._tls = tls
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport = cast(asyncio.Transport, None)  # until `connection_made`
        self.session: Session | None = None
        """None until the TLS handshake is complete."""
        self.network = ""
        """The network of the peer (networks.py)."""
        self.calls: bool | None = None
        """Whether the last input that had to wait was a call; None if none had to."""
        self.group: Group | None = None
        self.used = 0
        """The group in which it waited last (queues.py), and its time there."""
        self._rest = b""
        """Input that waits for the next turn. Nothing is read meanwhile."""
        self._paused = False
        self._gone = False
        self.left = False
        """Whether the connection is closed, and its last input is still to be taken."""
        self._lingers = 0
        """How many reads may still be discarded before the socket is closed."""
        self.life = Lifetime(self, maximum_age, host.options.max_connection_age_grace)
        self._stuck_since = self.life.began_at

    @property
    def cost(self) -> int:
        """The bytes of memory of the connection, used or not."""
        return COST if self._tls is None else COST + TLS_COST

    # Called by asyncio.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """See asyncio.Protocol."""
        self._transport = cast(asyncio.Transport, transport)
        self.network = network_of(transport.get_extra_info("peername"))
        if not self._host.made(self):
            self._gone = True
            self._transport.abort()
            return
        # With this limit, asyncio calls `pause_writing` for any output that the socket does not take at once,
        # and that output counts as kept.
        self._transport.set_write_buffer_limits(0)
        self.life.begin()
        if self._tls is None:
            self._begin()

    def connection_lost(self, exc: Exception | None) -> None:
        """See asyncio.Protocol. Calls that were read are still decided, in the share of the connection."""
        self.life.end()
        if self._has_rest and not self._gone:
            self._leave_with_rest()
        else:
            self._bury()

    def get_buffer(self, sizehint: int) -> memoryview:
        """See asyncio.BufferedProtocol. The buffer bounds each read, and all peers share it."""
        return self._host.buffer

    def buffer_updated(self, nbytes: int) -> None:
        """See asyncio.BufferedProtocol."""
        if not self._gone:
            self.data_received(bytes(self._host.buffer[:nbytes]))
        elif self._lingers:
            self._lingers -= 1
        else:
            self._transport.abort()

    def data_received(self, data: bytes) -> None:
        """Take input from the socket."""
        if self._gone:
            return
        if self._tls is None:
            self._take(data)
            return
        self._tls.received(data)
        if self._tls.ready and (turn := self._host.turn).opened < turn.total:
            self._take_decrypted()
            self._spend_share_of_tls()
            return
        self._transport.pause_reading()
        if self._tls.ready:  # decrypting takes time as well
            self._host.turn.postpone(self)
        else:
            self._host.peers.shake_hands(self)

    def pause_writing(self) -> None:
        """See asyncio.Protocol. Back-pressure: stop reading from the peer; answers wait in the session."""
        self._paused = True
        self._stuck_since = self._loop.time()
        self._transport.pause_reading()
        self._count_kept()

    def resume_writing(self) -> None:
        """See asyncio.Protocol."""
        self._paused = False
        if self._gone:
            return
        self._count_kept()
        if self.session is None:
            self._host.peers.shake_hands(self)
        elif self._rest:
            self._host.turn.postpone(self)
        else:
            self._transport.resume_reading()
        self.flush()

    # Called by the server.

    def shake_hands(self) -> None:
        """Continue the TLS handshake, when there is time: it takes a millisecond or two."""
        if self._gone or self._tls is None:
            return
        try:
            complete = self._tls.shake_hands()
        except ssl.SSLError as error:
            self._write(self._tls.to_send())  # the alert with the reason
            self._close(f"the TLS handshake failed: {error.reason or error}")
            return
        self._write(self._tls.to_send())
        if complete:
            self._begin()
            self._take_decrypted()
        if not self._paused and not self._rest:
            self._transport.resume_reading()

    def read_rest(self) -> None:
        """Take the input that was postponed to this turn."""
        if self._gone or self._paused:  # `resume_writing` postpones it to another turn
            return
        rest, self._rest = self._rest, b""
        if rest:
            self._take(rest)
        elif self._tls is not None:  # assume that the next read takes as long as the last one
            self._host.turn.spend(self._tls.work)
        if self._tls is not None:
            self._take_decrypted()
        if self._rest or self._gone:
            return
        if self.left:
            self._bury()
        else:
            self._count_kept()
            self._transport.resume_reading()

    def fail(self, error: Exception) -> None:
        """Report an unexpected exception, and close at once, without the rest."""
        report("a connection has failed", error)
        self._gone = True
        if self.left:
            self._bury()
        else:
            self._transport.abort()

    def free(self) -> None:
        """Free the memory for a peer that has gone."""
        if self.session is not None:
            self.session.abandon()
        self._host.lost(self)

    def flush(self) -> None:
        """Write all pending output at once."""
        session = self.session
        if self._gone or self.left or self._paused or session is None:
            return
        if data := session.drain():
            if self._tls is not None:
                try:
                    data = self._tls.encrypt(data)
                except ssl.SSLError as error:
                    self.abort(f"the peer broke TLS: {error.reason or error}")
                    return
            self._write(data)
        if session.closed:
            self._close(_WHY_ENDED.get(session.error, ""))

    def announce(self) -> None:
        """Ask the peer to open no more streams."""
        if self.session is not None:
            self.session.announce_goaway()

    def leave(self) -> None:
        """Accept no more calls, and close when those in flight are answered."""
        if self.session is not None:
            self.session.goaway()
        else:
            self.abort()

    def dismiss(self) -> None:
        """Close the connection at once, with a GOAWAY: its peer has sent no calls."""
        self.leave()
        self.flush()
        if self._paused or self.session is None:
            self.abort()
        else:
            self._transport.close()  # writes first

    def may_make_room(self, now: float) -> bool:
        """Return whether it may be closed for others."""
        return not (self._rest or self._gone or self.left) and self.life.may_make_room(self.session, now)

    def abort(self, why: str = "") -> None:
        """Close at once, and free the memory for the peer.

        `why` is given if the peer is the reason, and is logged. Calls that have arrived are still decided;
        for those that wait for a turn, some memory is kept until then.
        """
        if self.left:
            return
        if why:
            self._host.peers.count_closed(why)
        if self._has_rest and not self._gone:
            self._leave_with_rest()
        else:
            self._gone = True
            if self.session is not None:
                self.session.abandon()
        self._transport.abort()

    def check(self, now: float) -> None:
        """Close if the server waits for its peer for too long. Called once a second, with the loop's time."""
        session, options = self.session, self._host.options
        waited = now - self._stuck_since
        if self.left:
            return
        if (self._gone or self._paused) and waited > PATIENCE:
            self.abort("the peer does not read")
        elif self._lingers and waited > _LINGER:
            self.abort()
        elif self._gone:
            return
        elif (session is None or not session.opened) and now - self.life.began_at > PATIENCE:
            self.abort("the peer did not begin to speak HTTP/2")
        elif session is None:
            return
        elif session.check(int(now * 1_000), int(options.request_timeout * 1_000), int(PATIENCE * 1_000)):
            self.abort("the peer does not take its replies")
        else:
            self.life.check(session, now)

    # Helpers.

    def _begin(self) -> None:
        """Begin the session of HTTP/2."""
        host, options = self._host, self._host.options
        most = max(options.max_connection_bytes, options.max_message_bytes + _ROOM_FOR_ONE)
        now = int(self._loop.time() * 1_000)
        session = Session(host.turn, self, PATHS, options.max_message_bytes, most, now, REFLECT, host.traced)
        if options.client_name and self._tls is not None:
            session.forbidden = not is_for(self._tls.dns_names, options.client_name)
        self.session = session
        self.flush()

    def _take(self, data: bytes) -> None:
        """Feed decrypted input to the session, within the share of the connection."""
        session = cast(Session, self.session)
        if self._rest:
            self._rest += data
            return
        taken = session.feed(data)
        if taken < len(data):
            self._rest = data[taken:]
            self._count_kept()
            if not self.left:
                self._transport.pause_reading()
            turn, peers = self._host.turn, self._host.peers
            if turn.budget.full and session.waiting > peers.share and not self.left:
                self.abort("the server keeps too many bytes for its peers (GRPC_MAX_BYTES)")
            elif not self._paused:
                turn.postpone(self)

    def _take_decrypted(self) -> None:
        tls = cast(Tls, self._tls)
        try:
            data = b"" if self._rest else tls.read()
            if data and not self._gone:
                self._take(data)
        except ssl.SSLError as error:
            self.abort(f"the peer broke TLS: {error.reason or error}")
            return
        if tls.ended and not (self._rest or self._gone):
            self._close()
        else:
            self._write(tls.to_send())  # answers to messages of TLS itself

    def _spend_share_of_tls(self) -> None:
        """Postpone the next read once this turn had its share: many small records take long to decrypt."""
        turn, tls = self._host.turn, cast(Tls, self._tls)
        turn.spend(tls.work)
        had_its_share = tls.has_had_its_share(turn.number) or turn.opened >= turn.total
        if had_its_share and not (self._rest or self._gone or self._paused):
            self._transport.pause_reading()
            turn.postpone(self)

    @property
    def _has_rest(self) -> bool:
        return bool(self._rest) or (self._tls is not None and self._tls.ready and self._tls.pending > 0)

    def _leave_with_rest(self) -> None:
        if not self.left:
            self.left, self._paused = True, False
            cast(Session, self.session).orphan()
            self._host.turn.postpone(self)

    def _bury(self) -> None:
        self._gone, self.left = True, False
        self._host.peers.bury(self)

    def _write(self, data: bytes) -> None:
        if data and not self.left:
            self._transport.write(data)

    def _close(self, why: str = "") -> None:
        """End the output, and close when the peer does; `check` closes earlier if that takes too long."""
        if why:
            self._host.peers.count_closed(why)
        if self.left:
            self._bury()
            return
        self._gone = True
        self._stuck_since = self._loop.time()
        if self._tls is not None:
            self._tls.close()
            self._write(self._tls.to_send())
        self._lingers = _LINGER_READS
        self._host.peers.end(self)
        with contextlib.suppress(OSError):  # the peer has reset the connection
            self._transport.write_eof()
        self._transport.resume_reading()

    def _count_kept(self) -> None:
        if self.session is not None and not self._gone:
            unwritten = self._transport.get_write_buffer_size() if self._paused else 0
            self.session.keep(len(self._rest) + unwritten)
