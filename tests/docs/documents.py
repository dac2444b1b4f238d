"""The documentation as the tests read it: its fenced blocks, its tables, and a service that is as they
say.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

from ratelimit_service.assembly.policy import policy_of
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import Entry
from ratelimit_service.core.rules.loaded import Loaded
from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.ports import Observer
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings.table import load_settings
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore

ROOT = Path(__file__).resolve().parents[2]
DOCS = ROOT / "docs"
CONFIGURATION = DOCS / "configuration.md"
BUDGETS = DOCS / "budgets.md"
REFUSALS = DOCS / "refusals.md"

NOW = 1_795_256_400.0
"""2026-11-21T10:20:00Z, the moment at which the pages play."""


class Block(NamedTuple):
    """A fenced block: what stands behind the opening fence, the text, and the line where that begins.

    Behind `yaml` there may be a setting with which the rules are loaded: `yaml BUDGET_DOMAINS=llm`.
    """

    info: str
    text: str
    line: int

    @property
    def is_rules(self) -> bool:
        """Whether these are rules that load."""
        return self.info == "yaml" or self.info.startswith("yaml BUDGET_DOMAINS=")

    @property
    def budget_domains(self) -> frozenset[str]:
        """What BUDGET_DOMAINS is while they are loaded."""
        return frozenset(filter(None, self.info.partition("=")[2].split(",")))


class Table(NamedTuple):
    """A table: its head, its rows, and the rules that stand last before it."""

    head: list[str]
    rows: list[list[str]]
    line: int
    rules: Block

    def columns(self) -> Iterator[dict[str, str]]:
        """Each row, by the names in the head."""
        return (dict(zip(self.head, row, strict=True)) for row in self.rows)


_NO_RULES = Block("yaml", "", 0)


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text("utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in re.finditer(r"^```(.*)\n((?:(?!```).*\n)*)```$", text, re.MULTILINE)
    ]


def section(page: Path, heading: str) -> list[Block]:
    """The blocks from a heading (`## Every key`) to the next one that stands no deeper."""
    lines = page.read_text("utf-8").splitlines()
    begin = lines.index(heading) + 1
    upto = re.compile(rf"#{{1,{len(heading.split()[0])}}} ")
    found = []
    last = begin
    for block in blocks(page):
        if block.line > begin:
            if any(upto.match(line) for line in lines[last : block.line - 1]):
                break
            found.append(block)
            last = block.line + block.text.count("\n")
    return found


def tables(page: Path, *head: str) -> list[Table]:
    """The tables of a page whose head begins with these cells."""
    text = page.read_text("utf-8")
    rules = [block for block in blocks(page) if block.is_rules]
    wanted = []
    for found in re.finditer(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [_cells(line) for line in found[0].splitlines()]
        if rows[0][: len(head)] == list(head):
            line = text.count("\n", 0, found.start()) + 1
            before = [block for block in rules if block.line < line]
            wanted.append(Table(rows[0], rows[2:], line, before[-1] if before else _NO_RULES))
    return wanted


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [cell.strip().replace(r"\|", "|").replace("`", "") for cell in cells]


def load_text(text: str, budget_domains: frozenset[str] = frozenset()) -> Loaded:
    """The rules in `text`."""
    return load([read("example.yaml", text)], budget_domains=budget_domains)


def loaded(block: Block) -> Loaded:
    """The rules in a block, loaded as it says."""
    return load_text(block.text, block.budget_domains)


def entries_of(text: str) -> tuple[Entry, ...]:
    """`team=dba, model=gpt-x` as entries."""
    pairs = [pair.partition("=") for pair in text.split(", ")]
    return tuple(Entry(key.encode(), value.encode()) for key, _, value in pairs)


class Served:
    """The service with the rules of a block, counting from nothing; `now` is its clock, and begins at NOW."""

    def __init__(self, rules: Block, observer: Observer | None = None, **settings: str) -> None:
        self.now = NOW
        self.store = MemoryStore(lambda: self.now)
        policy = policy_of(load_settings(settings))
        self.service = RateLimitService(self.store, observer or Metrics(), lambda: self.now, policy)
        domains = loaded(rules).domains
        self.domain = domains[0]
        self.service.use(RuleTree(domains))
