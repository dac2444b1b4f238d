"""The fields of C of prepared requests, where this module is compiled."""

cimport cython

from ratelimit_service.core.hit cimport Hit
from ratelimit_service.core.plan cimport Plan, PlannedDescriptor
from ratelimit_service.core.rule_windows cimport RuleWindows, SharedHit, Windows


cdef class LimitedDescriptor:
    cdef public object rule
    cdef public object stat
    cdef public str bucket


cdef class PreparedRequest:
    cdef double _begin
    cdef double _end
    cdef list _checks
    cdef str _denial
    cdef str _denial_by_rules
    cdef tuple _descriptors
    cdef object _hits
    cdef object _hold_keys
    cdef object _holdings
    cdef tuple _keys
    cdef bint _known_domain
    cdef object _most
    cdef object _notes
    cdef readonly object _planned
    cdef tuple _records
    cdef Windows _windows
    cdef public object held
    cdef public object version
    cdef public Py_ssize_t weight

    cpdef Plan plan(self, request, long long now, jitter, ends=*, releases=*)
    cdef list _hits_of_checks(self)
    @cython.locals(shared=SharedHit, hit=Hit, gate=int)
    cdef list _hits_of(self, list addends, long long now, jitter, str denial)
    @cython.locals(begin=double, end=double, shared=RuleWindows)
    cdef object _enter_windows(self, long long now)
    @cython.locals(shared=RuleWindows, hit=SharedHit)
    cdef bint _enter_windows_of_one(self, long long now)


cdef Hit _check(str key, SharedHit shared)
cdef Py_ssize_t _weight_of(LimitedDescriptor descriptor, rule, bint shares)
