"""Changes of limits while the service runs: following the amendments in the store, and changing them."""
