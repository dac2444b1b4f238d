"""The command line: `ratelimit-service serve`, and what goes with it."""

from __future__ import annotations

import asyncio
import os
import sys

from .core.errors import StartError


def main() -> None:
    """The console script."""
    from .app import App
    from .observe import logs
    from .settings import load_settings, unsupported

    try:
        settings = load_settings(os.environ)
    except StartError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
    logs.configure(settings.log_level, settings.log_format)

    async def serve() -> None:
        await App(settings).run()

    import structlog
    import uvloop

    log = structlog.get_logger("ratelimit_service")
    for line in unsupported(os.environ):
        log.warning(line)
    try:
        with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
            runner.run(serve())
    except StartError as error:
        print(error, file=sys.stderr)
        raise SystemExit(1) from None
