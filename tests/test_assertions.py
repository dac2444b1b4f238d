"""Assertions of equality name the expected value first: `assert expected == actual`."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


def _constant(node: ast.expr) -> bool:
    """Return whether a value is written out: a literal, a display of such, or a name in capitals."""
    match node:
        case ast.Constant() | ast.JoinedStr():
            return True
        case ast.UnaryOp():
            return _constant(node.operand)
        case ast.List() | ast.Tuple() | ast.Set():
            return all(map(_constant, node.elts))
        case ast.Dict():
            return all(key is not None and _constant(key) for key in node.keys) and all(
                map(_constant, node.values)
            )
        case ast.Name():
            return node.id.isupper()
        case ast.Attribute():
            return node.attr.isupper()
    return False


def _compared(test: ast.expr) -> Iterator[ast.Compare]:
    """Yield the comparisons that an assertion requires.

    Those in an `or`, in a condition or in a comprehension choose a case, and may stand in either order.
    """
    if isinstance(test, ast.Compare):
        yield test
    elif isinstance(test, ast.BoolOp) and isinstance(test.op, ast.And):
        for value in test.values:
            yield from _compared(value)


def reversed_assertions(source: bytes) -> list[int]:
    """Return the lines of the assertions that compare something with a constant on its right."""
    return [
        compare.lineno
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Assert)
        for compare in _compared(node.test)
        for operator, (left, right) in zip(
            compare.ops, pairwise([compare.left, *compare.comparators]), strict=True
        )
        if isinstance(operator, ast.Eq) and _constant(right) and not _constant(left)
    ]


@pytest.mark.parametrize("directory", ["bench", "demo", "deploy", "testing", "tests", "tools"])
def test_the_expected_value_is_on_the_left(directory: str) -> None:
    """A failure then reads the same everywhere."""
    found = {
        str(path.relative_to(ROOT)): lines
        for path in sorted((ROOT / directory).rglob("*.py"))
        if "node_modules" not in path.parts and (lines := reversed_assertions(path.read_bytes()))
    }
    assert {} == found


@pytest.mark.parametrize(
    "assertion",
    [
        "total() == 1",
        "name == 'a'",
        "found and found[0] == -1",
        "got == [LIMIT, ('a', f'{x}')]",
        "a == 3 < b",
    ],
)
def test_a_reversed_assertion_is_found(assertion: str) -> None:
    assert [1] == reversed_assertions(f"assert {assertion}".encode())


@pytest.mark.parametrize(
    "assertion",
    [
        "1 == total()",
        "first == second",
        "FIRST == 1",
        "kind == 'a' or rest",
        "all(x == 1 for x in xs)",
        "a > 1",
    ],
)
def test_other_assertions_may_stand_as_they_are(assertion: str) -> None:
    assert [] == reversed_assertions(f"assert {assertion}".encode())
