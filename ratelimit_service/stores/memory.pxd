"""The fields of C of the memory store, and types that are known where this module is compiled."""

cimport cython

from ratelimit_service.core.hit cimport Hit

cdef Py_ssize_t _BYTES_OF_A_TEXT
cdef int _SHIFT, _MASK, _ASIDE, _HELD_BACK, _ENTRY, _LEDGER

cpdef Py_ssize_t weight_of(str key) except -1


cdef class MemoryStore:
    cdef public object _clock
    cdef public object _counters
    cdef public object _defer
    cdef public object _dump
    cdef public dict _ending
    cdef public list _ends
    cdef public list _shards
    cdef public Py_ssize_t _size
    cdef public object amendments
    cdef public Py_ssize_t bytes
    cdef public bint changed
    cdef public object events
    cdef public object holds
    cdef public object refused
    cdef public object replicas
    cdef public object unrecorded

    @cython.locals(hit=Hit, gates=int, shards=list, counters=dict, place=Py_hash_t)
    cdef object _apply(self, group, now)
    @cython.locals(hit=Hit, gate=int, shards=list, last=Py_ssize_t, at=Py_ssize_t)
    cdef object _check_with_hold(self, group)
    @cython.locals(ending=list, weight=Py_ssize_t)
    cdef bint _begin(self, str key, end) except -1
