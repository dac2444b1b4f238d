# cython: language_level=3, boundscheck=False, wraparound=False, binding=False
"""The compiled twin of wire.py, which has the documentation.

Every byte comes from a stranger. `at` and `end` never leave the bytes of the argument: a size is compared
with the number of remaining bytes before the bytes after it are read, so no sum of two sizes can overflow.
For a request that this module does not read (a number of ten bytes, an entry in an unusual order), it returns
None, and protobuf reads the request.

The type's `tp_alloc` makes an object of a NamedTuple, which is filled before other code can see it, as in
`tuple.__new__`; a call of the class takes five times as long.

The parts of a request that `codec.py` caches are in no cycle: bytes, numbers, texts, and tuples of them. They
are hidden from the garbage collector, which would visit all parts of each new request twice, and take a third
of its time.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize, PyBytes_GET_SIZE
from cpython.object cimport PyTypeObject
from cpython.ref cimport Py_INCREF
from cpython.tuple cimport PyTuple_GET_SIZE, PyTuple_New, PyTuple_SET_ITEM
from cpython.unicode cimport PyUnicode_AsUTF8AndSize, PyUnicode_DecodeUTF8
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcmp, memcpy

from ratelimit_service.core.model import Descriptor, Entry, Request

cdef extern from "Python.h":
    ctypedef object (*allocfunc)(PyTypeObject *, Py_ssize_t)
    ctypedef struct TypeObject "PyTypeObject":
        allocfunc tp_alloc
    void PyObject_GC_UnTrack(void *)


cdef enum:
    DOMAIN = 0x0A
    STRUCT = 0x32
    STRING = 0x1A
    DESCRIPTOR = 0x12
    ENTRY = 0x0A
    HITS = 0x1A
    KEY = 0x0A
    VALUE = 0x12
    NUMBER = 0x08
    ADDEND = 0x18
    LEFT = 0x18
    MORE = 0x80
    MOST = 1_024  # bytes of a request; codec.py caches no longer ones
    MOST_DESCRIPTORS = 512
    LONGEST_ID = 2_048


cdef inline object new(object cls, Py_ssize_t size):
    """Return an empty tuple of a class. All of its items must be set before it is passed on."""
    return (<TypeObject *> cls).tp_alloc(<PyTypeObject *> cls, size)


cdef inline void put(object made, Py_ssize_t index, object item) noexcept:
    Py_INCREF(item)
    PyTuple_SET_ITEM(made, index, item)


cpdef object hidden(object made):
    """See wire.hidden."""
    if made is not ():  # it is shared
        PyObject_GC_UnTrack(<void *> made)
    return made


cdef int number(const uint8_t **at, const uint8_t *end, uint64_t *found) noexcept:
    """Read a number of at most nine bytes; return whether there is one."""
    cdef const uint8_t *here = at[0]
    cdef int shift = 0
    found[0] = 0
    while here < end and shift < 63:
        found[0] |= <uint64_t> (here[0] & 0x7F) << shift
        if here[0] < MORE:
            at[0] = here + 1
            return 1
        here += 1
        shift += 7
    return 0


cdef int sized(const uint8_t **at, const uint8_t *end, const uint8_t **found, Py_ssize_t *size) noexcept:
    """Read the size of a field, of at most two bytes, and pass over it.

    Return 0 if it is malformed or ends behind `end`.
    """
    cdef const uint8_t *here = at[0]
    cdef Py_ssize_t length
    if here == end:
        return 0
    length = here[0]
    here += 1
    if length & MORE:
        if here == end or here[0] & MORE:
            return 0
        length = length & 0x7F | <Py_ssize_t> here[0] << 7
        here += 1
    if length > end - here:
        return 0
    found[0], size[0] = here, length
    at[0] = here + length
    return 1


cdef int of_entry(
    const uint8_t *at, const uint8_t *end, const uint8_t **key, Py_ssize_t *key_size, const uint8_t **value,
    Py_ssize_t *value_size
) noexcept:
    """Read an entry that has nothing but a key and a value, in this order; return 0 for any other."""
    key[0] = value[0] = at
    key_size[0] = value_size[0] = 0
    if at != end and at[0] == KEY:
        at += 1
        if not sized(&at, end, key, key_size):
            return 0
    if at != end and at[0] == VALUE:
        at += 1
        if not sized(&at, end, value, value_size):
            return 0
    return at == end


def split(bytes data not None):
    """See wire.split."""
    cdef const uint8_t *at = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef const uint8_t *whole = at + PyBytes_GET_SIZE(data)
    cdef const uint8_t *begin
    cdef const uint8_t *end
    cdef const uint8_t *last
    cdef uint8_t kept[MOST]
    cdef uint64_t values[MOST_DESCRIPTORS]
    cdef bint present[MOST_DESCRIPTORS]
    cdef Py_ssize_t size, used = 0, descriptors = 0
    cdef uint64_t addend = 0
    cdef tuple hits

    # The key is never longer than the request, so `kept` has room, and so have the others: a descriptor takes
    # two bytes at least.
    if whole - at > MOST or whole - at < 2 or at[0] != DOMAIN or at[1] & MORE or at[1] > whole - at - 2:
        return None
    size = 2 + at[1]
    memcpy(kept, at, size)
    used = size
    at += size
    while at != whole and at[0] == DESCRIPTOR:
        at += 1
        if not sized(&at, whole, &begin, &size):
            return None
        end, at = at, begin
        while end - at >= 2 and at[0] == ENTRY:
            if at[1] & MORE or at[1] > end - at - 2:
                return None
            at += 2 + at[1]
        size = at - begin
        kept[used] = DESCRIPTOR
        used += 1
        used += write(kept + used, size)
        memcpy(kept + used, begin, size)
        used += size
        values[descriptors] = 0
        present[descriptors] = at != end
        if at != end:
            if end - at < 2 or at[0] != HITS or at[1] != end - at - 2:
                return None
            at += 2
            if at != end:  # without a number it is 0
                if at[0] != NUMBER:
                    return None
                at += 1
                if not number(&at, end, &values[descriptors]) or at != end:
                    return None
        descriptors += 1
    if at != whole:
        last = whole - 1
        if at[0] != ADDEND:
            return None
        at += 1
        # As protobuf writes it: neither 0 nor a last byte of 0 is written.
        if not number(&at, whole, &addend) or at != whole or addend > 0xFFFFFFFF or last[0] == 0:
            return None

    hits = PyTuple_New(descriptors)
    for size in range(descriptors):
        put(hits, size, values[size] if present[size] else None)
    return PyBytes_FromStringAndSize(<char *> kept, used), hidden(hits), addend


def read(bytes key not None):
    """See wire.read."""
    cdef const uint8_t *at = <const uint8_t *> PyBytes_AS_STRING(key)
    cdef const uint8_t *whole = at + PyBytes_GET_SIZE(key)
    cdef const uint8_t *end
    cdef const uint8_t *inner
    cdef const uint8_t *name
    cdef const uint8_t *value
    cdef Py_ssize_t size, name_size, value_size
    cdef bytes key_text, value_text
    cdef object entry
    cdef list entries
    cdef list descriptors = []
    cdef str domain

    if whole - at < 2 or at[0] != DOMAIN or at[1] & MORE or at[1] > whole - at - 2:
        return None
    try:
        domain = PyUnicode_DecodeUTF8(<char *> at + 2, at[1], NULL)
    except UnicodeDecodeError:
        return None
    at += 2 + at[1]
    while at != whole:
        if at[0] != DESCRIPTOR:
            return None
        at += 1
        if not sized(&at, whole, &inner, &size):
            return None
        end, at = at, inner
        entries = []
        while at != end:
            if at[0] != ENTRY:
                return None
            at += 1
            if not sized(&at, end, &inner, &size):
                return None
            if not of_entry(inner, at, &name, &name_size, &value, &value_size):
                return None
            key_text = PyBytes_FromStringAndSize(<char *> name, name_size)
            value_text = PyBytes_FromStringAndSize(<char *> value, value_size)
            entry = new(Entry, 2)
            put(entry, 0, key_text)
            put(entry, 1, value_text)
            entries.append(hidden(entry))
        descriptors.append(hidden(tuple(entries)))
    return domain, hidden(tuple(descriptors))


def request_of(
    str domain not None,
    tuple entries not None,
    tuple hits not None,
    addend not None,
    bytes key not None,
    repeats not None,
):
    """See wire.request_of."""
    cdef Py_ssize_t index, size = PyTuple_GET_SIZE(entries)
    cdef tuple descriptors
    if PyTuple_GET_SIZE(hits) < size:
        size = PyTuple_GET_SIZE(hits)
    descriptors = PyTuple_New(size)
    for index in range(size):
        descriptor = new(Descriptor, 4)
        put(descriptor, 0, entries[index])
        put(descriptor, 1, hits[index])
        put(descriptor, 2, None)
        put(descriptor, 3, False)
        put(descriptors, index, descriptor)
    request = new(Request, 7)
    put(request, 0, domain)
    put(request, 1, descriptors)
    put(request, 2, addend)
    put(request, 3, key)
    put(request, 4, False)
    put(request, 5, ())
    put(request, 6, repeats)
    return request


cdef inline bint same(bytes text, const uint8_t *found, Py_ssize_t size):
    return PyBytes_GET_SIZE(text) == size and memcmp(PyBytes_AS_STRING(text), found, size) == 0


def take_off(bytes data not None, bytes id_key not None, object done):
    """See wire.take_off."""
    cdef const uint8_t *at = <const uint8_t *> PyBytes_AS_STRING(data)
    cdef const uint8_t *whole = at + PyBytes_GET_SIZE(data)
    cdef const uint8_t *begin
    cdef const uint8_t *end
    cdef const uint8_t *inner
    cdef const uint8_t *key
    cdef const uint8_t *value
    cdef uint8_t kept[MOST]
    cdef uint8_t entries[MOST]
    cdef Py_ssize_t size, key_size, value_size, used, descriptor
    cdef uint64_t addend
    cdef bytes done_key = b"" if done is None else done[0]
    cdef bytes done_value = b"" if done is None else done[1]
    cdef bint with_id = PyBytes_GET_SIZE(id_key) > 0, with_done = done is not None, marked
    cdef object returned
    cdef list found = []

    # What is kept is never longer than the request: sizes are written in as many bytes as they need.
    if whole - at > MOST or whole - at < 2 or at[0] != DOMAIN or at[1] & MORE or at[1] > whole - at - 2:
        return None
    used = 2 + at[1]
    memcpy(kept, at, used)
    at += used
    while at != whole and at[0] == DESCRIPTOR:
        at += 1
        if not sized(&at, whole, &begin, &size):
            return None
        end, at = at, begin
        descriptor = 0
        returned, marked = None, False
        while at != end and at[0] == ENTRY:
            begin = at
            at += 1
            if not sized(&at, end, &inner, &size):
                return None
            if not of_entry(inner, at, &key, &key_size, &value, &value_size):
                return None
            if with_id and same(id_key, key, key_size):
                returned = PyBytes_FromStringAndSize(<char *> value, value_size) if value_size else b"-"
            elif with_done and same(done_key, key, key_size) and same(done_value, value, value_size):
                marked = True
            else:
                memcpy(entries + descriptor, begin, at - begin)
                descriptor += at - begin
        if at != end:
            if end - at < 2 or at[0] != HITS or at[1] != end - at - 2:
                return None
            memcpy(entries + descriptor, at, end - at)
            descriptor += end - at
            at = end
        found.append(b"" if marked and returned is None else returned)
        kept[used] = DESCRIPTOR
        used += 1
        used += write(kept + used, descriptor)
        memcpy(kept + used, entries, descriptor)
        used += descriptor
    if at != whole:
        begin = at
        if at[0] != ADDEND:
            return None
        at += 1
        if not number(&at, whole, &addend) or at != whole:
            return None
        memcpy(kept + used, begin, whole - begin)
        used += whole - begin
    return PyBytes_FromStringAndSize(<char *> kept, used), tuple(found)


def with_returned(object request not None, tuple returned not None):
    """See wire.with_returned."""
    cdef Py_ssize_t index
    made = new(Request, 7)
    for index in range(5):
        put(made, index, request[index])
    put(made, 5, returned)
    put(made, 6, False)
    return made


def hold_metadata(str text not None):
    """See wire.hold_metadata."""
    cdef Py_ssize_t size, string, entry, used = 0
    cdef const char *value = PyUnicode_AsUTF8AndSize(text, &size)
    cdef uint8_t found[LONGEST_ID + 24]
    if size > LONGEST_ID:
        raise ValueError("an id has 2048 characters at most")
    string = 1 + size_of(size) + size
    entry = sizeof(HOLD) + 1 + size_of(string) + string
    found[0] = STRUCT
    used = 1 + write(found + 1, 1 + size_of(entry) + entry)
    found[used] = ENTRY
    used += 1
    used += write(found + used, entry)
    memcpy(found + used, HOLD, sizeof(HOLD))
    used += sizeof(HOLD)
    found[used] = VALUE
    used += 1
    used += write(found + used, string)
    found[used] = STRING
    used += 1
    used += write(found + used, size)
    memcpy(found + used, value, size)
    return PyBytes_FromStringAndSize(<char *> found, used + size)


cdef uint8_t[6] HOLD = [0x0A, 4, 0x68, 0x6F, 0x6C, 0x64]  # the key "hold" of an entry of a Struct


cdef inline Py_ssize_t size_of(uint64_t value) noexcept:
    """Return the bytes that a number takes."""
    cdef Py_ssize_t size = 1
    while value >= MORE:
        value >>= 7
        size += 1
    return size


def limit_remaining(uint64_t remaining):
    """See wire.limit_remaining."""
    cdef uint8_t found[11]
    found[0] = LEFT
    return PyBytes_FromStringAndSize(
        <char *> found, 1 + write(found + 1, min(remaining, <uint64_t> 0xFFFFFFFF)))


def varint(uint64_t value):
    """See wire.varint."""
    cdef uint8_t found[10]
    return PyBytes_FromStringAndSize(<char *> found, write(found, value))


cdef Py_ssize_t write(uint8_t *into, uint64_t value) noexcept:
    """Write a number in at most ten bytes, and return how many."""
    cdef Py_ssize_t size = 0
    while value >= MORE:
        into[size] = <uint8_t> (value & 0x7F | MORE)
        value >>= 7
        size += 1
    into[size] = <uint8_t> value
    return size + 1
