"""The catalogue of all metrics: their names, types, labels and meanings, by area."""
