"""A descriptor to its rule, its limits and its counter key."""
