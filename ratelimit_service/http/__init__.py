"""The HTTP ports: health and JSON (main), rules and counters for people (debug), metrics for Prometheus."""
