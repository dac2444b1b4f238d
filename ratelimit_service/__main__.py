"""`ratelimit-service`, and `python -m ratelimit_service`: sets up the process, and gives it to the command line."""

from __future__ import annotations

import gc
import os
import sys

_SERVE = (["serve"], ["serve", "--"])
"""What containers are started with: no option among it that would have to be read."""


def main() -> None:
    """The console script."""
    # Before grpc is imported, which then reads it. What its C library would write to stderr comes back as an error, and
    # its lines would stand between ours, of which LOG_FORMAT=json promises that each is JSON.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    # Before structlog is imported, which takes rich in where it finds it, and typer brings it along: 4 MB, for as long as
    # the service runs, by which nothing here is ever shown. None is how Python is told that a module is not there.
    sys.modules.setdefault("rich", None)  # type: ignore[arg-type]
    if sys.argv[1:] not in _SERVE:
        from .cli.options import app

        app()
        return
    # Imports leave nothing to collect, and to look for it would be an eighth of the start; app.py switches it on again.
    gc.disable()
    # Without typer, which takes 3 MB, too, and a tenth of a second to import.
    try:
        from .cli.commands import serve

        serve(os.environ, {})
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
