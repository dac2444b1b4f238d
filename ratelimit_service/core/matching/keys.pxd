"""Functions that compiled modules call directly, where this module is compiled."""

cpdef str escape(bytes value)
cpdef str bucket(str prefix, str domain, entries)
