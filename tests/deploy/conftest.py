"""Fixtures that the tests of deploy/ share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest

from ..e2e.conftest import Unique
from .envoy_with_holds import PatientLlm


@pytest.fixture(scope="session")
def unique() -> Unique:
    """`unique("dba")` → "deployed-dba-1".

    The tests of e2e/ count in the same Redis, and have no such names.
    """
    numbers = itertools.count(1)
    return lambda name: f"deployed-{name}-{next(numbers)}"


@pytest.fixture
def llm() -> Iterator[PatientLlm]:
    """A provider that answers when a test allows it."""
    provider = PatientLlm()
    yield provider
    provider.stop()
