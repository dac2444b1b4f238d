"""The fields of C of the holds of the memory store, where this module is compiled."""

from ratelimit_service.core.holds.state cimport Holds

cdef class AllHolds:
    cdef object _size
    cdef object _new
    cdef object _holds
    cdef public object bytes

    cpdef Holds find(self, str key)
    cpdef object used(self, str key)
