"""The fields of C of the ids of holds, where this module is compiled."""

cdef class HoldIds:
    cdef object _nonce
    cdef tuple _codes
    cdef bytes _secret

    cpdef str issue_one(self, object now, object tokens, object expiry, bytes names)
