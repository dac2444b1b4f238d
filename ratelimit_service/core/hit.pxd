"""The fields of C of a hit, where this module is compiled."""

cdef class Hit:
    cdef public object key
    cdef public object amount
    cdef public object ttl
    cdef public object limit
    cdef public int gate
    cdef public object into
