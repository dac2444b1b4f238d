"""Several processes that serve one set of ports, under a supervisor (WORKERS)."""
