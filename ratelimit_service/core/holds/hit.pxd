"""The fields of C of a hit on holds, where this module is compiled."""

from ratelimit_service.core.hit cimport Hit


cdef class HoldHit(Hit):
    cdef public object op
    cdef public object now
    cdef public object life
    cdef public object expiry
    cdef public object size
    cdef public object charge
    cdef public object part
    cdef public object tokens
    cdef public object made
    cdef public object id
