"""The version of the package, which `--version`, metrics, spans and the API have."""

from __future__ import annotations

import ast
from importlib import metadata
from pathlib import Path

import pytest

from ratelimit_service.version import version
from testing.service import REPOSITORY


def test_it_is_that_of_the_installed_package() -> None:
    assert metadata.version("ratelimit-service") == version()


def test_a_checkout_that_was_never_installed_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "version", missing)
    assert "unknown" == version()


def test_it_is_read_in_one_place() -> None:
    """Elsewhere, a checkout that was never installed would be an error."""

    def reads(path: Path) -> bool:
        nodes = ast.walk(ast.parse(path.read_text("utf-8")))
        return any(
            (
                isinstance(node, ast.ImportFrom)
                and "importlib.metadata" in f"{node.module}.{node.names[0].name}"
            )
            or (
                isinstance(node, ast.Import) and any("importlib.metadata" in each.name for each in node.names)
            )
            for node in nodes
        )

    package = REPOSITORY / "ratelimit_service"
    assert ["version.py"] == [str(path.relative_to(package)) for path in package.rglob("*.py") if reads(path)]
