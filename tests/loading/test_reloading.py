"""When rules are loaded again: after a change of the files, and after a temporary error."""

from __future__ import annotations

import asyncio
import threading

import pytest

from ratelimit_service.loading import reloading
from ratelimit_service.loading.reloading import follow
from ratelimit_service.runtime.threads import StuckError, Thread


class Files:
    """Files that change at the given moments, and loads with the given results; `loads` has the moments of
    the loads.
    """

    def __init__(self, *, changes: set[float], outcomes: list[bool]) -> None:
        self.now = 0.0
        self.loads: list[float] = []
        self._changes = changes
        self._outcomes = outcomes

    async def sleep(self, seconds: float) -> None:
        self.now = round(self.now + seconds, 3)
        if not self._outcomes:
            raise asyncio.CancelledError
        await asyncio.sleep(0)

    def changed(self) -> bool:
        return self.now in self._changes

    async def load(self) -> bool:
        self.loads.append(self.now)
        return self._outcomes.pop(0)

    async def follow(self, *, again: bool = False) -> list[float]:
        with pytest.raises(asyncio.CancelledError):
            await follow(self.changed, self.load, Thread("files"), again=again, sleep=self.sleep)
        return self.loads


async def test_each_change_is_loaded_once() -> None:
    """Without a change, nothing is loaded."""
    assert [1.0, 5.0] == await Files(changes={1.0, 5.0}, outcomes=[False, False]).follow()


async def test_a_failed_load_is_retried_with_growing_pauses() -> None:
    """Until it succeeds."""
    files = Files(changes={1.0, 300.0}, outcomes=[True] * 8 + [False, False])
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 124.0, 184.0, 300.0] == await files.follow()


async def test_a_change_is_loaded_at_once_during_a_pause() -> None:
    """After it, pauses are short again."""
    files = Files(changes={1.0, 40.0}, outcomes=[True] * 8)
    assert [1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 40.0, 41.0] == await files.follow()


async def test_a_failed_first_load_is_retried() -> None:
    """A service may start while its files cannot be read."""
    assert [1.0, 3.0] == await Files(changes=set(), outcomes=[True, False]).follow(again=True)


async def test_files_that_do_not_answer_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """The supervisor logs it, and starts again."""
    monkeypatch.setattr(reloading, "ANSWERS_WITHIN", 0.01)
    answers = threading.Event()
    try:
        with pytest.raises(StuckError):
            await follow(answers.wait, no_load, Thread("files"), sleep=asyncio.sleep)
    finally:
        answers.set()


async def no_load() -> bool:
    raise AssertionError("nothing has changed")
