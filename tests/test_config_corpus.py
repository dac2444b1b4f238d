"""A corpus of configuration files, valid and invalid, with all messages about each of them.

`bad/x.yaml` is refused with exactly the lines of `bad/x.txt`. `ok/x.yaml` is accepted with the warnings of
`ok/x.txt`, or with none if there is no such file.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.core.rules.reader import load
from ratelimit_service.sources.yaml_text import read

CORPUS = Path(__file__).parent / "config_corpus"
FILES = sorted(CORPUS.glob("*/*.yaml"))


def verdict_on(file: Path) -> tuple[str, list[str]]:
    """Return the verdict on a file, and its errors and warnings."""
    try:
        warnings = load([read(file.name, file.read_bytes())]).warnings
    except InvalidRules as error:
        return "bad", [*map(str, error.problems), *(f"warning: {warning}" for warning in error.warnings)]
    return "ok", [f"warning: {warning}" for warning in warnings]


@pytest.mark.parametrize("file", FILES, ids=[f"{file.parent.name}/{file.stem}" for file in FILES])
def test_a_file_of_the_corpus_has_these_messages(file: Path) -> None:
    """Each file is accepted or refused as its directory says, with exactly the messages beside it."""
    beside = file.with_suffix(".txt")
    messages = beside.read_text(encoding="utf-8").splitlines() if beside.exists() else []
    assert (file.parent.name, messages) == verdict_on(file)


def test_the_corpus_has_both_kinds_and_no_message_without_its_file() -> None:
    """Valid and invalid files exist, and each text belongs to one."""
    assert {"ok", "bad"} == {file.parent.name for file in FILES}
    assert [] == [text for text in CORPUS.glob("*/*.txt") if text.with_suffix(".yaml") not in FILES]
