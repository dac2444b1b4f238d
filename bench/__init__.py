"""The benchmark. `make bench` runs bench/run.py, which writes docs/performance.md and docs/scaling.md.

run        the command line: which scenarios, in which order, and where the report goes
scenarios  the measurements: a server, a load, and the checks afterwards
servers    servers that decide nothing, the service, Redis, a real Envoy
messages   rules, requests, mixed traffic
h2load     closed loop with one request, by nghttp2's load generator
replay     closed and open loop with mixed requests, in a process that replay_client starts
machine    cores, CPU time, memory, and the load of other processes
reconciliation  charges acknowledged = counters in the store
stages     the cost of a decision by stage, within a process
results    the results of runs, from which tables, pages, plots, goals and capacity are computed

Commands of their own, which `make bench` does not run:

forecasts  when forecasts are right, simulated
holds      how far parallel requests overshoot a budget, simulated
group_commit  the same load with and without group commit
ledger     the export of a million entries
ledger_cost  what a ledger adds to a decision
listing    the list of budgets beside a million counters
mirror     what `compare --mirror` adds to a call
soak       an hour behind a real Envoy, with faults
"""
