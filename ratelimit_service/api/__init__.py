"""The HTTP API on the debug port: shows budgets and rules, and changes limits, while the service runs."""
