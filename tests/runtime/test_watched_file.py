"""A file that is read again when it changes."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from ratelimit_service.runtime.watched_file import WatchedFile


def test_an_unchanged_file_that_could_not_be_opened_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The error may concern the process, as a lack of descriptors does. It is reported once."""
    path, used = tmp_path / "file", list[bytes | None]()
    path.write_bytes(b"content")

    def use(content: bytes | None) -> str:
        used.append(content)
        return ""

    def fail(*arguments: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    watched = WatchedFile(str(path), "FILE", 4, use, lambda: 0.0)
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", fail)
        assert [f"{path} cannot be read: Too many open files", ""] == [watched.read(), watched.read()]
    assert ["", ""] == [watched.read(), watched.read()]
    assert [None, None, b"conte"] == used
