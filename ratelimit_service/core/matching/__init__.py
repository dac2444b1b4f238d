"""From a descriptor to its rule, its limits and the key of its counter."""
