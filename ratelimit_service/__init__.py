"""A global rate-limit service for Envoy and agentgateway, made for LLM token budgets."""
