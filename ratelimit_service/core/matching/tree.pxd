"""The fields of C of compiled rules, where this module is compiled."""

from ratelimit_service.core.matching.keys cimport escape


cdef class Match:
    cdef public object rule
    cdef public tuple bucket_entries
    cdef public object stat


cdef class Pattern:
    cdef bytes _first
    cdef list _middle
    cdef bytes _last
    cdef Py_ssize_t _shortest

    cpdef bint matches(self, bytes value)


cdef class RuleNode:
    cdef str _key_text
    cdef public dict children
    cdef public bytes composite
    cdef public bint detailed
    cdef public dict digests
    cdef public bytes key
    cdef public str level
    cdef public object path
    cdef public object rule
    cdef public bint shares
    cdef public bint value_to_metric
    cdef public tuple wildcards

    cpdef RuleNode find(self, bytes key, bytes value)
    cpdef str entry_text(self, bytes key, bytes value)


cdef class Domain:
    cdef RuleNode _root
    cdef public bint budgets
    cdef public bint deny_unmatched
    cdef public str error_details
    cdef public str error_format
    cdef public bint holds
    cdef public object limits
    cdef public str name
    cdef public str name_in_keys
    cdef public bint replaces
    cdef public tuple required_keys
    cdef public tuple rules
    cdef public bint signals
    cdef public str zone

    cpdef Match match(self, tuple entries)
