"""A global rate-limit service for Envoy and agentgateway that knows what a token budget is."""
