"""Where counters are kept: in memory, or in Redis. One contract (ports.CounterStore), one suite of tests for both."""
