"""The commands for operators, against a running service."""
