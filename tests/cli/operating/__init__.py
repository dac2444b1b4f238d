"""The commands for operators, against a service that runs."""
