"""The commands of docs/operating.md, one after another, against the service of `make run`."""

from __future__ import annotations

import os
import re
import shlex
from unittest.mock import patch

from ratelimit_service.cli.options import COMMANDS
from testing.service import Service, inherited
from tests.cli.command_runner import run

from .documents import DOCS, ROOT

PAGE = DOCS / "operating.md"
COMMAND = re.compile(r"^(ratelimit-service .*?)(?:  # exits with (\d))?$", re.MULTILINE)
TOKEN = "admin-token-0123456789"


def test_the_readme_lists_every_command() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    table = readme.partition("\n## Commands\n")[2].partition("\n## ")[0]
    cells = [line.split(" | ")[0] for line in table.splitlines() if line.startswith("| `")]
    listed = [
        words.removeprefix("ratelimit-service ").split()[0]
        for words in re.findall(r"`(.*?)`", " ".join(cells))
    ]
    assert sorted(command.name for command in COMMANDS) == sorted(listed)


def test_the_commands_of_the_page_do_what_it_says() -> None:
    """With the exit codes that it names; each change can be made."""
    blocks = re.findall(r"```sh\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    commands = COMMAND.findall("\n".join(blocks))
    assert "\n".join(blocks).count("ratelimit-service ") == len(commands) >= 12
    settings = {
        "BACKEND_TYPE": "memory",
        "CONFIG_PATH": str(ROOT / "config" / "token-budgets.yaml"),
        "ADMIN_TOKEN": TOKEN,
    }
    with Service({**settings, "DEBUG_HOST": "127.0.0.1"}) as service:
        environment = {**inherited(), "RATELIMIT_SERVER": service.debug, "RATELIMIT_TOKEN": TOKEN}
        with patch.dict(os.environ, environment, clear=True):
            for team, hits in (("dba", 60_000), ("support", 170_000)):
                run(["ask", "token-budgets", f"team={team}", "--hits", str(hits), "--server", service.grpc])
            for command, code in commands:
                line = command.replace("$RATELIMIT_SERVER", service.debug)
                ended = run(shlex.split(line)[1:])
                assert int(code or 0) == ended.code, (command, ended.err)
                assert "" == ended.err, command
                assert ended.out, command
