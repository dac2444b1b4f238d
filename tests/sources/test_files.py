"""Which files hold the configuration, and when they have changed."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from ratelimit_service.sources import files


def write(path: Path, text: str = "domain: d\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mount(directory: Path, version: str, contents: dict[str, str]) -> None:
    """Lay files out as kubelet mounts a ConfigMap: real files in `..<version>`, `..data` to it, links to `..data`."""
    real = directory / f"..{version}"
    for name, text in contents.items():
        write(real / name, text)
    temporary = directory / "..data_tmp"
    temporary.symlink_to(real.name)
    temporary.rename(directory / "..data")
    for name in contents:
        link = directory / name.split("/")[0]
        if not link.is_symlink():
            link.symlink_to(Path("..data") / link.name)


def names(find: files.Find) -> list[str]:
    return [found.name for found in find()]


def runtime(root: Path, *, watch_root: bool = True, ignore_dot_files: bool = False) -> files.Find:
    return files.runtime(
        root, "ratelimit", "config", watch_root=watch_root, ignore_dot_files=ignore_dot_files
    )


def test_a_directory_stands_for_the_yaml_files_directly_in_it(tmp_path: Path) -> None:
    """Not for its examples, nor for notes beside them."""
    for name in ("b.yaml", "a.yml", "notes.md", "examples/c.yaml"):
        write(tmp_path / name)
    assert [str(tmp_path / "a.yml"), str(tmp_path / "b.yaml")] == names(files.named([tmp_path]))


def test_files_and_directories_can_be_mixed(tmp_path: Path) -> None:
    """A file is taken whatever it is called, and even where it does not exist: reading it says so."""
    one = write(tmp_path / "one.conf")
    write(tmp_path / "more" / "two.yaml")
    found = names(files.named([one, tmp_path / "more", tmp_path / "gone.yaml"]))
    assert [str(one), str(tmp_path / "more" / "two.yaml"), str(tmp_path / "gone.yaml")] == found


def test_upstreams_directory_is_read_with_its_subdirectories(tmp_path: Path) -> None:
    """Every file whose path begins with RUNTIME_APPDIRECTORY, of whatever suffix, in the order of the names."""
    for name in (
        "config/b.yaml",
        "config/a",
        "config/team/c.yaml",
        "config.extra.yaml",
        "other/d.yaml",
        "e.yaml",
    ):
        write(tmp_path / "ratelimit" / name)
    expected = ["config.extra.yaml", "config/a", "config/b.yaml", "config/team/c.yaml"]
    assert expected == names(runtime(tmp_path))


def test_without_watching_the_root_only_its_directory_is_read(tmp_path: Path) -> None:
    """RUNTIME_WATCH_ROOT=false."""
    for name in ("config/b.yaml", "config/team/c.yaml", "config.extra.yaml", "e.yaml"):
        write(tmp_path / "ratelimit" / name)
    assert ["b.yaml", "team/c.yaml"] == names(runtime(tmp_path, watch_root=False))


@pytest.mark.parametrize(
    ("ignore", "expected"), [(False, ["config/.a.yaml", "config/b.yaml"]), (True, ["config/b.yaml"])]
)
def test_dot_files_can_be_left_out(tmp_path: Path, ignore: bool, expected: list[str]) -> None:
    """RUNTIME_IGNOREDOTFILES."""
    for name in ("config/.a.yaml", "config/b.yaml"):
        write(tmp_path / "ratelimit" / name)
    assert expected == names(runtime(tmp_path, ignore_dot_files=ignore))


@pytest.mark.parametrize("watch_root", [True, False])
@pytest.mark.parametrize("ignore", [True, False])
def test_a_mounted_configmap_is_read_once(tmp_path: Path, watch_root: bool, ignore: bool) -> None:
    """Whatever the settings: `..data` has the same files again. A path in the ConfigMap is a linked directory."""
    mount(
        tmp_path / "ratelimit" / "config", "2026_1", {"config.yaml": "domain: a", "team/b.yaml": "domain: b"}
    )
    prefix = "config/" if watch_root else ""
    found = names(runtime(tmp_path, watch_root=watch_root, ignore_dot_files=ignore))
    assert [f"{prefix}config.yaml", f"{prefix}team/b.yaml"] == found


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    """A directory that is linked into itself is read once."""
    config = write(tmp_path / "ratelimit" / "config" / "a.yaml").parent
    (config / "again").symlink_to(config)
    assert ["config/a.yaml"] == names(runtime(tmp_path))


def test_all_files_that_cannot_be_read_are_told(tmp_path: Path) -> None:
    """One is no YAML, one is a link to nothing that appeared in between: both are named."""
    broken = write(tmp_path / "a.yaml", "domain: [")
    gone = tmp_path / "b.yaml"
    find = lambda: [files.Found("a.yaml", broken), files.Found("b.yaml", gone)]  # noqa: E731
    assert ["a.yaml", "b.yaml"] == [problem.file for problem in files.read(find).problems]


def test_no_file_at_all_is_an_error(tmp_path: Path) -> None:
    """An empty directory must not wipe the rules out."""
    empty = files.read(files.named([tmp_path]), str(tmp_path))
    assert [f"{tmp_path}: there is no configuration file"] == list(map(str, empty.problems))


def test_a_file_that_is_named_and_not_there_is_told(tmp_path: Path) -> None:
    """Beside it, the others are read: what is wrong with them is told too."""
    there, gone = write(tmp_path / "there.yaml"), tmp_path / "gone.yaml"
    contents = files.read(files.named([gone, there]))
    assert [str(there)] == [document.file for document in contents.documents]
    assert [f"{gone}: cannot be read: No such file or directory"] == list(map(str, contents.problems))


def test_a_directory_that_cannot_be_read_is_told_and_looked_at_again(tmp_path: Path) -> None:
    """A link to itself, a file system that has gone: neither ends the looking for changes."""
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
def test_a_change_is_seen_once_and_when_it_is_at_rest(
    tmp_path: Path, change: Callable[[Path], None], watch_root: bool
) -> None:
    """The first look after it may be in its midst; the second finds it at rest; the third finds nothing new."""
    path = write(tmp_path / "ratelimit" / "config" / "a.yaml")
    write(tmp_path / "ratelimit" / "config" / "b.yaml")
    watcher = files.Watcher(runtime(tmp_path, watch_root=watch_root))
    assert not watcher.changed()
    change(path)
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def test_a_file_that_goes_on_changing_is_not_loaded(tmp_path: Path) -> None:
    """Half of a file that is being written is no configuration."""
    path = write(tmp_path / "a.yaml")
    watcher = files.Watcher(files.named([tmp_path]))
    seen = []
    for size in range(1, 6):
        path.write_text("x" * 10 * size)
        seen.append(watcher.changed())
    assert [False] * 5 == seen
    assert watcher.changed()


@pytest.mark.parametrize("watch_root", [True, False])
def test_the_swap_of_a_mounted_configmap_is_one_change(tmp_path: Path, watch_root: bool) -> None:
    """All its files change at one stroke, and are loaded together."""
    directory = tmp_path / "ratelimit" / "config"
    mount(directory, "1", {"a.yaml": "domain: a", "team/b.yaml": "domain: b"})
    watcher = files.Watcher(runtime(tmp_path, watch_root=watch_root))
    mount(directory, "2", {"a.yaml": "domain: c", "team/b.yaml": "domain: d"})
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def test_the_swap_of_the_root_itself_is_a_change(tmp_path: Path) -> None:
    """Upstream's own way of deploying: RUNTIME_ROOT is a link that is pointed elsewhere."""
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
