"""The fields of C of prepared requests, where this module is compiled."""

from ratelimit_service.core.plan cimport Plan, PlannedDescriptor
from ratelimit_service.core.rule_windows cimport RuleWindows, SharedHit


cdef class LimitedDescriptor:
    cdef public object rule
    cdef public object stat
    cdef public str bucket


cdef class PreparedRequest:
    cdef double _begin
    cdef double _end
    cdef object _checks
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
    cdef object _windows
    cdef public object held
    cdef public object version
    cdef public object weight
