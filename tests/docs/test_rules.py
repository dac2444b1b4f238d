"""What docs/configuration.md, docs/budgets.md and docs/refusals.md say is so: their YAML loads, their tables
are asked, their requests answered.
"""

from __future__ import annotations

import io
import json
import logging
import re
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest
import structlog
from google.protobuf import json_format

from ratelimit_service.core.answers.dialects import DIALECTS
from ratelimit_service.core.answers.wording import PLACEHOLDERS
from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.model import (
    UNLIMITED_STATUS,
    Code,
    Decision,
    Descriptor,
    Override,
    Request,
    Status,
    Unit,
)
from ratelimit_service.core.rules.vocabulary import KEYS
from ratelimit_service.core.windows import blocks as windows
from ratelimit_service.http.json import parse
from ratelimit_service.observe import logs
from ratelimit_service.observe.decision_log import DecisionLog
from ratelimit_service.observe.line_writer import LineWriter
from ratelimit_service.observe.metrics import Metrics
from ratelimit_service.observe.observers import Observers
from ratelimit_service.observe.thresholds import Thresholds
from ratelimit_service.observe.tracking import Tracker
from ratelimit_service.stores.memory import MemoryStore
from ratelimit_service.transports import codec

from ..cli.command_runner import run
from ..observe.replica import text_of
from .documents import (
    BUDGETS,
    CONFIGURATION,
    NOW,
    REFUSALS,
    Block,
    Served,
    Table,
    blocks,
    entries_of,
    load_text,
    loaded,
    section,
    tables,
)

PAGES = (CONFIGURATION, BUDGETS, REFUSALS)


def tables_of_pages(*head: str) -> pytest.MarkDecorator:
    """For every table on these pages whose head begins so."""
    found = [
        pytest.param(table, id=f"{page.stem}:{table.line}") for page in PAGES for table in tables(page, *head)
    ]
    return pytest.mark.parametrize("table", found)


# Tables


@tables_of_pages("descriptor")
def test_descriptors_meet_the_rules_of_the_table(table: Table) -> None:
    """Rule, bucket, counter and path of the statistics, as far as the table has them."""
    (domain,) = loaded(table.rules).domains
    tree = RuleTree([domain])

    def found_by(descriptor: str) -> dict[str, str]:
        match = tree.match(domain.name, entries_of(descriptor))
        if match is None:
            return {"rule": "none"}
        bucket = f"{{{domain.name}|{'|'.join(match.bucket_entries)}}}"
        (limit,) = match.rule.limits
        return {
            "rule": str(match.rule.path),
            "bucket": bucket,
            "counter at 2026-11-21T10:20:00Z": f"{bucket}:{windows.span_at(limit.window, int(NOW)).label}",
            "statistics": str(match.stat),
        }

    expected = list(table.columns())
    actual = [
        {name: found_by(row["descriptor"]).get(name, text) for name, text in row.items()} for row in expected
    ]
    assert expected == actual


ASKED = "requests, in order"


@tables_of_pages(ASKED)
async def test_requests_are_answered_as_the_table_says(table: Table) -> None:
    """One after another, from empty counters; at the moment of the page, or at that of the row."""
    served = Served(table.rules)
    expected = list(table.columns())
    actual = []
    for row in expected:
        if "at" in row:
            served.now = datetime.fromisoformat(f"2026-11-21T{row['at']}Z").timestamp()
        hits = None if row["hits"] == "none" else int(row["hits"])
        descriptors = tuple([descriptor_of(text, hits) for text in row[ASKED].split(" + ")])
        decision = await served.service.should_rate_limit(Request(served.domain.name, descriptors))
        found_by = {
            "answer": in_words(decision),
            "used": used_in_words(decision),
            "status shows": shown_in_words(decision.statuses[0]),
            "body": decision.body.decode(),
        }
        if "message" in row:
            found_by["message"] = json.loads(decision.body)["error"]["message"] if decision.body else ""
        actual.append({name: found_by.get(name, text) for name, text in row.items()})
    assert expected == actual


def descriptor_of(text: str, hits: int | None) -> Descriptor:
    """`team=dba`, or `team=dba with 200 an hour`; hits below 0 are given back."""
    entries, _, override = text.partition(" with ")
    limit = None
    if override:
        amount, _, unit = override.split()
        limit = Override(int(amount), Unit[unit.upper()])
    amount_of_hits = None if hits is None else abs(hits)
    return Descriptor(entries_of(entries), amount_of_hits, limit, negative=hits is not None and hits < 0)


def in_words(decision: Decision) -> str:
    """A decision as the tables write it: `OVER_LIMIT: 8 of 10 left, over 0 of 0 left`; "over" where it is not
    plain.
    """
    alone = len(decision.statuses) == 1
    statuses = [_status_in_words(status, alone) for status in decision.statuses]
    return f"{decision.code.name}: {', '.join(statuses)}"


def _status_in_words(status: Status, alone: bool) -> str:
    if status.limit is None:
        free = "unlimited" if status == UNLIMITED_STATUS else "not limited"
        if status.reset:
            return f"{status.remaining} left"
        return "refused" if status.code is Code.OVER_LIMIT else free
    over = "over " if status.code is Code.OVER_LIMIT and not alone else ""
    return f"{over}{status.remaining} of {status.limit.amount} left"


def used_in_words(decision: Decision) -> str:
    """What the counters hold now: `1 + 2`, and for a descriptor with several windows `40 / 90`."""
    return " + ".join(
        [" / ".join([str(use.after) for use in tally.uses]) if tally else "" for tally in decision.tallies]
    )


def shown_in_words(status: Status) -> str:
    """The limit that a status tells of: `dba-hourly, 2400 s`."""
    return f"{status.limit.name}, {status.reset} s" if status.limit else "no limit" if status.reset else ""


def test_windows_begin_and_end_as_the_table_says() -> None:
    """For each limit at its moment, in its time zone."""
    (table,) = tables(BUDGETS, "limit", "moment")
    expected = list(table.columns())
    actual = []
    for row in expected:
        amount = "" if "requests_per_unit" in row["limit"] else "tokens_per_unit: 1, "
        rules = f"domain: d\ndescriptors: [{{key: k, rate_limit: {{{amount}{row['limit']}}}}}]\n"
        ((_, (descriptor,), *_),) = [(d.name, d.descriptors) for d in load_text(rules).domains]
        assert descriptor.rule is not None
        (limit,) = descriptor.rule.limits
        zone = ZoneInfo(limit.window.calendar.zone if limit.window.calendar else "UTC")
        moment = datetime.fromisoformat(row["moment"])
        span = windows.span_at(limit.window, int(moment.timestamp()))
        begins, ends = (
            datetime.fromtimestamp(at, zone).isoformat(timespec="minutes") for at in (span.start, span.end)
        )
        actual.append({**row, "begins": begins, "ends": ends})
    assert expected == actual


@tables_of_pages("limits", "default of count_refused")
def test_refused_requests_are_counted_as_the_table_shows(table: Table) -> None:
    """The default of count_refused, by the kind of the limits."""
    rules = [
        "rate_limit: {unit: hour, tokens_per_unit: 1}",
        "rate_limit: {unit: hour, requests_per_unit: 1}",
        "rate_limits: [{unit: hour, requests_per_unit: 1}]",
    ]
    expected = [row[1].partition(":")[0].partition(",")[0] for row in table.rows]
    actual = []
    for rule in rules:
        (domain,) = load_text(f"domain: d\ndescriptors: [{{key: k, {rule}}}]\n").domains
        assert domain.descriptors[0].rule is not None
        actual.append(str(domain.descriptors[0].rule.count_refused).lower())
    assert expected == actual


def test_the_page_has_every_key_and_every_unit() -> None:
    """A key of the language that the table does not explain is a secret; one that is not in the language, a
    lie.
    """
    (table,) = tables(CONFIGURATION, "key", "where")
    spoken = {key for keys in KEYS.values() for key in keys}
    assert spoken == {row[0] for row in table.rows}
    units = {unit.name.lower() for unit in Unit} - {"unknown"}
    said = {row[0]: row[2] for row in table.rows}["unit"]
    assert units == set(re.findall(r"[a-z]+", said)) & units


def test_the_page_has_every_placeholder() -> None:
    """Those of a denial_message, in the order of the code."""
    (table,) = tables(REFUSALS, "placeholder")
    assert [f"{{{name}}}" for name in PLACEHOLDERS] == [row[0] for row in table.rows]


# Blocks


@pytest.mark.parametrize(
    "block",
    [
        pytest.param(block, id=f"{page.stem}:{block.line}")
        for page in PAGES
        for block in blocks(page)
        if block.is_rules
    ],
)
def test_rules_that_are_shown_are_loaded_without_a_warning(block: Block) -> None:
    """What is shown as right is right."""
    assert () == loaded(block).warnings


@pytest.mark.parametrize("kind, many", [("broken", 1), ("warned", 2)])
def test_mistakes_on_the_page_are_reported_in_its_terms(kind: str, many: int) -> None:
    """The messages below the YAML are all that is said about it."""
    shown = blocks(CONFIGURATION)
    places = [place for place, block in enumerate(shown) if block.info == f"yaml {kind}"]
    assert many == len(places)
    for place in places:
        try:
            problems: Sequence[object] = load_text(shown[place].text).warnings
        except InvalidRules as error:
            problems = error.problems
        assert shown[place + 1].text.splitlines() == list(map(str, problems))


async def test_the_worked_request_is_answered_as_the_page_says() -> None:
    """Its YAML, its requests one after another, its answers, and what the store holds in the end."""
    shown = section(CONFIGURATION, "## From a descriptor to a verdict")
    rules, held = shown[0], shown[-1].text
    steps = [json.loads(block.text) for block in shown[1:-1]]
    served = Served(rules, REFUSAL_HEADERS="", REFUSAL_BODY="none")
    answers = []
    for asked in steps[::2]:
        request = codec.request_of(parse(json.dumps(asked).encode()))
        decision = await served.service.should_rate_limit(request)
        answers.append(json_format.MessageToDict(codec.response_of(decision)))

    assert ["yaml", *["json"] * 6, "text"] == [block.info for block in shown]
    assert steps[1::2] == answers
    key, count = held.split()
    assert {key: int(count)} == await served.store.read_bucket("{token-budgets|team=dba}")


def test_the_page_has_every_dialect() -> None:
    """In the order of the code."""
    (table,) = tables(REFUSALS, "error_format")
    assert list(DIALECTS) == [row[0] for row in table.rows]


def headers_of(decision: Decision) -> list[str]:
    return [f"{header.name}: {header.value}" for header in decision.headers]


async def test_a_refused_caller_gets_the_documented_answer() -> None:
    """Headers and body of the default settings, soon before the hour ends and long before, and all headers
    that there are.
    """
    rules, asked, *shown = section(REFUSALS, "## Headers and body")
    blocks_of = {block.info: block.text for block in shown}
    (ietf,) = section(REFUSALS, "## RateLimit fields of the IETF")
    (all_names,) = set(re.findall(r"`REFUSAL_HEADERS=(.*)`", REFUSALS.read_text("utf-8")))
    request = codec.request_of(parse(asked.text.encode()))

    async def refused(minute: int, **settings: str) -> Decision:
        served = Served(rules, None, **settings)
        served.now = datetime(2026, 11, 21, 10, minute, 32, tzinfo=UTC).timestamp()
        charge = Descriptor(request.descriptors[0].entries, 5_200)
        await served.service.should_rate_limit(Request("token-budgets", (charge,)))
        return await served.service.should_rate_limit(request)

    for kind, minute in (("soon", 59), ("later", 29)):
        decision = await refused(minute)
        assert blocks_of[f"http {kind}"].splitlines() == headers_of(decision)
        assert json.loads(blocks_of[f"json {kind}"]) == json.loads(decision.body)
    assert blocks_of["http all"].splitlines() == headers_of(await refused(59, REFUSAL_HEADERS=all_names))
    fields = await refused(59, REFUSAL_HEADERS="", IETF_RATELIMIT_FIELDS="draft-11")
    assert ietf.text.splitlines() == headers_of(fields)


@pytest.fixture
def log() -> Iterator[io.StringIO]:
    """What is logged as JSON; logging is left as it was found."""
    root, own = logging.getLogger(), logging.getLogger(logs.OWN)
    handlers, levels = root.handlers[:], (root.level, own.level)
    stream = io.StringIO()
    logs.configure("info", "json", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(levels[0])
    own.setLevel(levels[1])
    structlog.reset_defaults()


async def test_log_lines_and_metrics_are_those_on_the_page(log: io.StringIO) -> None:
    """The lines of the log, the metrics and the decision log after the charge that is shown."""
    rules, asked, logged, shown, decided = section(BUDGETS, "## Warnings, gauges and the decision log")
    written: list[bytes] = []
    writer = LineWriter(written.append)
    metrics = Metrics()
    observers = Observers(
        metrics,
        Thresholds(MemoryStore(lambda: NOW), metrics.crossed),
        Tracker(lambda: NOW),
        DecisionLog(writer, refused_only=False, sample=1.0, random=lambda: 0.0),
    )
    served = Served(rules, observers)
    await served.service.should_rate_limit(codec.request_of(parse(asked.text.encode())))
    writer.start()
    writer.close(10)

    assert untimed(logged.text) == untimed(log.getvalue())
    assert shown.text.splitlines() == [
        line
        for line in text_of(metrics).splitlines()
        if line.startswith("ratelimit_service_budget_") and "{" in line
    ]
    assert decided.text == b"".join(written).decode()


def untimed(lines: str) -> list[dict[str, object]]:
    """Lines of a log as JSON, without the moment at which they were written."""
    events = [json.loads(line) for line in lines.splitlines()]
    for event in events:
        del event["@timestamp"]
    return events


# Manifests


def test_commands_on_manifests_print_the_documented_output(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each `yaml file=…` is that file, and each console block is run where it is."""
    monkeypatch.chdir(tmp_path)
    for name in ("MANIFEST_DOMAIN", "MERGE_DOMAIN_CONFIG"):
        monkeypatch.delenv(name, raising=False)
    ran = []
    for block in section(CONFIGURATION, "## Manifests"):
        if block.info.startswith("yaml file="):
            (tmp_path / block.info.partition("=")[2]).write_text(block.text, "utf-8")
        elif block.info == "console":
            first, _, printed = block.text.partition("\n")
            _, program, *arguments = first.split()
            assert "ratelimit-service" == program
            ended = run(arguments)
            assert printed == ended.err + ended.out
            ran.append(arguments[0])
    assert {"check-config", "convert"} <= set(ran)
