"""The fields of C of what every request makes, where this module is compiled."""

cdef class Decision:
    cdef public object code
    cdef public object status_values
    cdef public object tally_values
    cdef public tuple headers
    cdef public bytes body
    cdef public object dynamic_metadata
    cdef public bint shadowed
    cdef public str hold
    cdef public object in_flight
    cdef public object signals
    cdef public object held
