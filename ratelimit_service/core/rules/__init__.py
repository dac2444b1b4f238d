"""Configuration documents to validated rules."""
