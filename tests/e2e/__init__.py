"""End to end: the service as a process, a real Redis, a real Envoy, and a mock of an LLM provider."""
