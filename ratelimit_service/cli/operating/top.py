"""The command `top`: budgets in a terminal, live. Without a terminal it prints them once, as `budgets` does.

Screen: what is shown and how            pressed(screen, key) -> Screen | None (to quit)         pure
frame(screen, budgets, ...) -> lines                                                             pure
watch(client, ...)                       the loop: one call of the API every few seconds, in a thread
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import sys
import termios
import time
import tty
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any, NamedTuple

from ...core.errors import RateLimitServiceError
from ...runtime import garbage
from ..answer import duration
from . import formatting
from .client import Client
from .formatting import Json

SORTS = ("-used", "used", "name", "reset")
STATES = ("", "over", "blocked", "low", "ok")
_SORT_NAMES = {"-used": "most used", "used": "least used", "name": "name", "reset": "next reset"}

_MOST = 500
_NARROWEST = 40
_LONGEST_SEARCH = 100
_TICK = 0.1

HELP = "q quit  s sort  f state  d domain  / search  up/down scroll  space pause"

_ALTERNATE, _NORMAL = "\x1b[?1049h\x1b[?25l", "\x1b[?25h\x1b[?1049l"
_HOME, _CLEAR_LINE, _CLEAR_BELOW = "\x1b[H", "\x1b[K", "\x1b[J"
_STYLES = {"over": "\x1b[1;31m", "blocked": "\x1b[1;31m", "low": "\x1b[33m"}
_BOLD, _PLAIN = "\x1b[1m", "\x1b[0m"

_KEYS = {
    "\x1b[A": "up",
    "\x1b[B": "down",
    "\x1bOA": "up",
    "\x1bOB": "down",
    "\x1b[5~": "page up",
    "\x1b[6~": "page down",
}


class Screen(NamedTuple):
    """What is shown, and how. `search` is the beginning of a value; while it is typed, `typing` is set."""

    domain: str = ""
    sort: str = SORTS[0]
    state: str = ""
    search: str = ""
    typing: bool = False
    offset: int = 0
    paused: bool = False

    def query(self, rows: int) -> Mapping[str, Any]:
        """Return the parameters of the list of budgets that fills so many rows."""
        return {
            "domain": self.domain,
            "sort": self.sort,
            "state": self.state,
            "prefix": self.search,
            "limit": min(_MOST, self.offset + rows),
        }


class Answer(NamedTuple):
    """The last answer of the service: its list, and why there is none, or no later one."""

    found: Json | None = None
    error: str = ""


def pressed(screen: Screen, key: str, domains: Sequence[str], rows: int, total: int) -> Screen | None:
    """Return the screen after a key; None to quit."""
    if screen.typing:
        if key in ("\r", "\n"):
            return screen._replace(typing=False)
        if key == "\x1b":
            return screen._replace(typing=False, search="", offset=0)
        if key in ("\x7f", "\b"):
            return screen._replace(search=screen.search[:-1], offset=0)
        if len(key) == 1 and key.isprintable() and len(screen.search) < _LONGEST_SEARCH:
            return screen._replace(search=screen.search + key, offset=0)
        return screen
    if key in ("q", "\x03", "\x04"):
        return None
    if key == "s":
        return screen._replace(sort=_next(SORTS, screen.sort), offset=0)
    if key == "f":
        return screen._replace(state=_next(STATES, screen.state), offset=0)
    if key == "d":
        return screen._replace(domain=_next(("", *domains), screen.domain), offset=0)
    if key == "/":
        return screen._replace(typing=True)
    if key == " ":
        return screen._replace(paused=not screen.paused)
    steps = {"up": -1, "k": -1, "down": 1, "j": 1, "page up": -rows, "page down": rows}
    if key in steps:
        last = max(0, min(total, _MOST) - rows)
        return screen._replace(offset=max(0, min(screen.offset + steps[key], last)))
    return screen


def _next(choices: Sequence[str], chosen: str) -> str:
    place = choices.index(chosen) + 1 if chosen in choices else 0
    return choices[place % len(choices)]


def rows_of(height: int) -> int:
    """Return how many budgets a screen of this height has room for: two lines above them, one below."""
    return max(1, height - 3)


def frame(
    screen: Screen,
    answer: Answer,
    server: str,
    width: int,
    height: int,
    now: datetime | None = None,
    *,
    styled: bool = True,
) -> list[str]:
    """Return the lines of a screen, `height` of them, none wider than `width`."""
    now = now or datetime.now(UTC)
    width = max(width, _NARROWEST)
    found = answer.found or {"budgets": [], "total": 0, "partial": False, "domains": []}
    rows = rows_of(height)
    budgets = found["budgets"][screen.offset : screen.offset + rows]
    lines = [_styled(formatting.padded(_head(screen, found, server, now), width), _BOLD, styled)]
    lines.append(
        _styled(
            formatting.padded(
                _line("DESCRIPTOR", "STATE", "", "USED", "OF LIMIT", "BURN", "EMPTY", "RESET", width), width
            ),
            _BOLD,
            styled,
        )
    )
    lines += [_styled(_budget(each, width, now), _STYLES.get(each["state"], ""), styled) for each in budgets]
    if not budgets:
        lines.append(formatting.cut(_nothing(screen, answer), width))
    lines += [""] * (height - 1 - len(lines))
    return [*lines[: height - 1], formatting.cut(_foot(screen, answer, found), width)]


def _head(screen: Screen, found: Json, server: str, now: datetime) -> str:
    total = found["total"]
    count = f"{total:,} budgets" if total is not None else f"more than {len(found['budgets']):,} budgets"
    parts = [
        server.partition("://")[2],
        now.astimezone().strftime("%H:%M:%S"),
        count,
        f"by {_SORT_NAMES[screen.sort]}",
    ]
    if screen.domain:
        parts.append(f"in {formatting.text(screen.domain)}")
    if screen.state:
        parts.append(screen.state)
    return "  ".join(parts)


def _foot(screen: Screen, answer: Answer, found: Json) -> str:
    if screen.typing:
        return f"values that begin with: {formatting.text(screen.search)}_   (enter: done, escape: all)"
    if answer.error:
        return f"{'the values are old: ' if answer.found else ''}{answer.error}"
    notes = ["paused"] if screen.paused else []
    if screen.search:
        notes.append(f"search: {formatting.text(screen.search)}")
    if found["partial"]:
        notes.append("not all budgets are sorted")
    return "  ".join([*notes, HELP])


def _nothing(screen: Screen, answer: Answer) -> str:
    if answer.found is None:
        return "" if answer.error else "asking the service ..."
    if screen.search or screen.state or screen.domain:
        return "no budget matches"
    return "nothing is counted yet: budgets appear with the first call"


def _budget(found: Json, width: int, now: datetime) -> str:
    window = formatting.tightest(found)
    name = formatting.name_of(found)
    if window is None or window["effective_limit"] is None:
        used = formatting.short(window["used"]) if window is not None else ""
        return _line(name, formatting.text(found["state"]), "", "", used, "", "", "", width)
    burn = window["burn_per_second"]
    bar = formatting.bar(window["share"], max(6, min(20, width // 13)))
    return _line(
        f"{name} {formatting.text(window['window'])}",
        formatting.text(found["state"]),
        bar,
        formatting.percent(window["share"]),
        f"{formatting.short(window['used'])}/{formatting.short(window['effective_limit'])}",
        formatting.rate(burn) if burn else "-",
        _brief(window["runs_out_at"], now),
        _brief(window["resets_at"], now),
        width,
    )


def _line(
    name: str, state: str, bar: str, used: str, of: str, burn: str, empty: str, reset: str, width: int
) -> str:
    """Return one line: the name takes what the others leave."""
    wide = max(6, min(20, width // 13)) + 2
    right = " ".join(
        [
            formatting.padded(state, 7),
            formatting.padded(bar, wide),
            used.rjust(5),
            formatting.padded(of, 11),
            formatting.padded(burn, 8),
            empty.rjust(6),
            reset.rjust(6),
        ]
    )
    left = width - formatting.width_of(right) - 1
    if left < 8:
        return formatting.cut(f"{name} {state} {used} {of}", width)
    return f"{formatting.padded(name, left)} {right}"


def _brief(found: str | None, now: datetime) -> str:
    """Return how long it is until a moment, in six characters: `13m05s`, `2d18h`."""
    at = formatting.moment(found)
    if at is None:
        return "-"
    parts = duration(max(0, int((at - now).total_seconds()))).replace("min", "m").split()
    return "".join(parts)[:6]


def _styled(line: str, style: str, styled: bool) -> str:
    return f"{style}{line}{_PLAIN}" if styled and style else line


def watch(client: Client, screen: Screen, every: float) -> int:
    """Show budgets until `q` or Ctrl-C is pressed."""
    garbage.enable_for_serving()  # it may run for days
    try:
        return _watch(client, screen, every)
    except KeyboardInterrupt:
        return 0


def _watch(client: Client, screen: Screen, every: float) -> int:
    styled = not os.environ.get("NO_COLOR")
    with _raw_terminal() as keyboard, ThreadPoolExecutor(1) as caller:
        answer = Answer()
        asked: Future[Json] | None = None
        due = 0.0
        before: list[str] = []
        while True:
            width, height = shutil.get_terminal_size()
            rows = rows_of(height)
            if asked is None and time.monotonic() >= due and not screen.paused:
                asked = caller.submit(_ask, client, screen.query(rows))
                due = time.monotonic() + every
            if asked is not None and asked.done():
                answer = _answer(asked, answer)
                asked = None
            lines = frame(screen, answer, str(client.server), width, height, styled=styled)
            if lines != before:
                _draw(lines)
                before = lines
            for key in _keys(keyboard, _TICK):
                domains = answer.found["domains"] if answer.found else ()
                total = (answer.found["total"] or _MOST) if answer.found else 0
                after = pressed(screen, key, domains, rows, total)
                if after is None:
                    return 0
                if after.query(rows) != screen.query(rows):
                    due = 0.0  # ask at once for what is to be shown now
                screen = after


def _ask(client: Client, query: Mapping[str, Any]) -> Json:
    return client.get("/budgets", **query)


def _answer(asked: Future[Json], before: Answer) -> Answer:
    try:
        return Answer(asked.result())
    except RateLimitServiceError as error:
        return before._replace(error=formatting.text(error))


def _draw(lines: Sequence[str]) -> None:
    text = "\r\n".join(f"{line}{_CLEAR_LINE}" for line in lines)
    sys.stdout.write(f"{_HOME}{text}{_CLEAR_BELOW}")
    sys.stdout.flush()


def _keys(keyboard: int, patience: float) -> Iterator[str]:
    """Yield the keys that are pressed within some seconds."""
    if not select.select([keyboard], [], [], patience)[0]:
        return
    text = os.read(keyboard, 256).decode("utf-8", "ignore")
    if not text:  # the terminal is gone
        yield "q"
    while text:
        name = next((name for name in _KEYS if text.startswith(name)), "")
        if name:
            yield _KEYS[name]
            text = text[len(name) :]
        else:
            yield text[0]
            text = text[1:]


@contextmanager
def _raw_terminal() -> Iterator[int]:
    """Read single keys, on a screen of its own; leave the terminal as it was, whatever happens."""
    keyboard = sys.stdin.fileno()
    before = termios.tcgetattr(keyboard)
    terminated = signal.signal(signal.SIGTERM, _terminate)
    try:
        tty.setcbreak(keyboard)
        sys.stdout.write(_ALTERNATE)
        yield keyboard
    finally:
        signal.signal(signal.SIGTERM, terminated)
        sys.stdout.write(_NORMAL)
        sys.stdout.flush()
        termios.tcsetattr(keyboard, termios.TCSADRAIN, before)


def _terminate(number: int, stack: object) -> None:
    raise SystemExit(128 + number)
