"""The environment variables that configure the service."""
