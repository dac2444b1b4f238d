"""Counters: in memory, or in Redis.

One contract (ports.CounterStore), and one suite of tests for every store.
"""
