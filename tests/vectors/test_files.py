"""The 219 configuration files whose acceptance was recorded from envoyproxy/ratelimit: the same are accepted
here.
"""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from ratelimit_service.core.errors import InvalidRules, Problem
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

FILES: list[dict[str, Any]] = json.loads(
    gzip.decompress((Path(__file__).parent / "upstream.json.gz").read_bytes())
)["files"]

SURE_MISTAKES = {
    # What was done to the file: the warning, and how many accepted files have the mistake.
    "two documents": ("only the first document of a file is read", 1),
    "duplicate keys": ("is repeated", 1),
    "replaces a stranger": ("has the name 'nobody'", 6),
    "unlimited with rpu": ("has no effect beside unlimited", 6),
    "requests_per_unit missing": ("is missing and read as 0", 1),  # the other one had none to take away
}


def judge(text: str) -> tuple[bool, tuple[Problem, ...]]:
    try:
        return True, load([read("recorded.yaml", text)]).warnings
    except InvalidRules as error:
        return False, error.problems


def test_the_record_has_all_its_files() -> None:
    """219 files were recorded, 76 of them accepted."""
    assert (219, 76) == (len(FILES), sum(file["accepted"] for file in FILES))


@pytest.mark.parametrize(
    "number", range(len(FILES)), ids=lambda number: f"{number}-{FILES[number]['mutation']}"
)
def test_upstream_and_we_accept_the_same_files(number: int) -> None:
    """What upstream accepts is accepted, and what it refuses is refused."""
    file = FILES[number]
    accepted, messages = judge(file["text"])
    assert file["accepted"] == accepted, "\n".join(map(str, messages))


@pytest.mark.parametrize("mutation", SURE_MISTAKES)
def test_mistakes_that_upstream_accepts_cause_warnings(mutation: str) -> None:
    """Each file with such a mistake gets the warning that names it."""
    words, expected = SURE_MISTAKES[mutation]
    judged = [judge(file["text"]) for file in FILES if file["mutation"] == mutation]
    assert expected == sum(
        accepted and any(words in message for *_, message in warnings) for accepted, warnings in judged
    )
