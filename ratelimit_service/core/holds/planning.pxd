"""The fields of C of the holds of a prepared request, where this module is compiled."""

cdef class MeanCharge:
    cdef public object mean
    cdef public object without_id


cdef class Holding:
    cdef public object _began
    cdef public object amount
    cdef public Py_ssize_t descriptor
    cdef public object end
    cdef public object entries
    cdef public str key
    cdef public MeanCharge learned
    cdef public object looked
    cdef public list memo
    cdef public bytes names
    cdef public object noted
    cdef public object rule
    cdef public object ticks
    cdef public object until


cdef class PlannedHold:
    cdef public Holding holding
    cdef public Py_ssize_t hit
    cdef public object op
