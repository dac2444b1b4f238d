"""The commands `check-config` and `convert`.

They run in pipelines and hooks, which wait for their imports: neither the log, nor an event loop, nor the
service.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Sequence
from pathlib import Path

from ..core.errors import InvalidRules, Problem, StartError
from ..core.matching.tree import RuleTree
from ..core.text import printable
from ..loading.task import load_rules
from ..sources import files

_of_addresses = re.compile(r"webhook(-[0-9]+)?").fullmatch
"""Match the name of a receiver that EVENTS_WEBHOOK_URL makes."""


def check_config(
    paths: Sequence[Path], *, strict: bool, merge_domains: bool, domain: str = "", receivers: str = ""
) -> int:
    """Load files as `serve` does, print every mistake, and return the exit code.

    `receivers` is a file of receivers of events; empty for none.
    """
    errors: Sequence[Problem] = ()
    rules = domains = limits = 0
    try:
        contents = files.read(files.find_in(paths), ", ".join(map(str, paths)), domain)
        loaded = load_rules(contents, merge_domains=merge_domains)
        warnings = loaded.warnings
        tree = RuleTree(loaded.domains)
        rules, domains = len(tree.rules), len(tree.domains)
        limits = sum(len(each.limits) for each in loaded.domains)
        if receivers:
            warnings = (*warnings, *_unknown_receivers(tree, receivers))
    except InvalidRules as error:
        errors, warnings = error.problems, error.warnings
    for problem in errors:
        print(f"error: {printable(str(problem))}")
    for problem in warnings:
        print(f"{'error' if strict else 'warning'}: {printable(str(problem))}")
    if errors or (strict and warnings):
        return 1
    data = f", and {_count(limits, 'limit')} as data" if limits else ""
    print(f"ok: {_count(rules, 'rule')} in {_count(domains, 'domain')}{data}")
    return 0


def _unknown_receivers(tree: RuleTree, file: str) -> list[Problem]:
    """Return a problem for each name in `notify` without a receiver. Raises InvalidRules for a file that
    cannot be used.
    """
    from ..events.receivers import receivers_of

    try:
        names = {receiver.name for receiver in receivers_of((), "", file)}
    except StartError as error:
        raise InvalidRules([Problem(file, 0, "", str(error))]) from None
    known = ", ".join(sorted(names)) or "none"
    return [
        Problem(rule.source, 0, "notify", f"{file} has no receiver {printable(name)!r}: it has {known}")
        for rule in tree.rules
        for name in rule.notify or ()
        if name not in names and not _of_addresses(name)
    ]


def convert(path: Path, *, merge_domains: bool, domain: str) -> int:
    """Print the rules at `path` as configuration files, one document for each, and return the exit code.

    Errors and warnings go to stderr.
    """
    from ..sources import yaml_writer as native

    contents = files.read(files.find_in([path]), str(path), domain)
    try:
        warnings = load_rules(contents, merge_domains=merge_domains).warnings
    except InvalidRules as error:
        for problem in error.problems:
            print(f"error: {printable(str(problem))}", file=sys.stderr)
        return 1
    for problem in warnings:
        print(f"warning: {printable(str(problem))}", file=sys.stderr)
    documents = [document for document in contents.documents if document.rows is None]
    sys.stdout.buffer.write("---\n".join(map(native.write, documents)).encode())
    sys.stdout.flush()
    if len(documents) > 1:
        note = (
            "each document is a configuration: put it into a file of its own, because only the first "
            "document of a file is read"
        )
        print(f"note: {note}", file=sys.stderr)
    return 0


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
