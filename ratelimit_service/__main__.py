"""`ratelimit-service`, and `python -m ratelimit_service`: prepare the process, and run the command line."""

from __future__ import annotations

import io
import os
import sys

from .runtime import garbage, imports


def main() -> None:
    """The console script."""
    # grpc reads this when it is imported. Its C library would write lines to stderr, among those of the log,
    # of which LOG_FORMAT=json promises that each is JSON; what they report comes back as errors as well.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    if isinstance(sys.stdout, io.TextIOWrapper):  # names of callers, on a terminal that is not UTF-8
        sys.stdout.reconfigure(errors="backslashreplace")
    garbage.disable()
    imports.skip_unused()
    from .cli.main import main as run

    try:
        sys.exit(run(sys.argv[1:]))
    except KeyboardInterrupt:
        sys.exit(130)


if __name__ == "__main__":
    main()
