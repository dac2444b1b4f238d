"""The budgets played with real parts: Envoy, Redis, the service and a model that is made up. `make demo` runs it."""
