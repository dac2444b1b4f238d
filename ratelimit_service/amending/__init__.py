"""Amending limits while the service runs: following the store's amendments, and changing them."""
