"""The steps of scenes: a prompt, a command of the operator, a check of the counters."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence

import httpx

from testing.waiting import wait_for

from .budgets import Account, Books, start_of
from .callers import Answer, Caller
from .outcome import SceneFailed, expect
from .output import ObservedRequest, Stage
from .parts import Parts

CHARGE = 5.0
"""Seconds until a charge must be counted; the gateway sends it after the caller's answer."""

PAUSE = 0.8
"""Seconds between two requests, for people to follow."""


class Player:
    """Plays scenes with `parts`, and shows them on `stage`. With `fast`, commands replace waiting.

    `by_account` and `by_user` are what the answers came to.
    """

    def __init__(self, parts: Parts, stage: Stage, *, fast: bool) -> None:
        self.parts = parts
        self.stage = stage
        self.fast = fast
        self.books = Books(parts)
        self.by_account: Counter[Account] = Counter()
        self.by_user: Counter[str] = Counter()
        self._counting: Counter[Account] = Counter()

    def within(self, unit: str, accounts: Sequence[Account], play: Callable[[], None]) -> None:
        """Play a scene within one window; if the window ends meanwhile, play it again."""
        began = start_of(unit)
        try:
            play()
        except Exception:
            if began == start_of(unit):
                raise
            self.stage.say(f"\nThe {unit} ended in the middle of it. Once more, from the beginning:")
            for account in accounts:
                self.reset(account)
            play()

    def prompt(
        self,
        account: Account,
        caller: Caller,
        prompt: str,
        *,
        stream: bool,
        user: str = "",
        note: str = "",
        **headers: str,
    ) -> Answer:
        """Send a request of an account, and show it when its cost has been counted."""
        before = self.books.balances()[account]
        answer = caller.ask(prompt, stream=stream, **headers)
        if answer.status == httpx.codes.OK:
            self.by_account[account] += answer.tokens
            self._counting[account] += answer.tokens
            if user:
                self.by_user[user] += answer.tokens
            self._wait_for_the_charge(account, before.used, answer.tokens)
        balances = self.books.balances()
        self.stage.balances(balances)
        message = "; ".join(filter(None, [note, answer.message]))
        left = balances[account].left
        self.stage.request(
            ObservedRequest(account, user, answer.status, answer.tokens, left, stream, message)
        )
        self.pause()
        return answer

    def _wait_for_the_charge(self, account: Account, before: int, tokens: int) -> None:
        def charged() -> int:
            return self.books.balances()[account].used - before

        try:
            wait_for("the charge", lambda: charged() == tokens, patience=CHARGE)
        except AssertionError:
            sentence = f"{account.name} was charged {charged()} tokens for an answer that cost {tokens}"
            raise SceneFailed(sentence) from None

    def stranger(self, caller: Caller, *, note: str, **headers: str) -> Answer:
        """Send a request of a caller without an account."""
        answer = caller.ask("Hello?", stream=False, **headers)
        message = f"{note}; {answer.message}"
        self.stage.request(
            ObservedRequest(None, "", answer.status, answer.tokens, None, stream=False, note=message)
        )
        self.pause()
        return answer

    def left(self, account: Account) -> int:
        """Return the remaining budget of an account."""
        return self.books.balances()[account].left

    def expect_exact(self, *accounts: Account) -> None:
        """Check that Redis has the sum of the answers' costs in each window."""
        for account in accounts:
            for window in self.books.balances()[account].windows:
                expect(
                    window.used == self._counting[account],
                    f"{window.used} tokens are counted for {account.name} this {window.unit}, "
                    f"and the answers came to {self._counting[account]}",
                )

    def begin(self, *accounts: Account) -> None:
        """Start the sums of answers again, for new windows."""
        for account in accounts:
            self._counting[account] = 0

    def reset(self, account: Account) -> None:
        """Run the command `reset`, as an operator does."""
        command = shlex.join(("ratelimit-service", "reset", account.domain, account.descriptor))
        ended = self.parts.reset(account.domain, account.descriptor)
        self.stage.say(f"$ {command}\n{(ended.out + ended.err).rstrip()}")
        expect(ended.code == 0, f"`{command}` ended with {ended.code}")
        self.begin(account)
        self.stage.balances(self.books.balances())

    def top_up(self, account: Account, amount: int, window: str, reason: str) -> None:
        """Run the command `top-up`, as an operator does; the page does the same."""
        words = ("top-up", account.domain, account.descriptor, str(amount))
        options = ("--window", window, "--windows", "1", "--reason", reason, "--author", "oncall")
        command = shlex.join(("ratelimit-service", *words, *options))
        ended = self.parts.operate(*words, *options)
        self.stage.say(f"$ {command}\n{(ended.out + ended.err).rstrip()}")
        expect(ended.code == 0, f"`{command}` ended with {ended.code}")
        self.books.look_for_amendments(account)
        self.stage.balances(self.books.balances())

    def show_counters(self, domain: str) -> None:
        """Show the counters of a domain by redis-cli."""
        for key, value in self.books.counters(domain).items():
            self.stage.say(f"$ redis-cli GET '{key}'\n{value}")

    def pause(self) -> None:
        """Pause for people to follow."""
        if not self.fast:
            time.sleep(PAUSE)
