"""The fields of C of a bounded cache, where this module is compiled."""

cdef class Generations:
    cdef public dict _before
    cdef public dict _evicted
    cdef Py_ssize_t _heaviest
    cdef public Py_ssize_t _most
    cdef public dict _now
    cdef public object _weigh
    cdef public Py_ssize_t _weight
    cdef public object newest

    cpdef object get(self, key)
    cpdef object older(self, key)
    cpdef object put(self, key, value, Py_ssize_t weight=*)
