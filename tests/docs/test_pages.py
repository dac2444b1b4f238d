"""What the docs say is so: their YAML loads, their links lead somewhere, what they name exists.

What they say of rules is asked in test_rules.py.
"""

from __future__ import annotations

import re
from inspect import signature
from pathlib import Path
from typing import Any

import pytest
import yaml

from ratelimit_service.core.rules.reader import load
from ratelimit_service.observe.catalogue.all_metrics import CATALOGUE
from ratelimit_service.settings.table import documented
from ratelimit_service.settings.unsupported import UNNEEDED, UNSUPPORTED
from ratelimit_service.sources.yaml_text import read
from ratelimit_service.stores import lanes
from ratelimit_service.stores.layers import settling
from ratelimit_service.stores.layers.group_commit import CoalescingStore
from tools import generate_docs
from tools.generate_docs import pages

from .documents import ROOT, blocks, loaded, tables

RELIABILITY = ROOT / "docs" / "reliability.md"
EXAMPLES_PAGE = ROOT / "config" / "examples" / "README.md"
PAGES = [
    *(ROOT / "README.md", ROOT / "CHANGELOG.md"),
    *sorted((ROOT / "docs").glob("*.md")),
    EXAMPLES_PAGE,
    ROOT / "deploy" / "README.md",
    *sorted((ROOT / "deploy").glob("*/README.md")),
]
EXAMPLES = sorted((ROOT / "config" / "examples").glob("*.yaml"))

NO_SETTINGS = {
    "OVER_LIMIT INVALID_ARGUMENT RESOURCE_EXHAUSTED NOT_SERVING NOT_FOUND DEADLINE_EXCEEDED DYNAMIC_METADATA",
    "GRPC_XDS_SOTW SO_REUSEPORT PERMISSION_DENIED REFUSED_STREAM OVERWRITE_IF_EXISTS_OR_ADD",
    "GRPC_VERBOSITY NGHTTP2_SOURCE RATELIMIT_SERVER RATELIMIT_TOKEN RATELIMIT_TOKEN_FILE",
    "OTEL_EXPORTER_OTLP_COMPRESSION OTEL_EXPORTER_OTLP_ENDPOINT OTEL_EXPORTER_OTLP_HEADERS "
    "OTEL_EXPORTER_OTLP_TIMEOUT",
    "OTEL_RESOURCE_ATTRIBUTES OTEL_SERVICE_NAME OTEL_TRACES_SAMPLER",
    "VIRTUAL_HOST HTTP_ROUTE GRPC_SERVER_TLS_CA_CERT",
    "SYNTHESIZE_TRAILERS OPENAI_CHAT_COMPLETIONS OPENAI_RESPONSES ANTHROPIC_MESSAGES GEMINI_GENERATE_CONTENT",
    "RESPONSE_CODE RESPONSE_CODE_DETAILS TYPED_CEL OPENAI_API_KEY QUOTA_EXHAUSTED RATE_LIMIT_EXCEEDED",
}
"""What is written as settings are, but is none: names of the protocol and of the code, a variable of gRPC's
own, one of make, those of the command line, and those that OpenTelemetry's packages read."""

each_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))


# Examples


@pytest.mark.parametrize("file", EXAMPLES, ids=lambda file: file.name)
def test_an_example_is_loaded_without_a_warning(file: Path) -> None:
    """Whoever starts from it starts from something right."""
    assert () == load([read(file.name, file.read_bytes())]).warnings


def test_the_examples_can_be_served_together() -> None:
    """Each has a domain of its own."""
    domains = load([read(file.name, file.read_bytes()) for file in EXAMPLES]).domains
    assert len(EXAMPLES) == len(domains)


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
        if block.is_rules and re.search(r"^domain:", block.text, re.MULTILINE)
    ]
    assert [] == [f"{name}:{block.line}" for name, block in rules if loaded(block).warnings]


@each_page
def test_every_link_has_a_target(page: Path) -> None:
    """Every relative link names a file that there is, and every anchor a heading of it."""
    lost = []
    for target in re.findall(r"""(?:\]\(| (?:src|srcset)=")([^)"\s]+)[)"]""", page.read_text("utf-8")):
        if "://" in target:
            continue
        name, _, anchor = target.partition("#")
        file = page.parent / name if name else page
        if not file.exists() or (anchor and anchor not in _anchors(file)):
            lost.append(target)
    assert [] == lost


@each_page
def test_objects_are_applied_by_the_server(page: Path) -> None:
    """`kubectl apply` alone warns of objects that were applied with --server-side, and leaves the keys of a
    ConfigMap that another file replaces, so that the rules of both are loaded.
    """
    lines = re.findall(r"^(?:\$ )?kubectl .*\bapply\b.*$", page.read_text("utf-8"), re.MULTILINE)
    assert [] == [line for line in lines if "--server-side" not in line]


def _anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_index_lists_every_page() -> None:
    """docs/README.md is how a page is found."""
    index = ROOT / "docs" / "README.md"
    listed = set(re.findall(r"\]\(([\w-]+\.md)\)", index.read_text("utf-8")))
    assert {page.name for page in index.parent.glob("*.md")} - {"README.md"} == listed


@each_page
def test_mentioned_settings_and_metrics_exist(page: Path) -> None:
    """A variable that is misspelt here would be misspelt in somebody's deployment."""
    text = page.read_text("utf-8")
    known = {setting.name for setting in documented()}
    known |= {name for variables in UNSUPPORTED for name in variables.names}
    known |= {name for variables in UNNEEDED for name in variables.names}
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
    from testing.envoy import validated

    (snippet,) = [block.text for block in blocks(ROOT / "README.md") if "http_filters:" in block.text]
    filters = yaml.safe_load(snippet)["http_filters"]
    file = tmp_path / "envoy.yaml"
    file.write_text(yaml.safe_dump(_envoy_with(filters)), "utf-8")
    validated(tmp_path, "-c", str(file))


def test_the_policy_of_the_readme_is_the_one_for_namespaces() -> None:
    """No caller goes uncounted who starts from the shorter of the two: it has the same descriptors, and the
    same domain.
    """
    (short,) = [block.text for block in blocks(ROOT / "README.md") if "AgentgatewayPolicy" in block.text]
    whole = ROOT / "deploy" / "agentgateway" / "namespaces" / "policy.yaml"
    limits = [
        yaml.safe_load(text)["spec"]["traffic"]["rateLimit"]["global"]
        for text in (short, whole.read_text("utf-8"))
    ]
    assert limits[0].items() <= limits[1].items()
    assert {"backendRef", "domain", "descriptors"} == limits[0].keys()


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


def test_the_documented_layout_is_the_real_one() -> None:
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
        if path.suffix == ".py" or any(path.glob("*.py"))
    }
    assert set() == rooms - shown


# docs/reliability.md


def test_the_bounds_are_those_of_the_code() -> None:
    """A number on the page is one that holds."""
    (table,) = tables(RELIABILITY, "bound", "value")
    defaults = {setting.name: setting.default for setting in documented()}
    grouped = signature(CoalescingStore).parameters
    bounds = {
        "STORE_ANSWER_DEADLINE": defaults["STORE_ANSWER_DEADLINE"],
        "STORE_ANSWER_MARGIN": defaults["STORE_ANSWER_MARGIN"],
        "REDIS_TIMEOUT": defaults["REDIS_TIMEOUT"],
        "STORE_JOURNAL_SIZE": f"{defaults['STORE_JOURNAL_SIZE']} hits",
        "failures in a row": f"{settling._OPENS_AFTER}",
        "calls to Redis at a time": f"{settling._MOST_IN_FLIGHT}",
        "hits in a batch": f"{grouped['most_in_batch'].default}",
        "hits that wait for a batch": f"{grouped['most_waiting'].default}",
        "lifetime of a register after its last call": f"{lanes.REGISTER_TTL} s",
        "age at which a batch of unknown outcome may still be settled": f"{lanes.REGISTER_TTL // 2} s",
        "MEMORY_STORE_SIZE_IN_BYTES": defaults["MEMORY_STORE_SIZE_IN_BYTES"],
    }
    assert bounds == {row[0]: row[1] for row in table.rows}


def test_the_tests_that_are_named_exist() -> None:
    """What is said to be shown is shown somewhere under tests/."""
    named = set(re.findall(r"`(test_\w+)`", RELIABILITY.read_text("utf-8")))
    written = {
        name
        for file in (ROOT / "tests").rglob("test_*.py")
        for name in re.findall(r"^(?:async )?def (test_\w+)", file.read_text("utf-8"), re.MULTILINE)
    }
    assert set() == named - written
    assert named


# Generated pages


@pytest.mark.parametrize(("page", "text"), pages().items(), ids=lambda value: getattr(value, "name", ""))
def test_a_generated_page_is_current(page: Path, text: str) -> None:
    """`make docs` would change nothing."""
    assert text == page.read_text("utf-8"), f"{page.name}: run `make docs`"


def test_a_page_that_is_not_current_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`--check` fails on it and changes nothing; without it the page is written, and then the check
    passes.
    """
    page = tmp_path / "settings.md"
    page.write_text("old", "utf-8")
    monkeypatch.setattr(generate_docs, "ROOT", tmp_path)
    monkeypatch.setattr(generate_docs, "pages", lambda: {page: "new"})

    def run(*options: str) -> tuple[int, str, str]:
        monkeypatch.setattr("sys.argv", ["generate_docs.py", *options])
        code = generate_docs.main()
        return code, capsys.readouterr().out, page.read_text("utf-8")

    assert (1, "settings.md is not current: run `make docs`\n", "old") == run("--check")
    assert (0, "wrote settings.md\n", "new") == run()
    assert (0, "", "new") == run("--check")
