"""The benchmark. `make bench` runs bench/run.py, which writes docs/performance.md and docs/scaling.md.

run        the command line: which scenarios, in which order, and where the report goes
scenarios  the measurements: a server, a load, and the checks afterwards
servers    servers that decide nothing, the service, Redis, a real Envoy
messages   rules, requests, mixed traffic
h2load     closed loop with one request, by nghttp2's load generator
replay     closed and open loop with mixed requests, in a process that replay_client starts
machine    cores, CPU time, memory, and the load of other processes
books      charges acknowledged = counters in the store
stages     the cost of a decision by stage, within a process
results    the results of runs, from which tables, pages, plots, goals and capacity are computed
"""
