"""When windows start and end."""
