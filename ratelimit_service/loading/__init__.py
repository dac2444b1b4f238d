"""Reading rules while callers go on: in a process of its own, and taken over a little at a time."""
