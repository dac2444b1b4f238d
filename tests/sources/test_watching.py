"""The detection of changed files, and its timing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ratelimit_service.sources import files

from .rule_files import mount, runtime, write


def test_files_that_become_readable_count_as_changed(tmp_path: Path) -> None:
    """Their previous state is unknown."""
    write(tmp_path / "a.yaml")
    watcher = files.Watcher(files.find_in([tmp_path]), seen=())
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def test_an_unreadable_directory_is_reported_and_polled_again(tmp_path: Path) -> None:
    """A link to itself, or a lost file system, does not end the polling."""
    config = tmp_path / "ratelimit" / "config"
    config.parent.mkdir()
    config.symlink_to(config)
    find = runtime(tmp_path, watch_root=False)
    assert [f"{config}: cannot be read: Too many levels of symbolic links"] == list(
        map(str, files.read(find).problems)
    )
    watcher = files.Watcher(find)
    config.unlink()
    write(config / "a.yaml")
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def edit(path: Path) -> None:
    path.write_text("domain: edited\n")


def rename_over(path: Path) -> None:
    write(path.with_suffix(".tmp"), "domain: renamed\n").rename(path)


def add(path: Path) -> None:
    write(path.parent / "z.yaml", "domain: z\n")


def remove(path: Path) -> None:
    path.unlink()


def forbid(path: Path) -> None:
    path.chmod(0o400)


CHANGES = [edit, rename_over, add, remove, forbid]


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("watch_root", [True, False])
def test_a_change_is_reported_once_after_it_has_ended(
    tmp_path: Path, change: Callable[[Path], None], watch_root: bool
) -> None:
    """The first poll may be in the middle of it, the second finds its end, the third nothing new."""
    path = write(tmp_path / "ratelimit" / "config" / "a.yaml")
    write(tmp_path / "ratelimit" / "config" / "b.yaml")
    watcher = files.Watcher(runtime(tmp_path, watch_root=watch_root))
    assert not watcher.changed()
    change(path)
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def test_a_file_that_keeps_changing_is_not_loaded(tmp_path: Path) -> None:
    """Half of a file is not a configuration."""
    path = write(tmp_path / "a.yaml")
    watcher = files.Watcher(files.find_in([tmp_path]))
    seen = []
    for size in range(1, 6):
        path.write_text("x" * 10 * size)
        seen.append(watcher.changed())
    assert [False] * 5 == seen
    assert watcher.changed()


@pytest.mark.parametrize("watch_root", [True, False])
def test_the_update_of_a_mounted_configmap_is_one_change(tmp_path: Path, watch_root: bool) -> None:
    """All its files change in one step, and are loaded together."""
    directory = tmp_path / "ratelimit" / "config"
    mount(directory, "1", {"a.yaml": "domain: a", "team/b.yaml": "domain: b"})
    watcher = files.Watcher(runtime(tmp_path, watch_root=watch_root))
    mount(directory, "2", {"a.yaml": "domain: c", "team/b.yaml": "domain: d"})
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def test_the_replacement_of_the_root_is_a_change(tmp_path: Path) -> None:
    """In upstream's own deployment, RUNTIME_ROOT is a link that is replaced."""
    write(tmp_path / "v1" / "ratelimit" / "config" / "a.yaml")
    write(tmp_path / "v2" / "ratelimit" / "config" / "a.yaml")
    root = tmp_path / "current"
    root.symlink_to("v1")
    watcher = files.Watcher(runtime(root))
    (tmp_path / "next").symlink_to("v2")
    (tmp_path / "next").replace(root)
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def test_a_directory_that_appears_later_is_a_change(tmp_path: Path) -> None:
    """A volume may be mounted after the start."""
    watcher = files.Watcher(runtime(tmp_path / "not-yet"))
    assert not watcher.changed()
    write(tmp_path / "not-yet" / "ratelimit" / "config" / "a.yaml")
    assert [False, True] == [watcher.changed() for _ in range(2)]
