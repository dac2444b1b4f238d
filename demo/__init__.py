"""A demonstration of budgets with a real Envoy and Redis, the service, and a mock model: `make demo`."""
