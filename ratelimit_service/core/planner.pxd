"""The fields of C of a planner, and types that are known where this module is compiled."""

cimport cython

from ratelimit_service.core.cache cimport Generations
from ratelimit_service.core.matching.keys cimport bucket as bucket_name
from ratelimit_service.core.matching.tree cimport Domain, Match
from ratelimit_service.core.plan cimport Plan, PlannedDescriptor
from ratelimit_service.core.prepared cimport LimitedDescriptor, PreparedRequest
from ratelimit_service.core.rule_windows cimport Windows


cdef class Planner:
    cdef object _amendments
    cdef object _ids
    cdef object _jitter
    cdef object _no_notes
    cdef readonly dict _plans
    cdef object _policy
    cdef readonly Generations _prepared
    cdef long long _second
    cdef object _tree
    cdef object _version
    cdef Py_ssize_t _weight_of_plans
    cdef readonly Windows _windows

    cpdef Plan plan(self, request, long long now)
    cdef PreparedRequest _prepared_for(self, request)
    cdef PreparedRequest _renew(self, PreparedRequest before, request)
    @cython.locals(domain=Domain)
    cdef PreparedRequest _prepare(self, request)
    @cython.locals(domain=Domain)
    cdef object _held(self, request)


@cython.locals(match=Match)
cdef tuple _match_all(policy, Domain domain, descriptors)
cdef Match _match(Domain domain, descriptor)
cdef object _check(str domain, descriptors, bounds)
