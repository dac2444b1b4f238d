"""The fields of C of what plans are made of, where this module is compiled."""

from ratelimit_service.core.plan cimport PlannedDescriptor


cdef class SharedHit:
    cdef public str label
    cdef public object start
    cdef public object end
    cdef public Py_ssize_t descriptor
    cdef public object limit
    cdef public int gate


cdef class RuleWindows:
    cdef public double begin
    cdef public double end
    cdef public PlannedDescriptor planned
    cdef public tuple alone
    cdef public tuple hits
    cdef public object period
    cdef public Py_ssize_t longest
