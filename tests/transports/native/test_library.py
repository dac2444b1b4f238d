"""The version of nghttp2 that the native transport needs."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from ratelimit_service.core.errors import StartError
from ratelimit_service.transports.native import server as native
from ratelimit_service.transports.native._http2 import library_version


def test_an_old_library_is_named_at_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    """An error at the start prevents a crash of the process later."""
    monkeypatch.setattr(native, "library_version", lambda: (0x012B00, "1.43.0"))
    with pytest.raises(StartError, match=r"libnghttp2 1\.52 or newer, and 1\.43\.0 is loaded"):
        native.check_library()


def test_the_library_that_is_loaded_is_new_enough() -> None:
    """Its number and its text are the same version."""
    number, text = library_version()
    assert number >= 0x013400
    assert [number >> 16, number >> 8 & 0xFF, number & 0xFF] == numbers(text.split("-")[0].split("."))


def numbers(parts: Iterable[str]) -> list[int]:
    return [int(part) for part in parts]
