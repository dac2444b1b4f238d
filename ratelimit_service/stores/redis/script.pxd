"""The fields of C of a call of the script, and types that are known where this module is compiled."""

cimport cython

from ratelimit_service.core.hit cimport Hit


cdef class ScriptCall:
    cdef public object _added_before
    cdef public object _groups
    cdef public object _on_holds
    cdef public object _place_of
    cdef public object _records
    cdef public object _repeated
    cdef public object _routed
    cdef public Py_ssize_t _size
    cdef public tuple command
    cdef public object missed
    cdef public object unheld
    cdef public object unrecorded

    @cython.locals(hit=Hit, gates=int)
    cdef int _collect(self, list keys, list amounts, list ttls) except -1
    @cython.locals(hit=Hit, key=str, place=Py_ssize_t, places=dict, keys=list, sums=list, ttls=list)
    cdef tuple _add_up(self, apart)
    cdef object _by_group(self, list counts)
