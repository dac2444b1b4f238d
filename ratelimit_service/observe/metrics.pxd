"""The fields of C of the metrics, and types that are known where this module is compiled."""

cimport cython

from ratelimit_service.core.model cimport Decision
from ratelimit_service.core.plan cimport Plan, PlannedDescriptor

cdef Py_ssize_t _HITS, _WITHIN, _NEAR, _OVER, _SHADOW, _NEGATIVE, _UNLIMITED
cdef Py_ssize_t _RULE_HITS, _REFUSED, _CHECKS


cdef class _Rows:
    cdef public list limit
    cdef public list windows


cdef class Metrics:
    cdef public object _calls
    cdef public object _charges
    cdef public object _crossings
    cdef public object _decisions
    cdef public object _errors
    cdef public dict _former_rows
    cdef public list _gauges
    cdef public object _holds
    cdef public object _limits
    cdef public object _loads
    cdef public object _lost_domains
    cdef public dict _row_of_rule
    cdef public object _rules
    cdef public object _scale
    cdef public object _shadowed
    cdef public object _store
    cdef public object _tables
    cdef public object _times
    cdef public dict _verdicts
    cdef public object _version
    cdef public object process
    cdef public dict watched

    @cython.locals(
        planned=PlannedDescriptor,
        rows=_Rows,
        row=list,
        verdicts=tuple,
        index=Py_ssize_t,
        over=bint,
        more=bint,
    )
    cpdef bint count(self, Plan plan, Decision decision) except -1
    @cython.locals(rows=_Rows, row=list, column=Py_ssize_t)
    cdef object _count_addend(self, PlannedDescriptor planned, addend)
    cdef _Rows _rows(self, PlannedDescriptor planned)
