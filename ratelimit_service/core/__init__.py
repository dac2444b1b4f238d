"""What a rate limit is: matching, windows, counting, deciding.

The laws of this package, each with a test:

1. It imports the standard library and itself, nothing else.
2. It does no I/O, reads no clock, awaits nothing and logs nothing. Time and randomness arrive as arguments.
3. What is compiled from rules is never mutated afterwards.
4. Descriptor keys and values are bytes: they are a stranger's, and any byte is allowed in them.
"""
