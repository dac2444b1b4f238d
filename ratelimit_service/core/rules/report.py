"""The errors and warnings of a load, bounded and in the order of the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import Problem

MOST_PROBLEMS = 1000
"""How many errors, and how many warnings, are told of one load."""


class Report:
    """The errors and warnings of a load."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    @property
    def failed(self) -> bool:
        """Whether there are errors."""
        return bool(self._problems)

    @property
    def full(self) -> bool:
        """Whether further errors will not be told."""
        return len(self._problems) > MOST_PROBLEMS

    def error(self, problem: Problem) -> None:
        """Adds an error."""
        _keep(self._problems, problem)

    def warn(self, problem: Problem) -> None:
        """Adds a warning."""
        _keep(self._warnings, problem)

    def told(self, files: Iterable[str]) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        """The errors and the warnings, in the order of `files` and of the lines in them."""
        order = {file: place for place, file in enumerate(files)}
        return _in_order(self._problems, order), _in_order(self._warnings, order)


def _keep(problems: list[Problem], problem: Problem) -> None:
    if len(problems) <= MOST_PROBLEMS:
        problems.append(problem)


def _in_order(problems: list[Problem], order: Mapping[str, int]) -> tuple[Problem, ...]:
    told = sorted(problems[:MOST_PROBLEMS], key=lambda problem: (order[problem.file], problem.line))
    if len(problems) > MOST_PROBLEMS:
        told.append(
            problems[-1]._replace(path="", message=f"and more: only {MOST_PROBLEMS} are told at once")
        )
    return tuple(told)
