"""The fields of C of the observers, and types that are known where this module is compiled."""

from ratelimit_service.core.model cimport Decision
from ratelimit_service.core.plan cimport Plan
from ratelimit_service.observe.metrics cimport Metrics


cdef class Observers:
    cdef object _decision_log
    cdef object _first_refusal
    cdef object _log
    cdef Metrics _metrics
    cdef object _refusals
    cdef object _refused
    cdef object _thresholds
    cdef object _tracker
