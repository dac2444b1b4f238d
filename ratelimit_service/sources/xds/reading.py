"""Resources to documents.

This runs in the process that reads rules (loading/), which inherits the open files.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from ...core.errors import Problem
from ...core.rules.document import Contents, Document
from .overlays import Overlays, lay_over
from .response import Group
from .spool import read_at
from .translate import document


class Part(NamedTuple):
    """A resource within an open file. Problems call it `name`. `wrong` is Resource.wrong."""

    name: str
    domain: str
    fd: int
    start: int
    length: int
    wrong: str


def parts_of(server: str, groups: Sequence[Group]) -> list[Part]:
    """Return the resources of these groups, each with a unique name."""
    used: Counter[str] = Counter()
    parts = []
    for group in groups:
        for each in group.resources:
            name = named(server, each.name)
            used[name] += 1
            if used[name] > 1:
                name = f"{name} ({used[name]})"
            parts.append(Part(name, group.domain, each.spool.fd, each.start, each.length, each.wrong))
    return parts


def named(server: str, resource: str) -> str:
    """Return the name of a resource in problems."""
    return f"xds {server}: {resource}"


def reading(parts: Sequence[Part], overlays: Overlays) -> partial[Contents]:
    """Return the function that loading/ calls in its process. It can be pickled."""
    domains = {part.domain for part in parts}
    return partial(read, tuple(parts), {name: each for name, each in overlays.items() if name in domains})


def read(parts: Sequence[Part], overlays: Overlays) -> Contents:
    """Parse all resources, and apply the overlays to them."""
    documents: list[Document] = []
    problems: list[Problem] = []
    unused: dict[str, Counter[Problem]] = {domain: Counter() for domain in overlays}
    resources = Counter(part.domain for part in parts)
    for part in parts:
        if part.wrong:
            problems.append(Problem(part.name, 0, "", part.wrong))
            continue
        found, wrong = document(part.name, read_at(part.fd, part.start, part.length))
        problems += wrong
        if found is None:
            continue
        if part.domain in overlays:
            unused[part.domain].update(lay_over(found, overlays[part.domain]))
        documents.append(found)
    # An overlay applies to all resources of a domain. A descriptor is unused if none of them has it.
    warnings = [
        problem
        for domain, problems_of in unused.items()
        for problem, times in problems_of.items()
        if times == resources[domain]
    ]
    return Contents(documents, problems, warnings)
