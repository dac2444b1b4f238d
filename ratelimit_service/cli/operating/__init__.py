"""The commands for operators: they call the API of a running service."""
