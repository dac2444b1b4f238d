"""Real servers, gateways and proxies that the tests, the benchmark and the demo share."""
