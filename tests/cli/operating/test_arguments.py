"""The options of the commands for operators: amounts, moments, servers and tokens, and their completion in a
shell.
"""

from __future__ import annotations

import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest

from ratelimit_service.cli.operating.change_commands import amount_of, moment_of
from ratelimit_service.cli.operating.client import server_of, token_of
from ratelimit_service.core.errors import InvalidRequest

from .conftest import BECAUSE, Operate


@pytest.mark.parametrize(
    "arguments",
    [
        ["top-up", "budgets", "team=x", "many", *BECAUSE],
        ["top-up", "budgets", "team=x", "5"],
        ["override", "budgets", "team=x", "5", "--until", "soon", *BECAUSE],
        ["budgets", "--min-used", "most"],
        ["budgets", "--state", "full"],
        ["wait", "--hash", "xyz"],
        ["completion", "tcsh"],
    ],
)
def test_a_wrong_option_is_told(operate: Operate, arguments: list[str]) -> None:
    assert 2 == operate(*arguments).code


def test_amounts_are_read_as_people_write_them() -> None:
    assert [20_000, 20_000, 20_000, 5_000_000, 0] == list(
        map(amount_of, ["20000", "20_000", "20k", "5M", "0"])
    )
    for wrong in ("", "-5", "1.5k", "5x", "k", "²", "9" * 20):
        with pytest.raises(ValueError, match="is not an amount"):
            amount_of(wrong)


def test_moments_are_read_as_people_say_them() -> None:
    friday = datetime(2026, 11, 27, 15, 30, tzinfo=UTC)
    for text, expected in (
        ("2026-12-01T00:00:00Z", "2026-12-01T00:00:00Z"),
        ("2026-12-01T01:00:00+01:00", "2026-12-01T00:00:00Z"),
        ("90m", "2026-11-27T17:00:00Z"),
        ("3d", "2026-11-30T15:30:00Z"),
        ("monday", "2026-11-30T00:00:00Z"),
        ("Friday", "2026-12-04T00:00:00Z"),
    ):
        assert expected == moment_of(text, friday)
    for wrong in ("", "soon", "3", "d", "2026-12-01", "2026-12-01T00:00:00"):
        with pytest.raises(ValueError, match="is not a moment"):
            moment_of(wrong, friday)
    assert moment_of("monday").endswith("Z")


def test_servers_and_tokens_are_found(tmp_path: Path) -> None:
    """In the container of the service, its own token is used."""
    assert ["http://127.0.0.1:6070", "https://x:443", "http://[::1]:6070"] == [
        str(server_of(text)) for text in (":6070", "https://x:443", "[::1]")
    ]
    with pytest.raises(InvalidRequest):
        server_of("x:port")
    (tmp_path / "token").write_text("from-file\n")
    file = str(tmp_path / "token")
    assert ["", "a", "b", "from-file"] == [
        token_of(environment)
        for environment in (
            {},
            {"RATELIMIT_TOKEN": "a", "ADMIN_TOKEN": "b"},
            {"ADMIN_TOKEN": "b", "READ_TOKEN": "c"},
            {"RATELIMIT_TOKEN_FILE": file, "ADMIN_TOKEN": "b"},
        )
    ]


def test_a_shell_completes_commands_and_options(operate: Operate) -> None:
    """Bash runs its script. The scripts for other shells are only printed."""
    script = operate("completion", "bash").out
    for words, expected in (
        (["ratelimit-service", "top-"], ["top-up"]),
        (["ratelimit-service", "budgets", "--st"], ["--state"]),
        (["ratelimit-service", "budgets", "--state", "b"], ["blocked"]),
    ):
        quoted = " ".join(f"'{word}'" for word in words)
        probe = (
            f"{script}\nCOMP_WORDS=({quoted}); COMP_CWORD={len(words) - 1}; _ratelimit_service; "
            "echo ${COMPREPLY[@]}"
        )
        done = subprocess.run(["bash", "-c", probe], capture_output=True, text=True, check=True)
        assert (expected, "") == (done.stdout.split(), done.stderr)
    assert "bashcompinit" in operate("completion", "zsh").out
    assert (
        "complete -c ratelimit-service -n __fish_use_subcommand -f -a budgets"
        in operate("completion", "fish").out
    )
