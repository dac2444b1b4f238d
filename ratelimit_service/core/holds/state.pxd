"""The fields of C of the holds of a bucket, where this module is compiled.

The floats are objects: a C compiler may join two operations on doubles, and holds.lua computes the same to
the last bit.
"""

cdef class Holds:
    cdef public dict slots
    cdef public object _tokens_held
    cdef public object _soonest
    cdef public object _last
    cdef public object _tokens
    cdef public list _slot
    cdef public object _whole
    cdef public object charges
    cdef public object mean
    cdef public object square
    cdef public object share
    cdef public object flight
    cdef public object marked
    cdef public object refusals
    cdef public object refused_at
    cdef public dict ids

    cpdef object take_again(self, object hit, object left)
