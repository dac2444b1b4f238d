"""Tokens in the settings and in files."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from ratelimit_service.api.tokens import Role, Token, Tokens
from ratelimit_service.core.errors import StartError

FIRST, SECOND = "first-0123456789", "second-0123456789"


class Clock:
    """A clock in seconds, which tests set."""

    now = 0.0

    def __call__(self) -> float:
        return self.now


async def role(tokens: Tokens, clock: Clock, token: str) -> Role | None:
    """Return the role of a token after some seconds."""
    clock.now += 2
    await tokens.refresh()
    return tokens.role_of(token)


async def test_a_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """The previous token is refused. A trailing newline is ignored. A replaced symbolic link counts as a
    change, as in Kubernetes.
    """
    clock = Clock()
    file, other = tmp_path / "token", tmp_path / "other"
    file.write_text(f"{FIRST}\n")
    other.write_text(SECOND)
    tokens = Tokens(Token("ADMIN_TOKEN", file=str(file), clock=clock), Token("READ_TOKEN"))
    assert (Role.ADMIN, None) == (tokens.role_of(FIRST), tokens.role_of(SECOND))
    (tmp_path / "link").symlink_to(other)
    (tmp_path / "link").rename(file)
    with capture_logs() as logged:
        assert Role.ADMIN is await role(tokens, clock, SECOND)
    assert tokens.role_of(FIRST) is None
    assert ["a token was read again"] == [line["event"] for line in logged]
    assert SECOND not in str(logged)


@pytest.mark.parametrize("text", [None, "", "short", "has a space in it 0123", "é" * 20, "x" * 1_025])
async def test_a_file_without_a_valid_token_admits_no_caller(tmp_path: Path, text: str | None) -> None:
    """At the start, it is an error. Later, it is logged once, and a valid token is used as soon as the file
    has one.
    """
    clock = Clock()
    file = tmp_path / "token"
    file.write_text(FIRST)
    tokens = Tokens(Token("ADMIN_TOKEN"), Token("READ_TOKEN", file=str(file), clock=clock))
    assert Role.READ is tokens.role_of(FIRST)
    if text is None:
        file.unlink()
    else:
        file.write_text(text)
    with pytest.raises(StartError, match="READ_TOKEN_FILE cannot be used"):
        Token("READ_TOKEN", file=str(file))
    with capture_logs() as logged:
        for token in (FIRST, "", text or "x"):
            assert None is await role(tokens, clock, token)
    assert ["a token cannot be read: no caller has it"] == [line["event"] for line in logged]
    file.write_text(SECOND)
    assert Role.READ is await role(tokens, clock, SECOND)


async def test_a_file_is_checked_once_a_second(tmp_path: Path) -> None:
    """Many requests do not cause many reads."""
    clock = Clock()
    file = tmp_path / "token"
    file.write_text(FIRST)
    token = Token("ADMIN_TOKEN", file=str(file), clock=clock)
    before = token.digest
    file.write_text(SECOND)
    clock.now = 0.5
    await token.refresh()
    assert before == token.digest
    clock.now = 1.0
    await token.refresh()
    assert before != token.digest


async def test_the_token_stays_valid_while_its_file_hangs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The event loop is not blocked. A FIFO without a writer stands for a file system that does not
    answer.
    """
    clock = Clock()
    file = tmp_path / "token"
    file.write_text(FIRST)
    tokens = Tokens(Token("ADMIN_TOKEN", file=str(file), clock=clock), Token("READ_TOKEN"))
    file.unlink()
    os.mkfifo(file)
    monkeypatch.setattr("ratelimit_service.runtime.watched_file._ANSWERS_WITHIN", 0.05)
    with capture_logs() as logged:
        assert Role.ADMIN is await role(tokens, clock, FIRST)
    assert ["a file does not answer: the previous token stays valid"] == [line["event"] for line in logged]
    os.close(os.open(file, os.O_WRONLY))  # release the thread
