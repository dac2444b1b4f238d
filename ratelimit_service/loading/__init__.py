"""Loads rules while calls are served: another process reads them, and this one takes them over in slices."""
