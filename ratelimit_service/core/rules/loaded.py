"""The rules that reader.py has read. They come from another process, so what takes them needs no reader."""

from __future__ import annotations

from typing import NamedTuple

from ..errors import Problem
from ..model import DomainRules


class Loaded(NamedTuple):
    """The rules of all domains, in the order of the documents, and the warnings about them.

    `problems` is empty unless each domain is loaded by itself (per_domain.py). Then it has the problems of
    the domains that are missing.
    """

    domains: tuple[DomainRules, ...]
    warnings: tuple[Problem, ...]
    problems: tuple[Problem, ...] = ()
