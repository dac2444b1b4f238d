"""Resources to documents.

This runs in the process that reads rules (loading/), which inherits the open files.
"""

from __future__ import annotations

import pickle
from collections import Counter
from collections.abc import Sequence
from functools import partial
from typing import NamedTuple

from ...core.errors import Problem
from ...core.rules.document import Contents, Document
from .overlays import Overlays, lay_over
from .response import Group
from .spool import read_at
from .translate import document, drop_shadow_of_levels


class StoredResource(NamedTuple):
    """A resource within an open file. Problems call it `name`. `wrong` is Resource.wrong."""

    name: str
    domain: str
    fd: int
    start: int
    length: int
    wrong: str


def stored_resources(server: str, groups: Sequence[Group]) -> list[StoredResource]:
    """Return the resources of these groups, each with a unique name."""
    used: Counter[str] = Counter()
    resources = []
    for group in groups:
        for each in group.resources:
            name = named(server, each.name)
            used[name] += 1
            while used[name] > 1:  # the new name may be that of another resource
                name = f"{name} ({used[name]})"
                used[name] += 1
            resources.append(
                StoredResource(name, group.domain, each.spool.fd, each.start, each.length, each.wrong)
            )
    return resources


def named(server: str, resource: str) -> str:
    """Return the name of a resource in problems."""
    return f"xds {server}: {resource}"


def reading(resources: Sequence[StoredResource], overlays: Overlays) -> partial[Contents]:
    """Return the function that loading/ calls in its process. It can be pickled.

    Its argument is pickled here, in a thread, because loading/ pickles the function on the event loop.
    """
    domains = {resource.domain for resource in resources}
    used = {name: each for name, each in overlays.items() if name in domains}
    return partial(read, pickle.dumps((tuple(resources), used)))


def read(pickled: bytes) -> Contents:
    """Parse all resources, and apply the overlays to them."""
    resources: Sequence[StoredResource]
    overlays: Overlays
    resources, overlays = pickle.loads(pickled)  # noqa: S301  # by `reading`
    documents: list[Document] = []
    problems: list[Problem] = []
    unused: dict[str, Counter[Problem]] = {domain: Counter() for domain in overlays}
    of_domain = Counter(resource.domain for resource in resources)
    for resource in resources:
        if resource.wrong:
            problems.append(Problem(resource.name, 0, "", resource.wrong))
            continue
        found, wrong = document(resource.name, read_at(resource.fd, resource.start, resource.length))
        problems += wrong
        if found is None:
            continue
        if resource.domain in overlays:
            unused[resource.domain].update(lay_over(found, overlays[resource.domain]))
        drop_shadow_of_levels(found.root)
        documents.append(found)
    # An overlay applies to all resources of a domain. A descriptor is unused if none of them has it.
    warnings = [
        problem
        for domain, problems_of in unused.items()
        for problem, times in problems_of.items()
        if times == of_domain[domain]
    ]
    return Contents(documents, problems, warnings)
