"""The fields of C of what plans are made of, where this module is compiled."""

cimport cython

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


cdef class Windows:
    cdef object _policy
    cdef readonly dict _near
    cdef object _spans
    cdef readonly dict _shared
    cdef public object amended_rules
    cdef public object means
    cdef public bint crowded

    @cython.locals(shared=RuleWindows)
    cpdef RuleWindows of(self, rule, Py_ssize_t index, Py_ssize_t first, long long now)
