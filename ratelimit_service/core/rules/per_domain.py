"""From documents to rules, each domain by itself: one with an error is skipped, and the others are loaded.

This is for sources with many authors, each with domains of their own. A mistake of one must not delay the
rules of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InvalidRules, Problem
from ..model import DomainRules
from .document import Document, MappingNode, ScalarNode
from .fields import quoted
from .loaded import Loaded
from .reader import load


def load_per_domain(
    documents: Sequence[Document],
    problems: Sequence[Problem] = (),
    *,
    merge_domains: bool = False,
    budget_domains: frozenset[str] = frozenset(),
) -> Loaded:
    """Return the rules of all domains without errors, and the errors of the others as `Loaded.problems`.

    `problems` are the known errors of documents, by the name of the file. The other arguments are those of
    `load`. Without `merge_domains`, several documents of one domain are all errors, because none of them
    takes precedence.
    """
    refused = {problem.file for problem in problems}
    domains: list[DomainRules] = []
    warnings: list[Problem] = []
    wrong = list(problems)
    for name, group in _by_domain(documents).items():
        if any(each.file in refused for each in group):
            continue
        if len(group) > 1 and not merge_domains:
            wrong += _duplicates(name, group)
            continue
        overlays = {each.file: each.overlay for each in group if each.overlay}
        try:
            loaded = load(group, merge_domains=merge_domains, budget_domains=budget_domains, several=True)
        except InvalidRules as error:
            wrong += _placed(error.problems, overlays)
            warnings += _placed(error.warnings, overlays)
        else:
            domains += loaded.domains
            warnings += _placed(loaded.warnings, overlays)
    return Loaded(tuple(domains), tuple(warnings), tuple(wrong))


def _by_domain(documents: Sequence[Document]) -> dict[str, list[Document]]:
    found: dict[str, list[Document]] = {}
    for document in documents:
        # A document without a domain is in a group of its own, and `load` reports it.
        found.setdefault(_domain(document) or f"\0{document.file}", []).append(document)
    return found


def _domain(document: Document) -> str:
    for key, node in document.root.items if isinstance(document.root, MappingNode) else ():
        if key.text == "domain" and isinstance(node, ScalarNode):
            return node.text
    return ""


def _duplicates(domain: str, documents: Sequence[Document]) -> list[Problem]:
    return [
        Problem(
            each.file,
            0,
            "domain",
            f"{quoted(domain)} also has rules in {other.file}: merge them, or set MERGE_DOMAIN_CONFIG=true",
        )
        for each, other in zip(documents, [*documents[1:], documents[0]], strict=True)
    ]


def _placed(problems: Sequence[Problem], overlays: Mapping[str, str]) -> list[Problem]:
    """Return the problems, with the file of an overlay for those that have a line (Document.overlay)."""
    return [
        problem._replace(file=overlays[problem.file])
        if problem.line and problem.file in overlays
        else problem
        for problem in problems
    ]
