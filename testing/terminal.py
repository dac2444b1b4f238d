"""A command of `ratelimit-service` in a terminal of its own, the text that its screen shows, and a picture of
it.
"""

from __future__ import annotations

import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator, Sequence
from html import escape
from types import TracebackType
from typing import NamedTuple, Self

from .service import COMMAND, REPOSITORY, inherited
from .waiting import PATIENCE

_TAKE_TERMINAL = """
import fcntl, os, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
os.execv(sys.argv[1], sys.argv[1:])
"""
"""Makes stdin the terminal of the session, so that Ctrl-C reaches its processes, and runs a command.

`preexec_fn` could do that without another Python. It runs in a fork of this process, where grpc's handlers of
forks run as well, and write to the terminal.
"""

_FRAME = re.compile(r"\x1b\[H((?:(?!\x1b\[H).)*?)\x1b\[J", re.DOTALL)
"""A whole screen: from the movement to its first place to the deletion of what is below."""

_STYLE = re.compile(r"\x1b\[([0-9;]*)m")


class Terminal:
    """A terminal in which a command runs, as a context manager. `output` is all that it has written."""

    def __init__(
        self,
        *arguments: str,
        server: str,
        columns: int = 80,
        lines: int = 12,
        command: Sequence[str] = COMMAND,
        **environment: str,
    ) -> None:
        self._main, self.end = pty.openpty()
        fcntl.ioctl(self.end, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.before = termios.tcgetattr(self.end)
        self.process = subprocess.Popen(
            (sys.executable, "-c", _TAKE_TERMINAL, *command, *arguments),
            stdin=self.end,
            stdout=self.end,
            stderr=self.end,
            start_new_session=True,
            cwd=REPOSITORY,
            env={**inherited(), "RATELIMIT_SERVER": server, "TERM": "xterm", **environment},
        )
        self.output = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self._main)
        os.close(self.end)

    @property
    def screen(self) -> str:
        """The last whole screen, with its styles; "" if there is none yet."""
        frames = _FRAME.findall(self.output)
        return frames[-1].replace("\x1b[K", "").replace("\r\n", "\n") if frames else ""

    def press(self, keys: str) -> None:
        """Type these keys."""
        os.write(self._main, keys.encode())

    def wait_for(self, found: Callable[[str], bool]) -> None:
        """Read until the output matches."""
        self._read_until(lambda: found(self.output))

    def wait_for_screen(self, *texts: str) -> str:
        """Read until a screen has these texts, and return it."""
        self._read_until(lambda: all(text in self.screen for text in texts))
        return self.screen

    def _read_until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + PATIENCE
        os.set_blocking(self._main, False)
        while not done():
            assert time.monotonic() < end, self.output[-3_000:]
            try:
                self.output += os.read(self._main, 65_536).decode("utf-8", "replace")
            except BlockingIOError:
                time.sleep(0.02)


class Text(NamedTuple):
    """A part of a line: its first column, its text, and the numbers of its style ("1;31")."""

    column: int
    text: str
    style: str


def texts(screen: str) -> Iterator[list[Text]]:
    """Yield the parts of each line of a screen."""
    style = ""
    for line in screen.splitlines():
        parts, column = [], 0
        for number, text in enumerate(_STYLE.split(line)):
            if number % 2:
                style = "" if text in ("", "0") else text
            elif text:
                parts.append(Text(column, text, style))
                column += len(text)
        yield parts


_CELL, _LINE, _MARGIN = 8, 18, 16
"""The width of a character, the height of a line, and the space around them, in pixels."""

_COLOURS = """\
.bg{fill:#ffffff;stroke:#d0d7de}text{fill:#1f2328}.s31{fill:#b42318}.s33{fill:#8a5a00}.s1{font-weight:bold}
@media(prefers-color-scheme:dark){.bg{fill:#12161c;stroke:#3d444d}text{fill:#dfe4ea}.s31{fill:#ff7b72}.s33{fill:#e3b341}}"""


def svg(screen: str, columns: int, title: str) -> str:
    """Return a screen as an SVG, in light or dark as the browser prefers.

    The width of each word is set, so the columns are straight in any monospaced font.
    """
    lines = list(texts(screen))
    width, height = columns * _CELL + 2 * _MARGIN, len(lines) * _LINE + 2 * _MARGIN
    drawn = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="ui-monospace, Menlo, Consolas, \'DejaVu Sans Mono\', '
        'monospace" font-size="13" role="img">',
        f"<title>{escape(title)}</title>",
        f"<style>{_COLOURS}</style>",
        f'<rect class="bg" x=".5" y=".5" width="{width - 1}" height="{height - 1}" rx="6"/>',
    ]
    for number, parts in enumerate(lines):
        for part in parts:
            for word in re.finditer(r"\S+(?: \S+)*", part.text):
                x = _MARGIN + (part.column + word.start()) * _CELL
                y = _MARGIN + number * _LINE + 13
                named = "".join(f" s{each}" for each in part.style.split(";") if each)
                style = f' class="{named.strip()}"' if named else ""
                length = len(word[0]) * _CELL
                drawn.append(
                    f'<text x="{x}" y="{y}" textLength="{length}" lengthAdjust="spacingAndGlyphs"{style}>'
                    f"{escape(word[0], quote=False)}</text>"
                )
    return "\n".join([*drawn, "</svg>", ""])
