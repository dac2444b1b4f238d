"""The transfer of rules from the reading process, in pieces."""

from __future__ import annotations

import os
import pickle
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path

import pytest

from ratelimit_service.core.errors import InvalidRules, Problem
from ratelimit_service.core.rules.loaded import Loaded
from ratelimit_service.core.rules.reader import load
from ratelimit_service.loading import pieces
from ratelimit_service.loading.pieces import Assembly, InvalidPieces
from ratelimit_service.loading.slices import at_once
from ratelimit_service.sources import csv_text
from ratelimit_service.sources.yaml_text import read
from testing.service import REPOSITORY

FILES = sorted(
    [*(REPOSITORY / "tests/config_corpus/ok").glob("*.yaml"), *(REPOSITORY / "config").rglob("*.yaml")]
)
MANY = "domain: d\ndescriptors:\n" + "".join(
    f"  - {{key: team, value: t{number}, rate_limit: {{unit: day, tokens_per_unit: {number}}}}}\n"
    for number in range(300)
)


def loaded(*texts: str) -> Loaded:
    return load([read(f"{number}.yaml", text) for number, text in enumerate(texts)])


def assembled(some: Iterable[bytes]) -> Assembly:
    assembly = Assembly()
    for piece in some:
        at_once(assembly.add(piece))
    return assembly


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_every_kind_of_rule_is_transferred_unchanged(path: Path) -> None:
    """Every key of the language, and the warnings."""
    rules = loaded(path.read_text("utf-8"))
    again = assembled(pieces.pieces_of_rules(rules)).result()
    assert [asdict(domain) for domain in rules.domains] == [asdict(domain) for domain in again.domains]
    assert rules.warnings == again.warnings


def test_domains_and_levels_keep_their_order_and_their_place() -> None:
    """Each descriptor keeps its parent."""
    text = """
descriptors:
  - {key: a, descriptors: [{key: b, descriptors: [{key: c}, {key: d}]}, {key: e}]}
  - {key: f}
  - {key: g, descriptors: [{key: h}]}
domain: """
    rules = loaded(text + "x", text + "w")
    again = assembled(pieces.pieces_of_rules(rules)).result()
    assert ["x", "w"] == [domain.name for domain in again.domains]
    assert [asdict(domain) for domain in rules.domains] == [asdict(domain) for domain in again.domains]


def test_limits_from_a_file_keep_their_order_and_their_domain() -> None:
    """Thousands of limits make many pieces, and each limit is a step."""
    table = "domain,descriptor,limit\n" + "".join(f"d,user=u{number},{number}\n" for number in range(300))
    documents = [read("d.yaml", MANY), csv_text.read("limits.csv", table.encode())]
    rules = load([*documents, read("e.yaml", "domain: e\ndescriptors: []\n")])
    apart = list(pieces.pieces_of_rules(rules))
    assert max(map(len, apart)) < 8_192
    assert 600 < sum(1 for piece in apart for _ in Assembly().add(piece))
    again = assembled(apart).result()
    assert rules.domains[0].limits == again.domains[0].limits
    assert [asdict(domain) for domain in rules.domains] == [asdict(domain) for domain in again.domains]


def test_many_rules_make_many_pieces_and_each_rule_is_a_step() -> None:
    """So the takeover of 10,000 rules can pause after any of them."""
    apart = list(pieces.pieces_of_rules(loaded(MANY)))
    assert len(apart) > 5
    assert max(map(len, apart)) < 8_192
    assembly = Assembly()
    steps = sum(1 for piece in apart for _ in assembly.add(piece))
    assert 300 + len(("domain", "end")) == steps
    assert 300 == len(assembly.result().domains[0].descriptors)


def test_large_metadata_have_a_piece_of_their_own() -> None:
    """A piece ends as soon as it is long enough."""
    metadata = ", ".join(f"key{number}: some value" for number in range(500))
    item = f"  - {{key: a%d, rate_limit: {{unit: day, tokens_per_unit: 1}}, metadata: {{{metadata}}}}}\n"
    rules = loaded("domain: d\ndescriptors:\n" + "".join(item % number for number in range(3)))
    assert 4 == len(list(pieces.pieces_of_rules(rules)))


def test_every_problem_and_warning_is_transferred() -> None:
    """In their order."""
    problems = [Problem("a.yaml", line, "descriptors[0]", f"wrong {line}") for line in range(400)]
    warnings = [Problem("b.yaml", line, "", "noticed") for line in range(3)]
    assembly = assembled(pieces.pieces_of_problems(InvalidRules(problems, warnings)))
    with pytest.raises(InvalidRules) as refused:
        assembly.result()
    assert (tuple(problems), tuple(warnings)) == (refused.value.problems, refused.value.warnings)


def test_a_transfer_is_complete_with_its_last_piece_only() -> None:
    """If the writer ends earlier, the transfer is incomplete."""
    *most, last = pieces.pieces_of_rules(loaded(MANY))
    assembly = assembled(most)
    seen = [assembly.complete]
    with pytest.raises(InvalidPieces, match="no end"):
        assembly.result()
    at_once(assembly.add(last))
    assert [False, True] == [*seen, assembly.complete]


@pytest.mark.parametrize("where", range(0, 4_000, 97))
def test_a_damaged_piece_raises_no_unexpected_error(where: int) -> None:
    """Whichever byte is damaged, the piece is invalid, or is valid with other content."""
    first, *others = pieces.pieces_of_rules(loaded(MANY))
    damaged = first[:where] + bytes([first[where] ^ 0x55]) + first[where + 1 :]
    try:
        assembled([damaged, *others]).result()
    except (InvalidPieces, InvalidRules):
        return


def test_a_piece_that_is_cut_off_is_invalid() -> None:
    """For a cut after any byte."""
    (piece,) = pieces.pieces_of_rules(loaded("domain: d\ndescriptors: [{key: a}]"))
    for length in range(1, len(piece)):
        try:
            assembly = assembled([piece[:length]])
        except InvalidPieces:
            continue
        assert not assembly.complete


def test_a_piece_can_create_only_the_classes_of_rules() -> None:
    """A pickle can call any function by its name."""
    with pytest.raises(InvalidPieces, match=r"posix\.system"):
        assembled([pickle.dumps((os.system, 0))])


@pytest.mark.parametrize("thing", [("a text", 0), (Problem("a", 0, "", ""), 1), 5, ((), 0)], ids=str)
def test_an_item_that_is_not_a_rule_is_invalid(thing: object) -> None:
    """Even if it can be unpickled."""
    end = pickle.dumps((pieces.End(0, 0), 0))
    with pytest.raises(InvalidPieces):
        assembled([pickle.dumps(thing), end]).result()


def test_an_item_that_is_not_a_problem_is_invalid() -> None:
    """It could not be logged."""
    with pytest.raises(InvalidPieces):
        assembled([pickle.dumps(("a text", 0)) + pickle.dumps((pieces.End(1, 0), 0))]).result()
