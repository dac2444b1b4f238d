"""Limits as data: the meaning of a table, and every mistake in one."""

from __future__ import annotations

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.matching.tree import RuleTree
from ratelimit_service.core.rules.loaded import Loaded
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources import csv_text
from ratelimit_service.sources.yaml_text import read
from tests.limiter import MIDNIGHT, Limiter, decision_text, descriptor

RULES = """
domain: d
descriptors:
  - key: user
    rate_limits: [{unit: hour, tokens_per_unit: 100}, {unit: day, tokens_per_unit: 1000}]
  - key: team
    descriptors:
      - {key: model, rate_limit: {unit: hour, requests_per_unit: 10}}
"""

TABLE = """\
domain,group,descriptor,window,limit
# what everybody has
d,,user=*,hour,200
d,,user=premium_*,,3000
d,gold,,hour,500
d,gold,,day,5000
d,gold,user=alice,,
d,gold,user=bob,hour,900

d,,user=carol,,7
d,,user=eve,,0
d,,"team=dba,model=*",,20
d,,"team=dba,model=a\\,b",,30
"""


def loaded(table: str, rules: str = RULES) -> Loaded:
    return load(
        [read("d.yaml", rules), csv_text.read("limits.csv", table.encode("utf-8", "surrogateescape"))]
    )


def limiter(table: str) -> Limiter:
    found = Limiter(RULES)
    found.service.use(RuleTree(loaded(table).domains))
    return found


LIMITS = [
    # The default has no day of its own, so the rule's holds there.
    ("user=eliza", "OK: OK 200 3600"),
    ("user=premium_x", "OK: OK 3000 3600"),
    ("user=alice", "OK: OK 500 3600"),
    ("user=bob", "OK: OK 900 3600"),
    ("user=carol", "OK: OK 7 3600"),
    ("user=eve", "OVER_LIMIT: OVER_LIMIT 0 86400"),
    ("team=dba model=x", "OK: OK 20 3600"),
    ("team=dba model=a,b", "OK: OK 30 3600"),
    ("team=ops model=x", "OK: OK 10 3600"),
]


@pytest.mark.parametrize("text, expected", LIMITS)
def test_default_group_and_user(text: str, expected: str) -> None:
    """The most specific row limits each descriptor, without a rule of its own."""
    assert expected == decision_text(limiter(TABLE).ask(descriptor(text, 0)))


def test_an_own_limit_leaves_the_other_windows_to_the_group() -> None:
    """Bob has his own hourly limit, and the daily limit of gold."""
    asked = limiter(TABLE)
    for _ in range(6):
        asked.ask(descriptor("user=bob", 900))
        asked.now += 3_600
    assert f"OVER_LIMIT: OVER_LIMIT 0 {86_400 - 6 * 3_600}" == decision_text(
        asked.ask(descriptor("user=bob", 0))
    )
    assert MIDNIGHT + 6 * 3_600 == asked.now


def test_every_limit_has_its_file_and_line() -> None:
    """Its place is a file and a line."""
    (domain,) = loaded(TABLE).domains
    assert {"limits.csv:3", "limits.csv:4", "limits.csv:7", "limits.csv:8", "limits.csv:10"} <= {
        limit.id for limit in domain.limits
    }
    assert 10 == len(domain.limits)


def test_columns_come_in_any_order_and_those_that_are_not_needed_may_be_missing() -> None:
    """A byte order mark, the line ends of Windows and spaces around fields are accepted."""
    table = "\ufefflimit , descriptor,domain\r\n5,user=a , d\r\n"
    (domain,) = loaded(table).domains
    assert [("user=a", 5, "", "limits.csv:2")] == [
        (limit.target.text, limit.amount, limit.window, limit.id) for limit in domain.limits
    ]


def test_any_bytes_can_be_named() -> None:
    """They are written as they are, or escaped."""
    (domain,) = loaded("domain,descriptor,limit\nd,user=\udcff,1\nd,user=\\xFE,2\n").domains
    assert [b"\xff", b"\xfe"] == [limit.target.entries[0].pieces[0] for limit in domain.limits]


HEAD = "domain,group,descriptor,window,limit\n"
MISTAKES = [
    ("",
        "1: the file is empty: its first line must name the columns, such as domain,descriptor,window,limit"),
    ("domain,limit\n", "1: the first line has no column 'descriptor': it names the columns"),
    ("domain,descriptor,limit,user\n", "1: the first line has an unknown or repeated column 'user'"),
    ("domain,descriptor,limit,limit\n", "1: the first line has an unknown or repeated column"),
    (HEAD + "d,user=a,hour,5\n", "2: has 4 fields, and there are 5 columns"),
    (HEAD + ",,user=a,,5\n", "2: domain: is missing"),
    (HEAD + "d,,,,5\n",
        "2: descriptor: is missing: such as user=alice, user=premium_*, or * for the whole domain"),
    (HEAD + "d,,user=a,,\n", "2: limit: is missing: it must be a whole number; 0 blocks"),
    (HEAD + "d,gold,,hour,\n", "2: limit: is missing"),
    (HEAD + "d,gold,,,5\nd,gold,user=a,hour,\n", "3: window: has no effect without a limit"),
    (HEAD + "d,,user,,5\n", "2: descriptor: a descriptor is key=value,key=value"),
    (HEAD + "d,,us*r=a,,5\n", "2: descriptor: a key is not a pattern"),
    (HEAD + "d,,user=a,hours,5\n", "2: window: no window is called 'hours': give it as in a counter's key"),
    (HEAD + "d,,user=a,,-1\n", "2: limit: must be a whole number from 0 to 9007199254740991, not '-1'"),
    (HEAD + "d,,user=a,,9007199254740992\n", "2: limit: must be a whole number"),
    (HEAD + "d,,user=a,,5k\n",
        "2: limit: must be a whole number from 0 to 9007199254740991, not '5k': write 5000"),
    (HEAD + "d,,user=a,,\"1,000\"\n",
        "2: limit: must be a whole number from 0 to 9007199254740991, not '1,000': write 1000"),
    (HEAD + "d,,user=a,,1.5\n", "2: limit: must be a whole number"),
    (HEAD + "d,,user=a,,٣\n", "2: limit: must be a whole number"),
    (HEAD + "d,,user=a,hour,5\nd,,user=a,hour,6\n",
        "3: descriptor: this window has a limit at limits.csv:2 already"),
    (HEAD + "d,gold,,hour,5\nd,gold,,hour,6\n", "3: group: this window has a limit at limits.csv:2 already"),
    (HEAD + "d,gold,user=a,,\n",
        "2: group: the group 'gold' has no limits: give it some in a row without a descriptor"),
    (HEAD + "d,a,,,5\nd,b,,,6\nd,a,user=x,,\nd,b,user=x,,\n",
        "5: group: is in the group 'a' as well, at limits.csv:4"),
]  # fmt: skip


@pytest.mark.parametrize("table, message", MISTAKES, ids=range(len(MISTAKES)))
def test_a_mistake_is_one_message_with_its_line(table: str, message: str) -> None:
    """The message says what would be right."""
    with pytest.raises(InvalidRules) as raised:
        loaded(table)
    assert [True] == [
        str(problem).startswith(f"limits.csv:{message}") for problem in raised.value.problems
    ], [str(problem) for problem in raised.value.problems]


def test_all_mistakes_of_all_files_are_reported_together() -> None:
    """They are in the order of their lines, with the mistakes of the rules."""
    with pytest.raises(InvalidRules) as raised:
        loaded(HEAD + "d,,user=a,,x\nd,,user=b,,y\n", "domain: d\ndescriptors:\n  - {kee: user}\n")
    assert ["d.yaml:3", "limits.csv:2", "limits.csv:3"] == [
        str(problem).partition(": ")[0] for problem in raised.value.problems
    ]


WARNINGS = [
    (HEAD + "e,,user=a,,5\n", "2: domain: no file has the domain 'e', so its limits have no effect"),
    (HEAD + "d,,user=a,week,5\n", "2: window: no rule of the domain counts by 'week': they have day, hour"),
    (HEAD + "d,gold,,hour,5\n", "2: group: nothing is in the group 'gold'"),
]


@pytest.mark.parametrize("table, message", WARNINGS, ids=range(len(WARNINGS)))
def test_a_row_without_effect_is_a_warning(table: str, message: str) -> None:
    """The rules are loaded."""
    assert [f"limits.csv:{message}"] == [str(warning) for warning in loaded(table).warnings]


@pytest.mark.parametrize(
    "text", [b'domain,descriptor,limit\nd,"user=a,5\n', b'domain,descriptor,limit\nd,us"er=a,"x"y,5\n']
)
def test_invalid_csv_is_reported_with_its_line(text: bytes) -> None:
    """The message says how to write a quote."""
    with pytest.raises(InvalidRules) as raised:
        csv_text.read("limits.csv", text)
    (problem,) = raised.value.problems
    assert (2, "is not CSV: ") == (problem.line, problem.message[:12])


def test_a_line_break_within_quotes_keeps_later_line_numbers() -> None:
    """The line of a row is its first one."""
    document = csv_text.read("limits.csv", b'a,b\n"x\ny",1\nz,2\n')
    assert [1, 2, 4] == [row.line for row in document.rows or ()]
