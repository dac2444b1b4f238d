"""The output: a live table on a terminal, otherwise a plain line for each request."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

from rich import box
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.markup import escape
from rich.padding import Padding
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from .budgets import Account, Balance, Window


@dataclass(frozen=True)
class ObservedRequest:
    """A request, as its caller saw it. `account` has its budget; None for a caller without one."""

    account: Account | None
    user: str
    status: int
    tokens: int
    left: int | None
    stream: bool
    note: str = ""

    @property
    def line(self) -> str:
        """The request as a line for people and programs."""
        who = f"{self.account.kind}={self.account.name}" if self.account else "team=-"
        left = "-" if self.left is None else self.left
        note = f" note={self.note!r}" if self.note else ""
        user = f" user={self.user}" if self.user else ""
        how = "yes" if self.stream else "no"
        return f"{who}{user} status={self.status} tokens={self.tokens} left={left} stream={how}{note}"


class Stage:
    """Plain lines."""

    def __init__(self, console: Console, titles: Sequence[str]) -> None:
        self._console = console
        self._titles = titles
        self._scene = 0

    @property
    def where(self) -> str:
        """The current scene."""
        return f"Scene {self._scene} ({self._titles[self._scene - 1]})" if self._scene else "The start"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        """Keep the output."""

    def scene(self, number: int) -> None:
        """Begin scene `number`, after the success of the previous one."""
        self._scene = number
        self.say(f"\n== {number}. {self._titles[number - 1]}")

    def ended(self) -> None:
        """End the last scene."""

    def balances(self, balances: Mapping[Account, Balance]) -> None:
        """Show the balances."""

    def request(self, seen: ObservedRequest) -> None:
        """Show a request."""
        self.say(seen.line)

    def say(self, text: str) -> None:
        """Show text."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)


class LiveStage(Stage):
    """Coloured lines above a table of all budgets, which is redrawn four times a second."""

    def __init__(self, console: Console, titles: Sequence[str]) -> None:
        super().__init__(console, titles)
        self._over = False
        self._balances: Mapping[Account, Balance] = {}
        self._requests: dict[Account, list[int]] = {}
        self._live = Live(console=console, get_renderable=self._render, refresh_per_second=4)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        self._live.stop()

    def scene(self, number: int) -> None:
        """See Stage."""
        self._scene = number
        self._console.print(f"\n[bold]{number}. {escape(self._titles[number - 1])}[/]", highlight=False)

    def ended(self) -> None:
        """See Stage."""
        self._over = True
        self._live.refresh()

    def balances(self, balances: Mapping[Account, Balance]) -> None:
        """See Stage."""
        self._balances = balances
        self._live.refresh()

    def request(self, seen: ObservedRequest) -> None:
        """See Stage."""
        if seen.account:
            self._requests.setdefault(seen.account, []).append(seen.status)
        colour = "green" if seen.status == 200 else "red"
        who = seen.account.name if seen.account else "nobody"
        spent = f"{seen.tokens:,} tokens" if seen.tokens else ""
        left = "" if seen.left is None else f"{seen.left:,} left"
        how = "stream" if seen.stream else "json"
        text = f"  {who:9} {seen.user:4} [{colour}]{seen.status}[/] {spent:>13} {left:>13}  [dim]{how}[/]"
        self._console.print(text, highlight=False)
        if seen.note:
            self._console.print(Padding(Text(seen.note, "italic"), (0, 0, 0, 17)))

    def _render(self) -> RenderableType:
        return Group(self._table(), self._progress())

    def _progress(self) -> RenderableType:
        """The progress through the scenes."""
        words = Text("  ")
        for number, title in enumerate(self._titles, start=1):
            mark, style = "·", "dim"
            if number < self._scene or self._over:
                mark, style = "✓", "green"
            elif number == self._scene:
                mark, style = "▸", "bold"
            words.append(f"{mark} {number} {title.partition(':')[0]}  ", style)
        return words

    def _table(self) -> Table:
        table = Table("who", "budget", "", "used", "left", "new in", "200", "429", box=box.SIMPLE_HEAD)
        for column in (table.columns[1], *table.columns[3:]):
            column.justify, column.no_wrap = "right", True
        for account, balance in self._balances.items():
            statuses = self._requests.get(account, [])
            for row, window in enumerate(balance.windows):
                first = row == 0
                table.add_row(
                    account.name if first else "",
                    f"{window.limit:,}/{window.unit}",
                    _bar(window),
                    f"{window.used:,}",
                    Text(f"{window.left:,}", "" if window.left else "bold red"),
                    _clock(window.resets_in),
                    f"{statuses.count(200)}" if first else "",
                    f"{statuses.count(429)}" if first else "",
                )
        return table


def _bar(window: Window) -> ProgressBar:
    share = window.used / window.limit if window.limit else 1.0
    colour = "red" if share >= 1 else "yellow" if share >= 0.8 else "green"
    return ProgressBar(
        total=1, completed=min(share, 1), width=10, complete_style=colour, finished_style=colour
    )


def _clock(seconds: int) -> str:
    hours, rest = divmod(seconds, 60 * 60)
    return f"{hours}:{rest // 60:02}:{rest % 60:02}" if hours else f"{rest // 60}:{rest % 60:02}"


def stage_for(console: Console, titles: Sequence[str]) -> Stage:
    """Return a live stage if the console supports it."""
    live = console.is_terminal and not console.is_dumb_terminal
    return LiveStage(console, titles) if live else Stage(console, titles)
