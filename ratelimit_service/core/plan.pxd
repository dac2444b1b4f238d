"""The fields of C of what every request makes, where this module is compiled."""

cdef class PlannedWindow:
    cdef public object limit
    cdef public long long configured
    cdef public long long amount
    cdef public long long end
    cdef public Py_ssize_t hit
    cdef public long long near


cdef class PlannedDescriptor:
    cdef public object rule
    cdef public object stat
    cdef public tuple windows
    cdef public bint budget
    cdef public bint shadow
    cdef public bint watched
    cdef public bint hides_limit
    cdef public bint quota
    cdef public bint denied
    cdef public bint replaced
    cdef public bint blocked
    cdef public object amendments
    cdef public object memo


cdef class Plan:
    cdef public object request
    cdef public object descriptors
    cdef public object addends
    cdef public object hits
    cdef public object now
    cdef public bint known_domain
    cdef public str denial
    cdef public object without_addend
    cdef public object notes
    cdef public object excess
    cdef public object holds
