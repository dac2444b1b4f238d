"""The HTTP API on the debug port: what is in force, what is used, and changes of limits while the service runs."""
