"""CHANGELOG.md has an upgrade note for each setting, metric and log line that the previous version had and
that is different now.
"""

from __future__ import annotations

import ast
import re
import tarfile
from collections.abc import Iterable, Iterator
from io import BytesIO
from typing import NamedTuple

from testing.previous import PREVIOUS, of_previous

from .documents import ROOT


class Row(NamedTuple):
    """A row of a generated table without its description: the default of a setting, or the kind, labels and
    bounds of a metric; "" for an unsupported setting.
    """

    fact: str
    supported: bool


def table(text: str) -> dict[str, Row]:
    """Return the rows of the tables in docs/settings.md or docs/metrics.md, by the names in the first
    column.
    """
    found = {}
    for line in text.splitlines():
        first, *rest = re.split(r" \| ", line.strip().removeprefix("| ").removesuffix(" |"))
        if re.fullmatch(r"(`\w+`(, )?)+", first) and rest:
            supported = len(rest) > 1
            for name in re.findall(r"\w+", first):
                found[name] = Row(" | ".join(rest[:-1]), supported)
    return found


def both(page: str) -> tuple[dict[str, Row], dict[str, Row]]:
    """Return the rows of the previous version and of this one."""
    previous = of_previous("show", f"{PREVIOUS}:docs/{page}").decode()
    return table(previous), table((ROOT / "docs" / page).read_text())


def notes() -> str:
    """Return all upgrade notes."""
    return "".join(
        re.findall(r"### Upgrade notes\n(.*?)\n### ", (ROOT / "CHANGELOG.md").read_text(), re.DOTALL)
    )


def noted(name: str) -> bool:
    """Whether a note has the name, or a beginning of it as in `TRACING_*`."""
    return f"`{name}`" in notes() or any(name.startswith(each) for each in re.findall(r"`(\w+_)\*`", notes()))


def test_every_changed_setting_has_an_upgrade_note() -> None:
    """Another default, one that is gone, and one that the previous version ignored with a warning."""
    before, now = both("settings.md")
    different = {name for name in before if before[name] != now.get(name)}
    assert {"GRPC_MAX_BYTES", "TRACING_ENABLED"} <= different
    assert [] == sorted(name for name in different if not noted(name))


def test_every_metric_that_is_different_has_a_note() -> None:
    """Other labels break the queries of an operator, and so does a metric that is gone."""
    before, now = both("metrics.md")
    assert len(before) > 60
    assert [] == sorted(name for name in before if before[name] != now.get(name) and not noted(name))


LEVELS = {"debug", "info", "warning", "error", "critical", "exception"}


def log_lines(source: str) -> Iterator[str]:
    """Yield the texts that a module passes to a log, up to the first value in them."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and node.func.attr in LEVELS:
            yield from texts(node.args[:1])


def texts(nodes: Iterable[ast.AST]) -> Iterator[str]:
    """Yield the texts in expressions, up to the first value in each."""
    for root in nodes:
        for node in ast.walk(root):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                yield node.value.partition("{")[0].rstrip(": ")


def test_every_log_line_that_is_different_has_a_note() -> None:
    """Filters of an operator match the text."""
    with tarfile.open(fileobj=BytesIO(of_previous("archive", PREVIOUS, "ratelimit_service"))) as archive:
        modules = [member for member in archive.getmembers() if member.name.endswith(".py")]
        sources = [archive.extractfile(member) for member in modules]
        before = {line for source in sources if source for line in log_lines(source.read().decode())}
    here = (path.read_text() for path in (ROOT / "ratelimit_service").rglob("*.py"))
    now = set(texts(map(ast.parse, here)))
    gone = {line for line in before - now if " " in line}
    assert len(before) > 50
    assert [] == sorted(line for line in gone if f"`{line}`" not in notes())


def test_a_table_is_read_by_its_names() -> None:
    """A row of several unsupported settings has no default."""
    text = (
        "| setting | default | |\n|---|---|---|\n| `A_B` | `1` | what |\n| `C`, `D_E` | there is none |\n"
        "| x | y | z |\n| `m` | counter | `k` | 5 | what |\n"
    )
    assert {
        "A_B": Row("`1`", True),
        "C": Row("", False),
        "D_E": Row("", False),
        "m": Row("counter | `k` | 5", True),
    } == table(text)
