"""What docs/operations.md says: a section for every alert, tests that there are, a restored backup that is
one.
"""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
import yaml

from testing.redis_servers import RedisServer
from testing.waiting import wait_for

from .documents import DOCS, ROOT

TEXT = (DOCS / "operations.md").read_text("utf-8")
RULES = yaml.safe_load((ROOT / "deploy" / "monitoring" / "rules" / "ratelimit.yaml").read_text("utf-8"))
ALERTS = [rule for group in RULES["groups"] for rule in group["rules"] if "alert" in rule]

COUNTER = "{token-budgets|team=dba}:month:2026-11-01"


def runbooks() -> dict[str, str]:
    """The sections about alerts, by their headings."""
    parts = re.split(r"^### (.*)\n", TEXT.partition("\n## Alerts\n")[2], flags=re.MULTILINE)[1:]
    return dict(zip(parts[::2], parts[1::2], strict=True))


def test_every_alert_has_its_section_and_every_section_its_alert() -> None:
    """In the order of the file; the annotation of an alert leads to its own."""
    assert [alert["alert"] for alert in ALERTS] == list(runbooks())
    assert [f"docs/operations.md#{name.lower()}" for name in runbooks()] == [
        alert["annotations"]["runbook"] for alert in ALERTS
    ]


@pytest.mark.parametrize("alert", runbooks())
def test_each_runbook_has_a_meaning_and_an_action(alert: str) -> None:
    """First the one, then the other."""
    meaning, _, remedy = runbooks()[alert].partition("**Do:**")
    assert len(meaning.split()) >= 8
    assert len(remedy.split()) >= 8


def test_the_tests_that_are_named_exist() -> None:
    """What is said to be tested is."""
    written = {
        name
        for file in (ROOT / "tests" / "faults").glob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    assert set() == named - written
    assert named


def test_quoted_log_lines_exist() -> None:
    """A line that is quoted is one that somebody can search for."""
    source = "".join(file.read_text("utf-8") for file in (ROOT / "ratelimit_service").rglob("*.py"))
    quoted = [
        *("Redis is away", "Redis is back", "charges are lost", "came back empty", "certificate renewed"),
        *("the previous certificate stays in use", "the counters are written again"),
    ]
    assert [] == [line for line in quoted if f"{line}`" not in TEXT and f"`{line}" not in TEXT]
    assert [] == [line for line in quoted if line not in source]


@pytest.fixture
def backup(tmp_path: Path) -> Path:
    """Redis' directory as the steps leave it: what was used since is in a log that was moved away, and the
    backup is there.
    """
    copy, kept = tmp_path / "backup.rdb", tmp_path / "kept"
    with RedisServer("--appendonly", "yes", "--repl-diskless-sync-delay", "0") as server:
        server.cli("SET", COUNTER, "4000", "EX", "1000")
        server.cli("--rdb", str(copy))
        server.cli("INCRBY", COUNTER, "2000")
        (directory,) = server.cli("CONFIG", "GET", "dir").splitlines()[1:]
        server.stop()
        assert "appendonlydir" in {path.name for path in Path(directory).iterdir()}
    kept.mkdir()
    shutil.copy(copy, kept / "dump.rdb")
    return kept


def test_a_backup_is_restored_as_the_steps_say(backup: Path) -> None:
    """Without the log first, which is turned on then; after another start the counter is still the one of the
    backup.
    """
    with RedisServer("--dir", str(backup), "--appendonly", "no") as server:
        assert ("4000", "OK") == (
            server.cli("GET", COUNTER),
            server.cli("CONFIG", "SET", "appendonly", "yes"),
        )
        wait_for(
            "the append-only file",
            lambda: "aof_rewrite_in_progress:0" in server.cli("INFO", "persistence").split(),
        )
        assert "aof_last_bgrewrite_status:ok" in server.cli("INFO", "persistence").split()
    with RedisServer("--dir", str(backup), "--appendonly", "yes") as server:
        assert "4000" == server.cli("GET", COUNTER)
        assert 0 < int(server.cli("TTL", COUNTER)) <= 1000


def test_a_redis_with_appendonly_and_without_a_log_begins_empty(backup: Path) -> None:
    """So that the order of the steps matters."""
    with RedisServer("--dir", str(backup), "--appendonly", "yes") as server:
        assert "0" == server.cli("DBSIZE")
