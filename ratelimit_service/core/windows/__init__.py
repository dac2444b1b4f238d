"""When a window begins and ends."""
