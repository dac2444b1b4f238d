"""The HTTP ports: health and JSON (main), the rules and counters in force (debug), and metrics."""
