"""Different descriptors never share a counter, whatever they contain. People can read and paste a key."""

from __future__ import annotations

import hashlib
import re
from typing import NamedTuple
from urllib.parse import unquote_to_bytes

import pytest
from hypothesis import assume, example, given
from hypothesis import strategies as st

from ratelimit_service.core.matching import keys
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Descriptor, DomainRules, Entry, Override, Request, Unit
from ratelimit_service.core.plan import Policy
from ratelimit_service.service import RateLimitService
from tests.limiter import NoObserver, RecordedCall, RecordingStore

pytestmark = pytest.mark.fuzz

Entries = list[tuple[bytes, bytes]]

# The letters of the grammar itself, what it escapes, what an escape or a digest looks like, and any byte.
tricky = st.lists(
    st.sampled_from(
        [
            b"|",
            b"=",
            b"%",
            b":",
            b"_",
            b"{",
            b"}",
            b"~",
            b"*",
            b"?",
            b"a",
            b"%7C",
            b"%3D",
            b"~sha256:",
            b"\x00",
        ]
    ),
    max_size=4,
).map(b"".join)
# Texts about as long as a text may be before it is replaced by its digest, and digests themselves.
long = st.builds(
    lambda byte, length, end: byte * length + end,
    st.sampled_from([b"x", b"*", b"%"]),
    st.integers(125, 130),
    tricky,
)
digests = long.map(lambda text: b"~sha256:" + hashlib.sha256(text).hexdigest().encode())
texts = st.one_of(tricky, tricky, st.binary(max_size=5), long, digests)
entries = st.lists(st.tuples(texts, texts), min_size=1, max_size=3)
domains = st.one_of(st.text("d|=%:_{}~*é\x00", min_size=1, max_size=4), st.just("d"), st.just("x" * 129))


def flat(name: str, descriptor: Entries) -> str:
    return keys.bucket("", keys.domain_text(name), [keys.entry_text(*entry) for entry in descriptor])


@example("d", [(b"a", b"b_c")], "d", [(b"a_b", b"c")])
@example("d", [(b"a", b"b|c=d")], "d", [(b"a", b"b"), (b"c", b"d")])
@example("d|a=b", [(b"c", b"d")], "d", [(b"a", b"b"), (b"c", b"d")])
@example("d", [(b"a", b"%7C")], "d", [(b"a", b"|")])
@example(
    "d", [(b"a", b"x" * 129)], "d", [(b"a", b"~sha256:" + hashlib.sha256(b"x" * 129).hexdigest().encode())]
)
@given(domains, entries, domains, entries)
def test_two_descriptors_have_two_buckets(name: str, one: Entries, other_name: str, other: Entries) -> None:
    """They differ in the domain, a key, a value, or the borders between them."""
    assume((name, one) != (other_name, other))
    assert flat(name, one) != flat(other_name, other)


@st.composite
def neighbours(draw: st.DrawFn) -> tuple[Entries, Entries]:
    """Two descriptors. The second is the first with one piece moved or changed."""
    one = draw(entries)
    place = draw(st.integers(0, len(one) - 1))
    key, value = one[place]
    cut = draw(st.integers(0, len(value)))
    moved = draw(
        st.sampled_from(
            [
                [(key + b"_" + value[:cut], value[cut:])],
                [(key + b"=" + value[:cut], value[cut:])],
                [(key, value[:cut]), (value[cut:], b"")],
                [(key, value[:cut] + b"|" + value[cut:])],
                [(key, value[:cut]), (key, value[cut:])],
                [(value, key)],
                [(key, keys.escape(value).encode())],
                [(key, value + b"\x00")],
                [(key, value), (b"", b"")],
                [],
            ]
        )
    )
    return one, [*one[:place], *moved, *one[place + 1 :]]


@given(neighbours())
def test_neighbours_have_two_buckets(pair: tuple[Entries, Entries]) -> None:
    """Moving a piece across a border makes another descriptor."""
    one, other = pair
    assume(one != other)
    assert flat("d", one) != flat("d", other)


@example(b"a", b"*", b"*")
@example(b"a", b"%2A", b"*")
@example(b"a", b"~sha256*:" + hashlib.sha256(b"*" * 129).hexdigest().encode(), b"*" * 129)
@given(texts, texts, texts.filter(lambda pattern: b"*" in pattern))
def test_a_pattern_is_not_a_value(key: bytes, value: bytes, pattern: bytes) -> None:
    """A value that looks like a pattern does not get into its shared bucket."""
    assert keys.entry_text(key, value) != keys.shared_entry_text(key, key + b"_" + pattern)
    assert keys.entry_text(key, value) != keys.shared_entry_text(key, pattern)


@given(texts, texts, texts)
def test_two_patterns_have_two_buckets(key: bytes, one: bytes, other: bytes) -> None:
    """They are short and long, with or without a wildcard in the key."""
    assume(one != other)
    assert keys.shared_entry_text(key, b"*" + one) != keys.shared_entry_text(key, b"*" + other)


class Read(NamedTuple):
    """A key, read back."""

    prefix: str
    domain: bytes
    entries: Entries
    window: str


def parsed(key: str) -> Read:
    """Return a key parsed by the grammar of docs/keys.md."""
    found = re.fullmatch(r"([^{}]*)\{([^{}|]*)((?:\|[^{}|]*)*)\}:(\d*[a-z]+:[-0-9T:Z]+)", key)
    assert found, key
    prefix, name, rest, window = found.groups()
    pairs = [part.split("=") for part in rest.split("|")[1:]]
    assert all(2 == len(pair) for pair in pairs), key
    return Read(
        prefix, unquote_to_bytes(name), [(unquote_to_bytes(k), unquote_to_bytes(v)) for k, v in pairs], window
    )


def expected(text: bytes) -> bytes:
    return text if len(text) <= keys.LONGEST else b"~sha256:" + hashlib.sha256(text).hexdigest().encode()


windows = st.tuples(
    st.sampled_from(list(Unit)[1:]), st.integers(1, 100) | st.sampled_from([60, 3600, 2**32 - 1])
)
moments = st.one_of(st.integers(1_700_000_000, 1_700_100_000), st.integers(0, 4_000_000_000))


def counters(name: str, asked: list[tuple[Entries, tuple[Unit, int]]], now: int) -> list[str]:
    """Return the keys of a request with limit overrides, all in one batch and so with one `now`."""
    store = RecordingStore()
    service = RateLimitService(store, NoObserver(), lambda: now, Policy(key_prefix="p:"))
    service.use(RuleTree([DomainRules(name)]))
    descriptors = tuple(
        [
            Descriptor(tuple([Entry(*entry) for entry in one]), 1, Override(9, unit, multiplier))
            for one, (unit, multiplier) in asked
        ]
    )
    service.submit([RecordedCall(Request(name, descriptors))])
    return [hit.key for hits in store.asked for group in hits for hit in group]


@given(domains, entries, windows, moments)
def test_a_key_can_be_read_back_and_pasted(
    name: str, one: Entries, window: tuple[Unit, int], now: int
) -> None:
    """It is printable ASCII without spaces, quotes or globs, with the domain and every entry; long ones are
    digests.
    """
    (key,) = counters(name, [(one, window)], now)
    assert re.fullmatch(r"[!-~]+", key)
    assert not set(key) & set("*?[]\\\"' ")
    prefix, domain, found, _ = parsed(key)
    assert ("p:", expected(name.encode())) == (prefix, domain)
    assert [(expected(k), expected(v)) for k, v in one] == found
    assert len(key) < 2 + 3 * keys.LONGEST * (1 + 2 * len(one)) + 100


@given(entries, st.lists(windows, min_size=2, max_size=5, unique=True), moments)
def test_two_windows_of_a_bucket_are_two_counters(
    one: Entries, several: list[tuple[Unit, int]], now: int
) -> None:
    """They may begin at the same second, or have the same length."""
    touched = counters("d", [(one, window) for window in several], now)
    assert len(several) == len(set(touched))
    assert 1 == len({key[: key.index("}")] for key in touched})


@given(windows, moments, moments)
def test_a_counter_is_for_one_window_in_time(window: tuple[Unit, int], now: int, then: int) -> None:
    """Two moments have the same counter only if they are in the same window."""
    limiters = [counters("d", [([(b"k", b"v")], window)], moment)[0] for moment in (now, then)]
    starts = [started(window, moment) for moment in (now, then)]
    assert (starts[0] == starts[1]) is (limiters[0] == limiters[1])


def started(window: tuple[Unit, int], now: int) -> int:
    """Return the number of the window since 1970, by upstream's blocks; none is longer than 10,000 years."""
    lengths = {"SECOND": 1, "MINUTE": 60, "HOUR": 3600, "DAY": 86_400, "WEEK": 604_800, "MONTH": 2_592_000}
    unit, multiplier = window
    return now // min(lengths.get(unit.name, 31_536_000) * multiplier, 315_576_000_000)
