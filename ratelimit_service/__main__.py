"""`python -m ratelimit_service` is `ratelimit-service`."""

from .cli import main

main()
