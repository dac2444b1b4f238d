"""What scenes are made of: a prompt and what comes of it, the operator's command, a look at the counters."""

from __future__ import annotations

import shlex
import time
from collections import Counter
from collections.abc import Callable, Sequence

import httpx

from testing.waiting import wait_for

from .books import Account, Books, start_of
from .callers import Answer, Caller
from .outcome import Wrong, expect
from .parts import Parts
from .stage import Seen, Stage

CHARGE = 5.0
"""Seconds until a charge must have been counted: it leaves the gateway when the caller has its answer."""

PAUSE = 0.8
"""Seconds between two requests, so that people can follow."""


class Player:
    """Plays with `parts`, and shows it on `stage`. With `fast` nothing is waited for that a command can do as well.

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
        """Play something that is about one window: where that ends in the middle, once more from the beginning."""
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
        """One request of somebody who has an account. Shown when what it cost has been counted there."""
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
        told = "; ".join(filter(None, [note, answer.message]))
        left = balances[account].left
        self.stage.request(Seen(account, user, answer.status, answer.tokens, left, stream, told))
        self.pause()
        return answer

    def _wait_for_the_charge(self, account: Account, before: int, tokens: int) -> None:
        def charged() -> int:
            return self.books.balances()[account].used - before

        try:
            wait_for("the charge", lambda: charged() == tokens, patience=CHARGE)
        except AssertionError:
            sentence = f"{account.name} was charged {charged()} tokens for an answer that cost {tokens}"
            raise Wrong(sentence) from None

    def stranger(self, caller: Caller, *, note: str, **headers: str) -> Answer:
        """One request of somebody who has none."""
        answer = caller.ask("Hello?", stream=False, **headers)
        told = f"{note}; {answer.message}"
        self.stage.request(Seen(None, "", answer.status, answer.tokens, None, stream=False, note=told))
        self.pause()
        return answer

    def left(self, account: Account) -> int:
        """What an account has room for."""
        return self.books.balances()[account].left

    def expect_exact(self, *accounts: Account) -> None:
        """Redis holds what the answers came to, in each window."""
        for account in accounts:
            for window in self.books.balances()[account].windows:
                expect(
                    window.used == self._counting[account],
                    f"{window.used} tokens are counted for {account.name} this {window.unit}, "
                    f"and the answers came to {self._counting[account]}",
                )

    def begin(self, *accounts: Account) -> None:
        """From here on, answers are added up anew: windows have begun."""
        for account in accounts:
            self._counting[account] = 0

    def reset(self, account: Account) -> None:
        """The command that an operator has."""
        command = shlex.join(("ratelimit-service", "reset", account.domain, account.descriptor))
        ended = self.parts.reset(account.domain, account.descriptor)
        self.stage.say(f"$ {command}\n{(ended.out + ended.err).rstrip()}")
        expect(ended.code == 0, f"`{command}` ended with {ended.code}")
        self.begin(account)
        self.stage.balances(self.books.balances())

    def show_counters(self, domain: str) -> None:
        """What redis-cli says of a domain."""
        for key, value in self.books.counters(domain).items():
            self.stage.say(f"$ redis-cli GET '{key}'\n{value}")

    def pause(self) -> None:
        """For people to follow."""
        if not self.fast:
            time.sleep(PAUSE)
