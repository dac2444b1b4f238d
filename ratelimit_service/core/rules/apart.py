"""Documents -> rules, each domain by itself: a domain that is wrong is left out, and the others are loaded.

For sources in which many people write, each their own domains: the mistake of one must not hold up the rules of all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from ..errors import InvalidRules, Problem
from ..model import DomainRules
from .document import Document, MappingNode, ScalarNode
from .fields import quoted
from .reader import Loaded, load


def load_apart(
    documents: Sequence[Document],
    problems: Sequence[Problem] = (),
    *,
    merge_domains: bool = False,
    budget_domains: frozenset[str] = frozenset(),
) -> Loaded:
    """The rules of all domains with which nothing is wrong; and, as `problems`, what is wrong with the others.

    `problems` has what is wrong with documents already, by their names. As with `load`, but with each domain by itself;
    without `merge_domains`, several documents of one domain are all wrong, because none of them is the right one.
    """
    refused = {problem.file for problem in problems}
    domains: list[DomainRules] = []
    warnings: list[Problem] = []
    wrong = list(problems)
    for name, those in _by_domain(documents).items():
        if any(each.file in refused for each in those):
            continue
        if len(those) > 1 and not merge_domains:
            wrong += _duplicates(name, those)
            continue
        overlays = {each.file: each.overlay for each in those if each.overlay}
        try:
            loaded = load(those, merge_domains=merge_domains, budget_domains=budget_domains, several=True)
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
        # What has no domain is a domain of its own, about which `load` says that.
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
            f"{quoted(domain)} has its rules in {other.file} as well: put them together, or set MERGE_DOMAIN_CONFIG=true",
        )
        for each, other in zip(documents, [*documents[1:], documents[0]], strict=True)
    ]


def _placed(problems: Sequence[Problem], overlays: Mapping[str, str]) -> list[Problem]:
    """Lines are those of an overlay (Document.overlay)."""
    return [
        problem._replace(file=overlays[problem.file])
        if problem.line and problem.file in overlays
        else problem
        for problem in problems
    ]
