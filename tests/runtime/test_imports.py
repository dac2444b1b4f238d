"""Imports without packages that happen to be installed."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module, invalidate_caches
from importlib.util import find_spec
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


def test_a_package_that_is_visible_again_too_early_is_no_error() -> None:
    """Something else changed `sys.modules` meanwhile."""
    with without(PACKAGE):
        del sys.modules[PACKAGE]
    assert PACKAGE == import_module(PACKAGE).__name__


def test_an_imported_package_stays() -> None:
    """Something in this process needs it: tracing, for example."""
    before = import_module(PACKAGE)
    with without(PACKAGE):
        assert before is import_module(PACKAGE)
        assert import_module(f"{PACKAGE}.part") is sys.modules[f"{PACKAGE}.part"]
    assert before is sys.modules[PACKAGE]


def test_the_libraries_of_the_service_work_without_packages_that_it_does_not_use() -> None:
    """All of these packages are installed here."""
    script = (
        "import sys; from ratelimit_service.runtime import imports; imports.skip_unused(); "
        "import httpx, structlog, ratelimit_service.stores.redis; "
        "structlog.get_logger().info('said'); httpx.Client(verify=False).close(); "
        "print(*[name for name, module in sys.modules.items() if module is not None])"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, timeout=60
    )
    imported = set(done.stdout.splitlines()[-1].split())
    assert {"httpx", "structlog", "redis.asyncio"} <= imported
    unused = {"click", "greenlet", "opentelemetry", "pygments", "rich"}
    assert set() == unused & imported
    assert unused == {name for name in unused if find_spec(name) is not None}
