"""Headers and trailers that are cheap for a peer and expensive for the server."""

from __future__ import annotations

from .. import h2
from ..serving import CHARGE_40
from .hostile import OK, RESOURCE_EXHAUSTED, calls
from .native_server import Limiter
from .test_limits import goaway_error, opening

# Headers that are much larger decoded than on the wire.

LARGE = h2.remembered([(b"x-large", b"a" * 3_900)])
"""In HPACK's table as its newest entry, of about 4 KiB."""
NEWEST = b"\xbe"
"""One byte that stands for it."""


async def test_headers_that_grow_by_decoding_are_paid_for(limiter: Limiter) -> None:
    """Three references in a block decode to 12 KiB: they spend 7 units of 1,000 each, less one for a complete
    call.
    """
    peer = await limiter.connect()
    peer.send(calls(1, 1, LARGE) + calls(3, 900, NEWEST * 3))
    frames = await peer.rest()
    assert h2.ENHANCE_YOUR_CALM == goaway_error(frames)
    answered = {frame.stream for frame in frames if frame.kind == h2.HEADERS}
    assert len(answered) < 200
    assert await limiter.still_serves()


async def test_an_honest_peer_may_name_its_whole_table_in_every_call(limiter: Limiter) -> None:
    """HPACK is meant for values such as a token of 4 KiB in every call."""
    peer = await limiter.connect()
    peer.send(h2.frame(h2.WINDOW_UPDATE, 0, 0, (2**30).to_bytes(4, "big")) + calls(1, 1, LARGE))
    await peer.answer(1)
    for first in range(3, 4_003, 400):
        peer.send(calls(first, 200, NEWEST))
        answers = await peer.answers(set(range(first, first + 400, 2)))
        assert {OK} == {answer.status for answer in answers.values()}


async def test_a_block_of_headers_is_not_decoded_beyond_its_bound(limiter: Limiter) -> None:
    """147 kB would decode to 570 MB. The block ends its stream at 64 KiB, and soon the connection."""
    peer = await limiter.connect()
    bomb = h2.block(h2.CALL) + LARGE + NEWEST * 140_000
    parts = [bomb[at : at + 16_384] for at in range(0, len(bomb), 16_384)]
    block = h2.frame(h2.HEADERS, 0, 1, parts[0])
    for part in parts[1:-1]:
        block += h2.frame(h2.CONTINUATION, 0, 1, part)
    peer.send(block + h2.frame(h2.CONTINUATION, h2.END_HEADERS, 1, parts[-1]))
    peer.send(calls(3, 1, b""))
    answers = await peer.rest_or_answer(3)
    assert 1 not in {frame.stream for frame in answers if frame.kind == h2.HEADERS}
    assert await limiter.still_serves()


async def test_a_bomb_before_an_invalid_header_is_paid_for(limiter: Limiter) -> None:
    """nghttp2 resets the stream for the last header, so no callback runs at the end of the block."""
    peer = await limiter.connect()
    peer.send(calls(1, 1, LARGE) + calls(3, 900, NEWEST * 12 + h2.block([(b"BAD", b"")])))
    frames = await peer.rest()
    # nghttp2 1.68 ends the connection for the first such header.
    assert goaway_error(frames) in {h2.ENHANCE_YOUR_CALM, h2.PROTOCOL_ERROR}
    assert len({frame.stream for frame in frames if frame.kind == h2.RST_STREAM}) < 100


async def test_trailers_count_with_the_headers(limiter: Limiter) -> None:
    """Each is within the limit, and their sum is not."""
    peer = await limiter.connect()
    many = h2.block([(b"x", b"y" * 9_000)])
    peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS, 1, h2.block(h2.CALL) + many))
    peer.send(h2.frame(h2.DATA, 0, 1, h2.message(CHARGE_40)))
    peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, many))
    answer = await peer.answer(1)
    assert (RESOURCE_EXHAUSTED, "the headers are larger than 16 KiB") == (
        answer.status,
        answer.headers["grpc-message"],
    )
    assert 0 == await limiter.counted()


async def test_trailers_that_do_not_end_a_request_are_paid_for(limiter: Limiter) -> None:
    """They violate the protocol, and are cheap to send."""
    peer = await limiter.connect()
    peer.send(opening(1) + h2.frame(h2.HEADERS, h2.END_HEADERS, 1) * 1_001)
    assert h2.ENHANCE_YOUR_CALM == goaway_error(await peer.rest())
    assert await limiter.still_serves()


async def test_a_call_may_end_with_trailers(limiter: Limiter) -> None:
    """HTTP/2 allows it."""
    peer = await limiter.connect()
    peer.send(opening(1) + h2.frame(h2.DATA, 0, 1, h2.message(CHARGE_40)))
    peer.send(h2.frame(h2.HEADERS, h2.END_HEADERS | h2.END_STREAM, 1, h2.block([(b"x", b"y")])))
    assert OK == (await peer.answer(1)).status
    assert 40 == await limiter.counted()
