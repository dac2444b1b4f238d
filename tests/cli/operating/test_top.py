"""The command `top`: its screen, its keys, and the restored terminal."""

from __future__ import annotations

import signal
import termios
from datetime import UTC, datetime
from typing import Any

import pytest

from ratelimit_service.cli.operating import formatting
from ratelimit_service.cli.operating.top import HELP, Answer, Screen, frame, pressed
from testing.terminal import Terminal
from testing.waiting import PATIENCE

from .conftest import Operate

NOW = datetime(2026, 11, 28, 10, 0, tzinfo=UTC)


def budget(name: str = "team=dba", **changes: Any) -> dict[str, Any]:
    window = {
        "window": "hour",
        "used": 4_211,
        "effective_limit": 5_000,
        "share": 0.8422,
        "burn_per_second": 1.5,
        "runs_out_at": "2026-11-28T10:08:46Z",
        "resets_at": "2026-11-28T11:00:00Z",
        **changes,
    }
    return {
        "domain": "d",
        "descriptor": name,
        "entries": [],
        "state": changes.get("state", "low"),
        "shadow": False,
        "windows": [window],
    }


def answer(*budgets: dict[str, Any]) -> Answer:
    return Answer({"budgets": list(budgets), "total": len(budgets), "partial": False, "domains": ["d", "e"]})


def lines(screen: Screen, found: Answer, width: int = 80, height: int = 8) -> list[str]:
    return frame(screen, found, "http://127.0.0.1:6070", width, height, NOW, styled=False)


def test_a_screen_of_80_columns_has_all_of_a_budget() -> None:
    """It has the name, state, bar, share, use and limit, burn, and the times of exhaustion and reset."""
    found = lines(Screen(), answer(budget(), budget("team=web", state="over", share=1.2, used=6_000)))
    assert 8 == len(found)
    assert "127.0.0.1:6070" in found[0]
    assert "2 budgets  by most used" in found[0]
    names = ["DESCRIPTOR", "STATE", "USED", "OF", "LIMIT", "BURN", "EMPTY", "RESET"]
    assert names == found[1].split()
    assert "team=dba hour low [#####.] 84 % 4,211/5,000 2/s 8m46s 1h" == " ".join(found[2].split())
    assert "team=web hour over [######] 120 %" in " ".join(found[3].split())
    assert HELP.startswith(found[-1].rstrip("…")[:60])


HOSTILE = [
    "team=" + "x" * 8_000,
    "team=\x1b[31m\x1b]0;owned\x07",
    "team=\u202eabc",
    "team=名前名前名前名前名前名前",
    "team=\r\n",
    "team=a\u0301" * 40,
]


@pytest.mark.parametrize("width", [40, 80, 81, 200])
@pytest.mark.parametrize("name", HOSTILE, ids=range(len(HOSTILE)))
def test_no_name_breaks_the_screen(name: str, width: int) -> None:
    """The service escapes names, but another service may not."""
    for line in lines(Screen(search=name[:90]), answer(budget(name)), width):
        assert formatting.width_of(line) <= width
        assert line.isprintable()


@pytest.mark.parametrize("width, height", [(1, 1), (10, 2), (40, 3), (500, 100)])
def test_a_screen_has_as_many_lines_as_the_terminal(width: int, height: int) -> None:
    found = lines(Screen(), answer(*[budget() for _ in range(200)]), width, height)
    assert max(height, 1) == len(found)


def test_missing_data_are_reported() -> None:
    assert "asking the service" in "".join(lines(Screen(), Answer()))
    assert "nothing is counted yet" in "".join(lines(Screen(), answer()))
    assert "no budget matches" in "".join(lines(Screen(state="over"), answer()))
    assert "it does not answer" in lines(Screen(), Answer(None, "it does not answer"))[-1]
    old = answer(budget())._replace(error="it does not answer")
    assert "the values are old: it does not answer" in lines(Screen(), old)[-1]
    assert "team=dba" in lines(Screen(), old)[2]
    stray = budget(effective_limit=None, share=0.0)
    assert "4,211" in lines(Screen(), answer(stray))[2]


def press(screen: Screen, *keys: str) -> Screen:
    for key in keys:
        after = pressed(screen, key, ["d", "e"], 10, 25)
        assert after is not None
        screen = after
    return screen


def test_keys_change_the_view() -> None:
    """There are keys to sort, filter, select a domain, search, scroll and pause."""
    start = Screen()
    assert ["used", "name", "reset", "-used"] == [press(start, *"s" * n).sort for n in (1, 2, 3, 4)]
    assert ["over", "blocked", "low", "ok", ""] == [press(start, *"f" * n).state for n in (1, 2, 3, 4, 5)]
    assert ["d", "e", ""] == [press(start, *"d" * n).domain for n in (1, 2, 3)]
    assert "dbq" == press(start, "/", *"dbx", "\x7f", "q", "\r").search
    assert ("", False) == (press(start, "/", "x", "\x1b").search, press(start, "/", "\x1b").typing)
    assert [1, 0, 15, 15] == [
        press(start, "down").offset,
        press(start, "down", "up", "up").offset,
        press(start, "page down", "page down").offset,
        press(start, *["j"] * 40).offset,
    ]
    assert 0 == press(start, "down", "s").offset
    assert press(start, " ").paused
    assert start == press(start, "x", "\x01")
    assert None is pressed(start, "q", [], 10, 0)
    query = press(start, "f", "/", "x").query(10)
    assert ("over", "x", 10) == (query["state"], query["prefix"], query["limit"])


@pytest.mark.parametrize("leave", ["q", "\x03", "SIGTERM"])
def test_a_terminal_is_live_and_is_left_as_it_was(operate: Operate, leave: str) -> None:
    """Charges appear without a key, keys act, and the screen and the modes are restored."""
    operate.charge("team=live", 4_500)
    try:
        with Terminal("top", "--every", "0.2", server=operate.service.debug) as terminal:
            terminal.wait_for(lambda output: "team=live" in output and "90 %" in output)
            terminal.press("/live\r")
            terminal.wait_for(lambda output: "search: live" in output)
            operate.charge("team=live", 400)
            terminal.wait_for(lambda output: "98 %" in output)
            if leave == "SIGTERM":
                terminal.process.send_signal(signal.SIGTERM)
            else:
                terminal.press(leave)
            terminal.wait_for(lambda output: "\x1b[?1049l" in output)
            assert (128 + signal.SIGTERM if leave == "SIGTERM" else 0) == terminal.process.wait(PATIENCE)
            assert terminal.before == termios.tcgetattr(terminal.end)
            assert terminal.output.startswith("\x1b[?1049h")
    finally:
        operate("reset", "budgets", "team=live", "--server", operate.service.debug)


def test_without_a_terminal_it_prints_lines_once(operate: Operate) -> None:
    operate.charge("team=plain", 5)
    code, out, _ = operate("top", "--prefix", "plain")
    assert (0, 2) == (code, len(out.splitlines()))
    assert "\x1b" not in out


@pytest.mark.parametrize(
    ("text", "columns"), [("dba", 3), ("日本", 4), ("e\u0301", 1), ("\u2764\ufe0f", 1), ("\u0915\u094d", 1)]
)
def test_a_column_is_as_wide_as_its_characters(text: str, columns: int) -> None:
    """Marks take no column, whether or not they have a class of combination."""
    assert columns == formatting.width_of(text)
    assert formatting.padded(text, 8) == text + " " * (8 - columns)
