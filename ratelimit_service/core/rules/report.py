"""The errors and warnings of a load, bounded and in the order of the files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..errors import Problem

MOST_PROBLEMS = 1000
"""The most errors, and the most warnings, that are reported for one load."""


class Report:
    """The errors and warnings of a load."""

    def __init__(self) -> None:
        self._problems: list[Problem] = []
        self._warnings: list[Problem] = []

    @property
    def failed(self) -> bool:
        """Return whether there are errors."""
        return bool(self._problems)

    @property
    def full(self) -> bool:
        """Return whether further errors will be dropped."""
        return len(self._problems) > MOST_PROBLEMS

    def error(self, problem: Problem) -> None:
        """Add an error."""
        _keep(self._problems, problem)

    def warn(self, problem: Problem) -> None:
        """Add a warning."""
        _keep(self._warnings, problem)

    def in_order(self, files: Iterable[str]) -> tuple[tuple[Problem, ...], tuple[Problem, ...]]:
        """Return the errors and the warnings, in the order of `files` and of their lines."""
        order = {file: place for place, file in enumerate(files)}
        return _in_order(self._problems, order), _in_order(self._warnings, order)


def _keep(problems: list[Problem], problem: Problem) -> None:
    if len(problems) <= MOST_PROBLEMS:
        problems.append(problem)


def _in_order(problems: list[Problem], order: Mapping[str, int]) -> tuple[Problem, ...]:
    found = sorted(problems[:MOST_PROBLEMS], key=lambda problem: (order[problem.file], problem.line))
    if len(problems) > MOST_PROBLEMS:
        found.append(
            problems[-1]._replace(path="", message=f"and more: only the first {MOST_PROBLEMS} are reported")
        )
    return tuple(found)
