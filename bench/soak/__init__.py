"""A long run behind a real Envoy with faults: charges must equal counters, memory must not grow, and every
error must have a cause.
"""
