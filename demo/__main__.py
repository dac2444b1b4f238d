"""A demonstration of budgets with real parts; docs/demo.md describes it.

    make demo [FAST=1] [KEEP=1]          (or: .venv/bin/python -m demo [--fast] [--keep] [--rules FILE])

Exits with 0 if every scene succeeded, else with 1 and a sentence about the one that failed.
"""

from __future__ import annotations

import argparse
import signal
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from types import FrameType

from rich.console import Console

from .interactive import to_try, traffic
from .outcome import SceneFailed
from .output import Stage, stage_for
from .parts import TEAMS, Parts
from .scenes import TITLES, play
from .steps import Player

LOG_LINES = 10
"""Lines of the service's log to show after a failure."""

INTERRUPTED = 130
"""The exit code after Ctrl-C."""


def main() -> int:
    """Start everything, play, stop everything, and return the exit code."""
    options = argparse.ArgumentParser(prog="demo", description=__doc__.partition("\n")[0])
    options.add_argument("--fast", action="store_true", help="no pauses, and no waiting for a minute to end")
    options.add_argument("--keep", action="store_true", help="leave it running afterwards, until Ctrl-C")
    options.add_argument(
        "--rules", type=Path, default=TEAMS, help="another file with the budgets of the teams"
    )
    chosen = options.parse_args()
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _run(chosen.rules, fast=chosen.fast, keep=chosen.keep)
    except KeyboardInterrupt:
        return INTERRUPTED


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


def _run(rules: Path, *, fast: bool, keep: bool) -> int:
    began = time.monotonic()
    console = Console()
    parts = Parts(rules)
    console.print("Starting Redis, the service, a model and Envoy ...")
    try:
        if not _started(parts):
            return 1
        console.print(
            f"The page of its budgets, for a browser: {parts.page}", highlight=False, soft_wrap=True
        )
        if not _played(parts, stage_for(console, TITLES), fast=fast):
            return 1
        console.print(f"\nEvery scene came out right, in {time.monotonic() - began:.0f} s.", highlight=False)
        if keep:
            console.print(to_try(parts), markup=False, highlight=False, soft_wrap=True)
            with traffic(parts):
                _wait_for_the_end()
        return 0
    finally:
        # Another Ctrl-C must not interrupt the cleanup.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        parts.stop()


def _started(parts: Parts) -> bool:
    """Start everything. Print an error and return False if that fails."""
    try:
        parts.start()
    except (OSError, RuntimeError, AssertionError) as error:
        _complain(f"Not everything has started: {error}", error)
        return False
    return True


def _wait_for_the_end() -> None:
    """Wait for Ctrl-C."""
    with suppress(KeyboardInterrupt):
        threading.Event().wait()


def _played(parts: Parts, stage: Stage, *, fast: bool) -> bool:
    """Play all scenes. Print an error and return False if one fails."""
    try:
        player = Player(parts, stage, fast=fast)
        with stage:
            play(player)
    except SceneFailed as wrong:
        _complain(f"{stage.where} went wrong: {wrong}.")
    except Exception as error:
        _complain(f"{stage.where} went wrong: {type(error).__name__}: {error}.", error)
    else:
        return True
    last = "".join(parts.service.log.splitlines(keepends=True)[-LOG_LINES:])
    print(f"\nThe end of the service's log:\n{last}", file=sys.stderr)
    return False


def _complain(sentence: str, error: Exception | None = None) -> None:
    print(f"\n{sentence}", file=sys.stderr)
    for note in getattr(error, "__notes__", ()):
        print(note, file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
