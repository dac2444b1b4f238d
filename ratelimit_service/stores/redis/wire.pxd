"""Functions that compiled modules call directly, where this module is compiled."""

cimport cython

cdef Py_ssize_t _ORDINARY
cdef list _SIZES

@cython.locals(parts=list, text=str, packed=str, size=Py_ssize_t)
cpdef bytes pack(tuple command)
