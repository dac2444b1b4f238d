"""Holds: tokens set aside for requests in flight (docs/holds.md)."""
