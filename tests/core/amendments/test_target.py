"""The targets of amendments, and their texts."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.amendments.target import MOST_TEXT, Target, TargetEntry, exactly, fits, parse
from ratelimit_service.core.errors import InvalidRequest
from ratelimit_service.core.model import Entry
from tests.limiter import entries_of

MATCHES = [
    # The whole domain, whatever the keys are.
    ("*", "team=dba", True),
    ("*", "user=a model=b", True),
    # One descriptor: all of its entries, in their order.
    ("team=dba", "team=dba", True),
    ("team=dba", "team=dba2", False),
    ("team=dba", "group=dba", False),
    ("team=dba", "team=dba model=a", False),
    ("team=dba,model=a", "team=dba model=a", True),
    ("team=dba,model=a", "model=a team=dba", False),
    # A pattern is for values; a `*` is any bytes, or none.
    ("user=premium_*", "user=premium_7", True),
    ("user=premium_*", "user=premium_", True),
    ("user=premium_*", "user=premium", False),
    ("user=premium_*", "user=premium_7 model=a", False),
    ("user=premium_*,model=*", "user=premium_7 model=a", True),
    ("user=*_bot", "user=x_bot", True),
    ("user=*_bot", "user=_bot_", False),
    ("user=a*a", "user=a", False),
    ("user=a*a", "user=aa", True),
    ("user=a*b*c", "user=axbyc", True),
    ("user=a*b*c", "user=axyc", False),
    ("user=*", "user=", True),
    ("user=**", "user=anything", True),
    # A literal star is no pattern.
    (r"user=a\*", "user=a*", True),
    (r"user=a\*", "user=ab", False),
]


@pytest.mark.parametrize("text, entries, expected", MATCHES)
def test_a_target_matches_whole_descriptors(text: str, entries: str, expected: bool) -> None:
    assert expected == parse("d", text).matches(entries_of(entries))


MISTAKES = [
    ("", "key=value"),
    ("team", "key=value"),
    ("=dba", "key=value"),
    ("team=dba,", "key=value"),
    ("te*m=dba", "a key is not a pattern"),
    (r"team=a\b", "a backslash"),
    ("team=a\\", "a backslash"),
    (r"team=\xZZ", "a backslash"),
    ("team=" + "a" * MOST_TEXT, "at most"),
    (",".join(["k=v"] * 65), "at most 64 entries"),
]


@pytest.mark.parametrize("text, words", MISTAKES, ids=[text[:10] for text, _ in MISTAKES])
def test_a_mistake_says_what_would_be_right(text: str, words: str) -> None:
    with pytest.raises(InvalidRequest) as raised:
        parse("d", text)
    assert words in str(raised.value)


def test_a_target_needs_a_domain() -> None:
    """No request can have an empty domain."""
    with pytest.raises(InvalidRequest):
        parse("", "*")


HOSTILE = [
    (b"two,commas,", r"k=two\,commas\,"),
    (b"back\\slash", r"k=back\\slash"),
    (b"star*", r"k=star\*"),
    (b"\xff\x00", r"k=\xFF\x00"),
    (b"line\nbreak\x1b[2J", r"k=line\x0Abreak\x1B[2J"),
    ("‮bidi".encode(), r"k=\xE2\x80\xAEbidi"),
    ("Ünï".encode(), "k=Ünï"),
    (b"a=b", "k=a=b"),
]


@pytest.mark.parametrize("value, text", HOSTILE, ids=[text for _, text in HOSTILE])
def test_a_hostile_value_is_one_harmless_line(value: bytes, text: str) -> None:
    """Terminals interpret no part of it, and it is parsed back into the same bytes."""
    target = exactly("d", (Entry(b"k", value),))
    assert text == target.text
    assert target == parse("d", text)


def test_an_equals_sign_in_a_key_is_read_back() -> None:
    """The first `=` that is not escaped ends the key."""
    target = exactly("d", (Entry(b"a=b", b"c"),))
    assert "a\\x3Db=c" == target.text
    assert target == parse("d", target.text)


pieces = st.lists(st.binary(max_size=4), min_size=1, max_size=4).map(
    lambda pieces: (pieces[0], *filter(None, pieces[1:-1]), *pieces[1:][-1:])
)
targets = st.builds(
    Target,
    st.just("d"),
    st.lists(st.builds(TargetEntry, st.binary(min_size=1, max_size=3), pieces), max_size=3).map(tuple),
)


@given(targets)
def test_every_target_is_read_back_from_its_text(target: Target) -> None:
    """This holds for any bytes, and the text is one printable line."""
    assert target.text.isprintable()
    assert target == parse("d", target.text)


@given(st.lists(st.binary(max_size=3), min_size=1, max_size=3), st.binary(max_size=8))
def test_a_value_fits_where_its_pieces_are_found_one_after_another(pieces: list[bytes], value: bytes) -> None:
    """As with a regular expression."""
    expected = re.fullmatch(b".*".join(map(re.escape, pieces)), value, re.DOTALL) is not None
    assert expected == fits(tuple(pieces), value)


def test_the_most_specific_target_sorts_first() -> None:
    """By the number of entries with one value, then by given bytes, then by the number of `*`."""
    ordered = [
        "team=dba,model=gpt-4",
        "team=dba,model=gpt-*",
        "team=*,model=gpt-4",
        "team=d*,model=gpt-*",
        "team=*,model=*",
        "*",
    ]
    shuffled = ordered[3:] + ordered[:3]
    assert ordered == sorted(shuffled, key=lambda text: parse("d", text).specificity)
