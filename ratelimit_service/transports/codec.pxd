"""Types that are known where this module is compiled: reads of their fields are reads of C structures."""

from ratelimit_service.core.model cimport Decision


cdef class _Form:
    cdef public bytes key
    cdef public str domain
    cdef public tuple entries
    cdef public object weight
    cdef public tuple last_hits
    cdef public object last_addend


cdef class _EncodedLimit:
    cdef public object reset
    cdef public list ok
    cdef public list refused
    cdef public bytes tail
    cdef public object limit
