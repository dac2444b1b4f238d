"""`check-config`: its reports about files, and its exit codes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from testing.service import REPOSITORY, run

from .conftest import Command

GOOD = """\
domain: {domain}
descriptors:
  - key: team
    rate_limit: {{unit: hour, requests_per_unit: 10}}
"""
WARNS = """\
domain: warns
descriptors:
  - key: team
    rate_limit: {unit: hour}
"""
TWO_ERRORS = """\
domain: two
descriptors:
  - key: team
    rate_limit: {unit: fortnight, requests_per_unit: 10}
  - value: dba
"""


def write(directory: Path, **files: str) -> Path:
    """Write these files, each as NAME.yaml."""
    directory.mkdir(exist_ok=True)
    for name, text in files.items():
        (directory / f"{name}.yaml").write_text(text)
    return directory


def test_good_files_are_counted(command: Command, tmp_path: Path) -> None:
    """One line has the numbers; a directory stands for its YAML files."""
    write(tmp_path, a=GOOD.format(domain="a"), b=GOOD.format(domain="b"))
    assert (0, "ok: 2 rules in 2 domains\n", "") == command("check-config", str(tmp_path))
    assert (0, "ok: 1 rule in 1 domain\n", "") == command("check-config", str(tmp_path / "a.yaml"))


def test_all_mistakes_are_reported_together(command: Command, tmp_path: Path) -> None:
    """One run reports the errors of every file, including unreadable ones."""
    broken = write(tmp_path / "broken", two=TWO_ERRORS, warns=WARNS, yaml="domain: [}")
    code, out, err = command("check-config", str(tmp_path / "gone.yaml"), str(broken))
    assert (1, "") == (code, err)
    errors = [line.split(": ")[1:] for line in out.splitlines() if line.startswith("error: ")]
    assert [
        str(tmp_path / "gone.yaml"),
        f"{broken}/yaml.yaml:1",
        f"{broken}/two.yaml:4",
        f"{broken}/two.yaml:5",
    ] == [where for where, *_ in errors]
    assert "cannot be read" in out
    assert [f"{broken}/warns.yaml:4"] == [
        line.split(": ")[1] for line in out.splitlines() if line.startswith("warning: ")
    ]


def test_strict_turns_warnings_into_errors(command: Command, tmp_path: Path) -> None:
    """--strict, for pipelines: some mistakes are accepted, because envoyproxy/ratelimit accepts them."""
    path = str(write(tmp_path, warns=WARNS))
    code, out, _ = command("check-config", path)
    warning, ok = out.splitlines()
    assert (0, True, "ok: 1 rule in 1 domain") == (code, warning.startswith("warning: "), ok)
    assert (1, warning.replace("warning", "error", 1) + "\n", "") == command("check-config", path, "--strict")


def test_files_of_one_domain_are_merged_on_request(command: Command, tmp_path: Path) -> None:
    """--merge-domains, or the variable of the service."""
    path = str(
        write(tmp_path, a=GOOD.format(domain="d"), b=GOOD.format(domain="d").replace("team", "namespace"))
    )
    assert 1 == command("check-config", path).code
    merged = (0, "ok: 2 rules in 1 domain\n", "")
    assert merged == command("check-config", path, "--merge-domains")
    assert merged == command("check-config", path, MERGE_DOMAIN_CONFIG="true")


def test_a_directory_without_files_is_named(command: Command, tmp_path: Path) -> None:
    """A pipeline that checks nothing must not pass."""
    said = f"error: {tmp_path}: there is no configuration file\n"
    assert (1, said, "") == command("check-config", str(tmp_path))


def test_a_hostile_file_name_stays_on_its_line(command: Command, tmp_path: Path) -> None:
    """Bytes that are not UTF-8, and an escape sequence."""
    path = tmp_path / "evil\n\x1b[2J\udcff.yaml"
    path.write_text("domain: [")
    code, out, _ = command("check-config", str(path))
    assert (1, 1, True) == (code, out.count("\n"), out.replace("\n", "").isprintable())


def test_settings_of_the_service_do_not_matter(command: Command, tmp_path: Path) -> None:
    """It needs no store, whatever the environment has."""
    path = write(tmp_path, a=GOOD.format(domain="a"))
    assert 0 == command("check-config", str(path), BACKEND_TYPE="memcache", REDIS_URL="nowhere").code


def test_check_config_does_not_import_the_server() -> None:
    """It runs in hooks and pipelines, which should not wait for unused imports."""
    script = (
        "import sys; from ratelimit_service.cli import checking; "
        "checking.check_config([], strict=False, merge_domains=False); "
        "print([name for name in ('grpc', 'redis', 'h11', 'uvloop') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True
    )
    assert "[]" == done.stdout.splitlines()[-1]


def test_a_shell_sees_the_exit_code(tmp_path: Path) -> None:
    """The process returns 0 for valid files, 1 for invalid ones, and 2 for an unknown command."""
    write(tmp_path, good=GOOD.format(domain="a"))
    assert (0, "ok: 1 rule in 1 domain\n", "") == run("check-config", str(tmp_path), environment={})
    assert 1 == run("check-config", str(tmp_path / "gone"), environment={}).code
    assert 2 == run("check-config", environment={}).code


def test_it_imports_neither_the_service_nor_a_store() -> None:
    """Pipelines and hooks run it for each commit, and wait for its imports."""
    script = (
        "import sys; from pathlib import Path; from ratelimit_service.cli.checking import check_config; "
        "check_config([Path('config/examples')], strict=False, merge_domains=False); "
        "print(*sorted(name for name in sys.modules if name.startswith('ratelimit_service.'))); "
        "print([name for name in ('structlog', 'asyncio', 'ssl') if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=REPOSITORY, capture_output=True, text=True, check=True, timeout=30
    )
    *_, modules, for_services = done.stdout.splitlines()
    rooms = {name.split(".")[1] for name in modules.split()}
    assert {"cli", "core", "loading", "sources"} == rooms
    assert "[]" == for_services


def test_limits_as_data_are_checked_with_the_rules(command: Command, tmp_path: Path) -> None:
    """Valid rows are counted; each mistake has its file and line."""
    directory = write(tmp_path / "config", good=GOOD.format(domain="d"))
    table = directory / "limits.csv"
    table.write_text("domain,descriptor,limit\nd,team=a,5\nd,team=b,6\n")
    said = "ok: 1 rule in 1 domain, and 2 limits as data\n"
    assert (0, said, "") == command("check-config", str(directory))
    table.write_text("domain,descriptor,limit\nd,team=a,5\nd,team=a,many\n")
    said = f"error: {table}:3: limit: must be a whole number from 0 to 9007199254740991, not 'many'\n"
    assert (1, said, "") == command("check-config", str(directory))


RECEIVERS = """\
receivers:
  - {name: finance, url: "https://finance.example.com"}
"""
NOTIFIES = """\
domain: d
notify: [finance]
descriptors:
  - key: team
    notify: [finance, webhook, webhook-2, platform-chat]
    rate_limit: {unit: hour, tokens_per_unit: 10}
  - key: user
    rate_limit: {unit: hour, tokens_per_unit: 10}
"""


def test_a_receiver_that_rules_name_and_no_file_has_is_a_warning(command: Command, tmp_path: Path) -> None:
    """The file is that of EVENTS_WEBHOOKS or --receivers. The names of addresses in EVENTS_WEBHOOK_URL are
    known without it.
    """
    rules = str(write(tmp_path / "rules", notifies=NOTIFIES) / "notifies.yaml")
    file = tmp_path / "receivers.yaml"
    file.write_text(RECEIVERS)
    warning = f"{rules}:4: notify: {file} has no receiver 'platform-chat': it has finance"
    ok = "ok: 2 rules in 1 domain\n"
    assert (0, f"warning: {warning}\n{ok}", "") == command("check-config", "--receivers", str(file), rules)
    assert (1, f"error: {warning}\n", "") == command(
        "check-config", "--strict", "--receivers", str(file), rules
    )
    assert (0, ok, "") == command("check-config", rules)
    file.write_text("receivers: [{name: finance}]")
    code, out, err = command("check-config", "--receivers", str(file), rules)
    assert (1, "", 1) == (code, err, len(out.splitlines()))
    assert f"{file}, receiver 1 needs a text for `url`" in out
