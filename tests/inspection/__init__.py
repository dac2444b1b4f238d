"""Tests of the views that operators have of a running service."""
