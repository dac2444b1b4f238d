"""The messages of the rate-limit service, built from proto/ratelimit.proto."""
