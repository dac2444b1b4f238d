"""Imports without packages that happen to be installed."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from pathlib import Path

import pytest

from ratelimit_service.runtime.imports import without

PACKAGE = "happens_to_be_installed"


@pytest.fixture(autouse=True)
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A package with a module `part`."""
    package = tmp_path / PACKAGE
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "part.py").touch()
    monkeypatch.syspath_prepend(tmp_path)
    invalidate_caches()
    yield
    for name in (PACKAGE, f"{PACKAGE}.part"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", [PACKAGE, f"{PACKAGE}.part"])
def test_a_hidden_package_seems_not_to_be_installed(name: str) -> None:
    """Libraries catch ImportError. Afterwards it can be imported."""
    with without(PACKAGE), pytest.raises(ImportError):
        import_module(name)
    assert name == import_module(name).__name__


def test_a_failed_import_hides_nothing_afterwards() -> None:
    """The error goes on to the caller."""
    with pytest.raises(ZeroDivisionError), without(PACKAGE):
        _ = 1 / 0
    assert PACKAGE == import_module(PACKAGE).__name__


def test_an_imported_package_stays() -> None:
    """Something in this process needs it: tracing, for example."""
    before = import_module(PACKAGE)
    with without(PACKAGE):
        assert before is import_module(PACKAGE)
        assert import_module(f"{PACKAGE}.part") is sys.modules[f"{PACKAGE}.part"]
    assert before is sys.modules[PACKAGE]
