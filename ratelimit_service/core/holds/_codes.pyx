# cython: language_level=3, boundscheck=False, wraparound=False, cdivision=True
"""The compiled twin of codes.py, which has the documentation.

hashlib computes the code of an id in two blocks, because it keeps the block of the key until it knows whether
data follows. This module keeps the state after the block of the key, so an id of up to 128 bytes takes one
block, and makes no objects.

Texts come from strangers: `read` decodes only a text whose length is bounded, into a buffer for the longest.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.unicode cimport PyUnicode_DecodeASCII
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

cdef enum:
    LONGEST = 2_048  # characters of an id
    MOST = 1_536  # bytes of an id
    VERSION = 1
    NONCE = 12
    CODE = 12
    HEAD = 18  # bytes before the holds: the version, the time, the nonce and the number of holds
    HOLD = 12
    BLOCK = 128
    ROUNDS = 12

cdef extern from *:
    """
    static const uint64_t id_iv[8] = {
        0x6a09e667f3bcc908ULL, 0xbb67ae8584caa73bULL, 0x3c6ef372fe94f82bULL, 0xa54ff53a5f1d36f1ULL,
        0x510e527fade682d1ULL, 0x9b05688c2b3e6c1fULL, 0x1f83d9abfb41bd6bULL, 0x5be0cd19137e2179ULL
    };
    static const uint8_t id_sigma[12][16] = {
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3},
        {11, 8, 12, 0, 5, 2, 15, 13, 10, 14, 3, 6, 7, 1, 9, 4},
        {7, 9, 3, 1, 13, 12, 11, 14, 2, 6, 5, 10, 4, 0, 15, 8},
        {9, 0, 5, 7, 2, 4, 10, 15, 14, 1, 11, 12, 6, 8, 3, 13},
        {2, 12, 6, 10, 0, 11, 8, 3, 4, 13, 7, 5, 15, 14, 1, 9},
        {12, 5, 1, 15, 14, 13, 4, 10, 0, 7, 6, 3, 9, 2, 8, 11},
        {13, 11, 7, 14, 12, 1, 3, 9, 5, 0, 15, 4, 8, 6, 2, 10},
        {6, 15, 14, 9, 11, 3, 0, 8, 12, 2, 13, 7, 1, 4, 10, 5},
        {10, 2, 8, 4, 7, 6, 1, 5, 15, 11, 9, 14, 3, 12, 13, 0},
        {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15},
        {14, 10, 4, 8, 9, 15, 13, 6, 1, 12, 0, 2, 11, 7, 5, 3}
    };
    static const char id_characters[65] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    """
    const uint64_t id_iv[8]
    const uint8_t id_sigma[12][16]
    const char id_characters[65]

cdef enum:
    INVALID = 64

cdef uint8_t[256] VALUES
for _index in range(256):
    VALUES[_index] = INVALID
for _index in range(64):
    VALUES[<uint8_t> id_characters[_index]] = _index


cdef inline uint64_t little(const uint8_t *at) noexcept:
    return (
        <uint64_t> at[0] | <uint64_t> at[1] << 8 | <uint64_t> at[2] << 16 | <uint64_t> at[3] << 24
        | <uint64_t> at[4] << 32 | <uint64_t> at[5] << 40 | <uint64_t> at[6] << 48 | <uint64_t> at[7] << 56
    )


cdef inline void put_big(uint8_t *at, uint64_t value, int size) noexcept:
    cdef int index
    for index in range(size):
        at[index] = <uint8_t> (value >> 8 * (size - 1 - index))


cdef inline uint64_t turned(uint64_t value, int bits) noexcept:
    return value >> bits | value << (64 - bits)


cdef inline void mix(uint64_t *v, int a, int b, int c, int d, uint64_t x, uint64_t y) noexcept:
    v[a] = v[a] + v[b] + x
    v[d] = turned(v[d] ^ v[a], 32)
    v[c] = v[c] + v[d]
    v[b] = turned(v[b] ^ v[c], 24)
    v[a] = v[a] + v[b] + y
    v[d] = turned(v[d] ^ v[a], 16)
    v[c] = v[c] + v[d]
    v[b] = turned(v[b] ^ v[c], 63)


cdef void compress(uint64_t *state, const uint8_t *block, uint64_t size, bint last) noexcept:
    """Add a block to the state. `size` counts the bytes up to its end."""
    cdef uint64_t v[16]
    cdef uint64_t m[16]
    cdef const uint8_t *s
    cdef int index
    for index in range(16):
        m[index] = little(block + 8 * index)
    for index in range(8):
        v[index] = state[index]
        v[index + 8] = id_iv[index]
    v[12] ^= size
    if last:
        v[14] = ~v[14]
    for index in range(ROUNDS):
        s = id_sigma[index]
        mix(v, 0, 4, 8, 12, m[s[0]], m[s[1]])
        mix(v, 1, 5, 9, 13, m[s[2]], m[s[3]])
        mix(v, 2, 6, 10, 14, m[s[4]], m[s[5]])
        mix(v, 3, 7, 11, 15, m[s[6]], m[s[7]])
        mix(v, 0, 5, 10, 15, m[s[8]], m[s[9]])
        mix(v, 1, 6, 11, 12, m[s[10]], m[s[11]])
        mix(v, 2, 7, 8, 13, m[s[12]], m[s[13]])
        mix(v, 3, 4, 9, 14, m[s[14]], m[s[15]])
    for index in range(8):
        state[index] ^= v[index] ^ v[index + 8]


cdef str encoded(const uint8_t *data, Py_ssize_t size):
    """Return at most MOST bytes in base64 for URLs, without padding."""
    cdef char found[LONGEST]
    cdef char *to = found
    cdef Py_ssize_t at = 0
    cdef uint32_t three
    while size - at >= 3:
        three = <uint32_t> data[at] << 16 | <uint32_t> data[at + 1] << 8 | data[at + 2]
        to[0] = id_characters[three >> 18]
        to[1] = id_characters[three >> 12 & 63]
        to[2] = id_characters[three >> 6 & 63]
        to[3] = id_characters[three & 63]
        to += 4
        at += 3
    if size - at == 2:
        three = <uint32_t> data[at] << 16 | <uint32_t> data[at + 1] << 8
        to[0] = id_characters[three >> 18]
        to[1] = id_characters[three >> 12 & 63]
        to[2] = id_characters[three >> 6 & 63]
        to += 3
    elif size - at == 1:
        three = <uint32_t> data[at] << 16
        to[0] = id_characters[three >> 18]
        to[1] = id_characters[three >> 12 & 63]
        to += 2
    return PyUnicode_DecodeASCII(found, to - found, NULL)


cdef Py_ssize_t decoded(const uint8_t *text, Py_ssize_t size, uint8_t *to) noexcept:
    """Decode at most LONGEST characters; return the number of bytes; -1 if `encoded` returns no such text."""
    cdef Py_ssize_t at, found = 0
    cdef uint32_t value, bits = 0
    cdef int have = 0
    for at in range(size):
        value = VALUES[text[at]]
        if value == INVALID:
            return -1
        bits = bits << 6 | value
        have += 6
        if have >= 8:
            have -= 8
            to[found] = <uint8_t> (bits >> have)
            found += 1
    if have == 6 or bits & ((1 << have) - 1):
        return -1
    return found


cdef class Codes:
    """See codes.Codes."""

    cdef uint64_t keyed[8]
    """The state after the block of the key."""

    def __init__(self, bytes secret not None):
        cdef uint8_t block[BLOCK]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(secret)
        if not 0 < size <= 64:
            raise ValueError("the secret must have 1 to 64 bytes")
        memset(block, 0, BLOCK)
        memcpy(block, PyBytes_AS_STRING(secret), size)
        memcpy(self.keyed, id_iv, sizeof(self.keyed))
        self.keyed[0] ^= 0x01010000 ^ <uint64_t> size << 8 ^ CODE
        compress(self.keyed, block, BLOCK, False)

    cdef void code(self, const uint8_t *data, Py_ssize_t size, uint8_t *to) noexcept:
        """Write the code of data of at least one byte."""
        cdef uint64_t state[8]
        cdef uint8_t block[BLOCK]
        cdef Py_ssize_t at = 0
        cdef int index
        memcpy(state, self.keyed, sizeof(state))
        while size - at > BLOCK:
            compress(state, data + at, BLOCK + at + BLOCK, False)
            at += BLOCK
        memset(block, 0, BLOCK)
        memcpy(block, data + at, size - at)
        compress(state, block, BLOCK + size, True)
        for index in range(CODE):
            to[index] = <uint8_t> (state[index >> 3] >> 8 * (index & 7))

    def write(self, bytes data not None):
        """See codes.Codes.write."""
        cdef uint8_t whole[MOST]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(data)
        if not 0 < size <= MOST - CODE:
            raise ValueError("the data of an id has 1 to 1524 bytes")
        memcpy(whole, PyBytes_AS_STRING(data), size)
        self.code(whole, size, whole + size)
        return encoded(whole, size + CODE)

    def write_one(
        self, uint32_t now, bytes nonce not None, uint64_t tokens, uint32_t expiry, bytes names not None
    ):
        """See codes.Codes.write_one."""
        cdef uint8_t whole[MOST]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(names)
        if PyBytes_GET_SIZE(nonce) != NONCE or size > MOST - CODE - HEAD - HOLD:
            raise ValueError("a nonce has 12 bytes, and the names of an id have 1494 at most")
        whole[0] = VERSION
        put_big(whole + 1, now, 4)
        memcpy(whole + 5, PyBytes_AS_STRING(nonce), NONCE)
        whole[HEAD - 1] = 1
        put_big(whole + HEAD, tokens, 8)
        put_big(whole + HEAD + 8, expiry, 4)
        memcpy(whole + HEAD + HOLD, PyBytes_AS_STRING(names), size)
        size += HEAD + HOLD
        self.code(whole, size, whole + size)
        return encoded(whole, size + CODE)

    def read(self, bytes text not None):
        """See codes.Codes.read."""
        cdef uint8_t whole[MOST]
        cdef uint8_t expected[CODE]
        cdef Py_ssize_t size = PyBytes_GET_SIZE(text)
        cdef uint8_t different = 0
        cdef int index
        if not CODE < size <= LONGEST:
            return None
        size = decoded(<const uint8_t *> PyBytes_AS_STRING(text), size, whole) - CODE
        if size < 1:
            return None
        self.code(whole, size, expected)
        for index in range(CODE):  # in a time that says nothing about where they differ
            different |= expected[index] ^ whole[size + index]
        return None if different else PyBytes_FromStringAndSize(<char *> whole, size)


def text_of(bytes data not None):
    """See codes.text_of."""
    if PyBytes_GET_SIZE(data) > MOST:
        raise ValueError("an id has 1536 bytes at most")
    return encoded(<const uint8_t *> PyBytes_AS_STRING(data), PyBytes_GET_SIZE(data))
