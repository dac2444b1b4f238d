"""Real traffic with flipped bits does not crash `_http2.Session` or make it raise.

`make fuzz-native` does the same guided by coverage, under the sanitizers.
"""

from __future__ import annotations

import ctypes

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ...fuzz.native import ALL, OPENING, WHOLE_CALL, Server, Way, floods, play, record, spell, spelt, traffic
from ...fuzz.seeds import seeds
from .. import h2

pytestmark = pytest.mark.fuzz

TRAFFIC = traffic()
SEEDS = dict(seeds())
CALLS = {"hand": 3, "curl": 1, "envoy": 5, "grpcio": 8, "h2load": 20, "reflection": 8}
"""How many each client made; each question of reflection is one, and so is the end of them."""
MALLINFO = "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()


@pytest.mark.parametrize("client", CALLS)
def test_the_calls_are_those_that_a_client_sent(client: str) -> None:
    """The calls are the same however the bytes are split."""
    sent, pieces = TRAFFIC[client], Server()
    assert CALLS[client] == Server().take(sent)
    assert CALLS[client] == sum(pieces.take(sent[at : at + 7]) for at in range(0, len(sent), 7))


def test_the_traffic_of_every_client_is_known() -> None:
    """Each recording is also played."""
    assert set(CALLS) == set(TRAFFIC)


def test_frames_are_spelt_as_they_were() -> None:
    """So the fuzzer changes the content of real traffic, and not only lengths."""
    sent = TRAFFIC["grpcio"]
    assert sent == spelt(spell(sent))


@pytest.mark.parametrize("seed", SEEDS.values(), ids=SEEDS)
def test_the_seeds_of_the_fuzzer_do_no_harm(seed: bytes) -> None:
    """Each seed is played in every way."""
    play(seed)


@given(client=st.sampled_from(sorted(TRAFFIC)), way=st.integers(0, ALL), data=st.data())
def test_flipped_bits_do_no_harm(client: str, way: int, data: st.DataObject) -> None:
    """Reads that end anywhere, missing parts and repeated parts do no harm either."""
    sent = bytearray(TRAFFIC[client])
    places = st.integers(0, len(sent) - 1)
    for place in data.draw(st.lists(places, max_size=8)):
        sent[place] ^= 1 << data.draw(st.integers(0, 7))
    start, end = sorted(data.draw(st.tuples(places, places)))
    what = data.draw(st.sampled_from(["kept", "missing", "twice", "many times"]))
    times = {"kept": 1, "missing": 0, "twice": 2, "many times": 50}[what]
    sent[start:end] = sent[start:end] * times
    play((way & ~Way.SPELT).to_bytes(2, "little") + sent)


@given(sent=st.binary(max_size=4_000), way=st.integers(0, ALL), greeted=st.booleans())
def test_no_bytes_do_harm(sent: bytes, way: int, greeted: bool) -> None:
    """They come with or without HTTP/2's preface, and as frames of any kind."""
    play(way.to_bytes(2, "little") + (h2.MAGIC + h2.settings() if greeted else b"") + sent)


FLOODS = floods()
KINDS = (*range(h2.CONTINUATION + 2), OPENING, WHOLE_CALL)


@given(
    first=st.sampled_from(sorted(FLOODS)),
    frames=st.lists(
        st.builds(
            record,
            st.sampled_from(KINDS),
            st.sampled_from([0, 1, 4, 5, 8, 0x20, 0x25, 0x2D, 255]),
            st.integers(0, 9),
            st.sampled_from(
                [b"", b"1", bytes(4), bytes(5), bytes(6), bytes(8), b"\x0a\1d", b"\xbe" * 20, b"\xff" * 60]
            ),
            times=st.sampled_from([1, 2, 100, 1_100]),
            step=st.integers(0, 2),
        ),
        max_size=6,
    ),
    way=st.integers(0, ALL),
    at=st.integers(0, 300),
)
def test_floods_mixed_with_other_frames_do_no_harm(
    first: str, frames: list[bytes], way: int, at: int
) -> None:
    """A read has thousands of frames, and then frames that are invalid after the end of a session."""
    records = FLOODS[first]
    play(
        (way | Way.SPELT).to_bytes(2, "little") + records[:at] + b"".join(frames) + records + b"".join(frames)
    )


class _Mallinfo(ctypes.Structure):
    """glibc's struct mallinfo2."""

    _fields_ = [(name, ctypes.c_size_t) for name in MALLINFO]


def allocated() -> int:
    """Return the number of bytes that malloc has allocated."""
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = _Mallinfo
    used: int = libc.mallinfo2().uordblks
    return used


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallinfo2"), reason="counts with glibc's mallinfo2")
def test_a_connection_leaves_nothing_behind() -> None:
    """It may end with calls that are incomplete, unanswered or unread."""

    def connections() -> None:
        for sent in TRAFFIC.values():
            for end in range(1, len(sent), 7):
                server = Server()
                server.take(sent[:end])
                if end % 2:
                    server.session.drain()
                server.session.abandon()

    connections()
    before = allocated()
    for _ in range(10):
        connections()
    assert allocated() - before < 10_000
