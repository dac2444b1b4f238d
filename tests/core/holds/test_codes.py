"""The text of ids, written and read in Python and in the compiled module."""

from __future__ import annotations

from base64 import urlsafe_b64encode
from hashlib import blake2b
from types import ModuleType

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.holds import _codes, codes
from ratelimit_service.core.holds.ids import HoldIds, names_of
from ratelimit_service.core.model import Entry

BOTH = pytest.mark.parametrize("twin", [codes, _codes])
SECRETS = st.binary(min_size=1, max_size=64)
MOST = 1_536 - codes.CODE


@BOTH
@pytest.mark.parametrize("size", [1, 2, 3, 29, 127, 128, 129, 255, 256, 257, 384, 385, MOST])
@pytest.mark.parametrize("secret", [b"s", b"s" * 32, bytes(range(64))])
def test_the_code_is_that_of_hashlib(twin: ModuleType, secret: bytes, size: int) -> None:
    """At each edge of a block of 128 bytes, and at both ends."""
    data = bytes(index * 7 & 0xFF for index in range(size))
    code = blake2b(data, key=secret, digest_size=codes.CODE).digest()
    expected = urlsafe_b64encode(data + code).rstrip(b"=").decode()
    assert expected == twin.Codes(secret).write(data)
    assert data == twin.Codes(secret).read(expected.encode())


@given(SECRETS, st.binary(min_size=1, max_size=600))
def test_both_twins_write_and_read_the_same(secret: bytes, data: bytes) -> None:
    text = _codes.Codes(secret).write(data)
    assert codes.Codes(secret).write(data) == text
    assert data == codes.Codes(secret).read(text.encode()) == _codes.Codes(secret).read(text.encode())


@given(
    st.integers(0, 2**32 - 1), st.binary(min_size=12, max_size=12), st.integers(0, 2**64 - 1),
    st.integers(0, 2**32 - 1), st.binary(max_size=300),
)  # fmt: skip
def test_both_twins_write_an_id_of_one_hold_the_same(
    now: int, nonce: bytes, tokens: int, expiry: int, names: bytes
) -> None:
    """It has the form of an id of several holds."""
    text = _codes.Codes(b"secret").write_one(now, nonce, tokens, expiry, names)
    assert codes.Codes(b"secret").write_one(now, nonce, tokens, expiry, names) == text
    data = codes.Codes(b"secret").read(text.encode())
    assert data is not None
    assert (now, nonce, 1) == (int.from_bytes(data[1:5]), data[5:17], data[17])
    assert (tokens, expiry, names) == (int.from_bytes(data[18:26]), int.from_bytes(data[26:30]), data[30:])


@BOTH
@given(text=st.binary(max_size=80) | st.text("AZaz09-_=+/ ").map(str.encode), data=st.data())
def test_other_texts_are_refused(twin: ModuleType, text: bytes, data: st.DataObject) -> None:
    """Nor is one bit of an id changed, or one of its characters replaced, removed or added."""
    written = twin.Codes(b"secret")
    assert written.read(text) is None
    whole = written.write(b"some data").encode()
    at = data.draw(st.integers(0, len(whole) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != whole[at]))
    assert written.read(whole[:at] + bytes([other]) + whole[at + 1 :]) is None
    assert written.read(whole[:at] + whole[at + 1 :]) is None
    assert written.read(whole + bytes([other])) is None
    assert written.read(whole + b"=") is None
    assert twin.Codes(b"another").read(whole) is None


@BOTH
@pytest.mark.parametrize("size", [0, 12, 13, 15, 16, 17, 2_048, 2_049, 5_000])
def test_texts_of_any_length_are_refused(twin: ModuleType, size: int) -> None:
    assert twin.Codes(b"secret").read(b"A" * size) is None


@BOTH
def test_a_text_with_other_unused_bits_is_refused(twin: ModuleType) -> None:
    """It decodes to the same bytes, and would be a second text of one id."""
    alphabet = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    for size in (1, 2):  # two and four unused bits
        text = twin.Codes(b"secret").write(b"x" * size).encode()
        last = alphabet.index(text[-1:])
        assert twin.Codes(b"secret").read(text[:-1] + alphabet[last + 1 : last + 2]) is None


def test_the_longest_id_is_written_and_read() -> None:
    """Its names leave no byte of the bound."""
    names = b""
    for size in range(1_400, 1_500):
        names = names_of("d", [[Entry(b"key", b"v" * size)]]) or names
    ids = HoldIds(lambda: b"n" * codes.NONCE, b"secret")
    text = ids.issue(1_000, [(2**34 - 1, 1_060)], names).encode()
    found = ids.read(text, 1_000)
    assert codes.LONGEST == len(text)
    assert found is not None
    assert names == names_of(found.domain, [hold.entries for hold in found.holds])


def test_the_compiled_twin_refuses_data_beyond_its_buffers() -> None:
    written = _codes.Codes(b"secret")
    for data in (b"", b"x" * (MOST + 1)):
        with pytest.raises(ValueError, match="1 to 1524 bytes"):
            written.write(data)
    with pytest.raises(ValueError, match="1494 at most"):
        written.write_one(1, b"n" * 12, 1, 1, b"x" * 1_495)
    with pytest.raises(ValueError, match="12 bytes"):
        written.write_one(1, b"n" * 11, 1, 1, b"")
    with pytest.raises(ValueError, match="1 to 64 bytes"):
        _codes.Codes(b"s" * 65)
    with pytest.raises(ValueError, match="1536 bytes"):
        _codes.text_of(b"x" * 1_537)
