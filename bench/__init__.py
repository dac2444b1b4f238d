"""Measurements. `make bench` runs bench/run.py, and docs/performance.md and docs/scaling.md say what came of it.

run        the command line: which scenarios, in which order, and where the report goes
scenarios  what is measured: a server, a load, and what must hold afterwards
servers    what is measured against: servers that do nothing, the service, Redis, a real Envoy
messages   what is asked: rules, requests, mixed traffic
h2load     closed loop with one request, by nghttp2's load generator
replay     closed and open loop with mixed requests, by a process of ours (replay_client is its other end)
machine    cores, CPU time, memory, and whether anybody else was using them
books      charges acknowledged = counters in the store
stages     the cost of a decision by stage, inside the process
results    what a run came to; tables, pages, plots, goals and capacity are made from it and from nothing else
"""
