"""The files of a configuration, and the detection of their changes."""

from __future__ import annotations

import errno
import os
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from ratelimit_service.core.errors import InvalidRules
from ratelimit_service.sources import files

from .rule_files import mount, runtime, write


def names(find: files.Find) -> list[str]:
    return [found.name for found in find().files]


def test_a_directory_stands_for_the_yaml_files_directly_in_it(tmp_path: Path) -> None:
    """Subdirectories, and files with another suffix, are ignored."""
    for name in ("b.yaml", "a.yml", "notes.md", "examples/c.yaml"):
        write(tmp_path / name)
    assert [str(tmp_path / "a.yml"), str(tmp_path / "b.yaml")] == names(files.find_in([tmp_path]))


def test_tables_are_read_with_the_rules(tmp_path: Path) -> None:
    """By their names, in a plain directory and in upstream's. An invalid table is a problem with its line."""
    (tmp_path / "limits.csv").write_text("domain,descriptor,limit\nd,user=a,5\n")
    (tmp_path / "rules.yaml").write_text("domain: d\n")
    for find in (
        files.find_in([tmp_path]),
        files.find_in([tmp_path / "limits.csv", tmp_path / "rules.yaml"]),
        files.runtime(str(tmp_path), "", "", watch_root=True, ignore_dot_files=False),
    ):
        table, rules = files.read(find).documents
        assert (2, None) == (len(table.rows or ()), rules.rows)
    (tmp_path / "limits.csv").write_text('domain,descriptor,limit\nd,"user=a,5\n')
    contents = files.read(files.find_in([tmp_path]))
    assert [2] == [problem.line for problem in contents.problems]


def test_files_and_directories_can_be_mixed(tmp_path: Path) -> None:
    """A file may have any name. A missing file is an error when it is read."""
    one = write(tmp_path / "one.conf")
    write(tmp_path / "more" / "two.yaml")
    found = names(files.find_in([one, tmp_path / "more", tmp_path / "gone.yaml"]))
    assert [str(one), str(tmp_path / "more" / "two.yaml"), str(tmp_path / "gone.yaml")] == found


def test_upstreams_directory_is_read_with_its_subdirectories(tmp_path: Path) -> None:
    """Every file whose path begins with RUNTIME_APPDIRECTORY, with any suffix, in the order of the names."""
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
    """This is RUNTIME_WATCH_ROOT=false."""
    for name in ("config/b.yaml", "config/team/c.yaml", "config.extra.yaml", "e.yaml"):
        write(tmp_path / "ratelimit" / name)
    assert ["b.yaml", "team/c.yaml"] == names(runtime(tmp_path, watch_root=False))


@pytest.mark.parametrize(
    ("ignore", "expected"), [(False, ["config/.a.yaml", "config/b.yaml"]), (True, ["config/b.yaml"])]
)
def test_dot_files_can_be_left_out(tmp_path: Path, ignore: bool, expected: list[str]) -> None:
    """This is RUNTIME_IGNOREDOTFILES."""
    for name in ("config/.a.yaml", "config/b.yaml"):
        write(tmp_path / "ratelimit" / name)
    assert expected == names(runtime(tmp_path, ignore_dot_files=ignore))


@pytest.mark.parametrize("watch_root", [True, False])
@pytest.mark.parametrize("ignore", [True, False])
def test_a_mounted_configmap_is_read_once(tmp_path: Path, watch_root: bool, ignore: bool) -> None:
    """With any settings: `..data` has the same files again. A path in the ConfigMap is a linked directory."""
    mount(
        tmp_path / "ratelimit" / "config", "2026_1", {"config.yaml": "domain: a", "team/b.yaml": "domain: b"}
    )
    prefix = "config/" if watch_root else ""
    found = names(runtime(tmp_path, watch_root=watch_root, ignore_dot_files=ignore))
    assert [f"{prefix}config.yaml", f"{prefix}team/b.yaml"] == found


@pytest.mark.parametrize(
    ("elements", "path"),
    [
        # What Go's own tests of filepath.Join expect.
        (("a", "b"), "a/b"),
        (("a", ""), "a"),
        (("", "b"), "b"),
        (("/", "a/b"), "/a/b"),
        (("/", ""), "/"),
        (("/a", "/b"), "/a/b"),
        (("a/", "b"), "a/b"),
        (("//", "a"), "/a"),
        (("/a/b", "../../../b"), "/b"),
        # The variables as people write them.
        (("/srv/runtime_data/current", "/", "config"), "/srv/runtime_data/current/config"),
        (
            ("/srv/runtime_data/current", "/ratelimit/", "/config/"),
            "/srv/runtime_data/current/ratelimit/config",
        ),
        (("/srv/runtime_data/current", "../next", "config"), "/srv/runtime_data/next/config"),
        (("/srv", "./a//b/.", ""), "/srv/a/b"),
        (("", "", ""), "."),
    ],
)
def test_paths_are_joined_as_go_does(elements: tuple[str, ...], path: str) -> None:
    """Absolute elements do not replace those before them. `..` is resolved by name, up to the root."""
    assert path == str(files.joined(*elements))


@pytest.mark.parametrize("watch_root", [True, False])
@pytest.mark.parametrize(
    ("subdirectory", "app_directory"),
    [
        ("/ratelimit", "/config"),
        ("ratelimit/", "config/"),
        ("/", "/ratelimit/config"),
        ("x/../ratelimit", "./config"),
    ],
)
def test_redundant_slashes_and_dots_make_no_difference(
    tmp_path: Path, watch_root: bool, subdirectory: str, app_directory: str
) -> None:
    """They do not lead to the root of the machine."""
    write(tmp_path / "ratelimit" / "config" / "a.yaml")
    find = files.runtime(
        str(tmp_path), subdirectory, app_directory, watch_root=watch_root, ignore_dot_files=False
    )
    assert [tmp_path / "ratelimit" / "config" / "a.yaml"] == [found.path for found in find().files]


@pytest.mark.parametrize("watch_root", [True, False])
def test_a_directory_outside_of_the_root_is_read_if_the_variables_lead_there(
    tmp_path: Path, watch_root: bool
) -> None:
    """Go's Join resolves `..`, too."""
    write(tmp_path / "current" / "config" / "no.yaml")
    write(tmp_path / "shared" / "a.yaml")
    find = files.runtime(
        str(tmp_path / "current"), "config", "../../shared", watch_root=watch_root, ignore_dot_files=False
    )
    assert ["a.yaml"] == names(find)


def test_the_root_of_the_machine_is_not_searched_completely(tmp_path: Path) -> None:
    """Only directories that can contain a wanted file are opened. Others may hang, or have no end."""
    write(tmp_path / "config" / "a.yaml")
    write(tmp_path / "config.d" / "b.yaml")
    opened: list[str] = []

    class Seen(files._Search):
        def walk(self, directory: Path, within: tuple[str, ...], above: frozenset[str]) -> None:
            opened.append("/".join(within))
            super().walk(directory, within, above)

    write(tmp_path / "proc" / "1" / "config.yaml")
    search = Seen(("config",), ignore_dot_files=False)
    search.walk(tmp_path, (), frozenset())
    assert ["", "config", "config.d"] == opened
    assert ["config/a.yaml", "config.d/b.yaml"] == [found.name for found in search.found]


@pytest.fixture
def volume() -> Iterator[Path]:
    """A directory with parts that this user may not read. As root, the test changes its user."""
    with tempfile.TemporaryDirectory() as name:
        Path(name).chmod(0o755)
        root = os.geteuid() == 0
        if root:
            os.chown(name, 65_534, 65_534)
            os.seteuid(65_534)
        try:
            yield Path(name)
        finally:
            _open_up(Path(name))
            if root:
                os.seteuid(0)


def _open_up(directory: Path) -> None:
    directory.chmod(0o755)
    for path in directory.iterdir():
        if path.is_dir():
            _open_up(path)


@pytest.mark.parametrize("watch_root", [True, False])
@pytest.mark.parametrize("mode", [0o000, 0o400, 0o100], ids=["nothing", "only-list", "only-pass"])
def test_a_directory_without_permission_is_skipped_with_a_warning(
    volume: Path, watch_root: bool, mode: int
) -> None:
    """`lost+found` of a volume: the rules beside it are loaded, as with upstream."""
    config = write(volume / "ratelimit" / "config" / "a.yaml").parent
    write(config / "lost+found" / "b.yaml").parent.chmod(mode)
    contents = files.read(runtime(volume, watch_root=watch_root))
    assert ([], 1) == (contents.problems, len(contents.documents))
    (warning,) = contents.warnings
    inside = "/b.yaml" if mode == 0o400 else ""
    assert f"{config}/lost+found{inside}: cannot be read: Permission denied; its content is skipped" == str(
        warning
    )


@pytest.mark.parametrize("subdirectory", ["", "ratelimit"])
def test_an_unreadable_directory_next_to_the_rules_does_not_matter(volume: Path, subdirectory: str) -> None:
    """It cannot contain a file whose path begins with RUNTIME_APPDIRECTORY."""
    write(volume / subdirectory / "config" / "a.yaml")
    write(volume / subdirectory / "lost+found" / "b.yaml").parent.chmod(0)
    find = files.runtime(str(volume), subdirectory, "config", watch_root=True, ignore_dot_files=False)
    contents = files.read(find)
    assert ([], 1, ()) == (contents.problems, len(contents.documents), tuple(contents.warnings))


def test_a_directory_that_can_be_traversed_but_not_listed_is_traversed(volume: Path) -> None:
    """Upstream has no rules then. The warning explains why a file beside the directory is missing."""
    write(volume / "ratelimit" / "config" / "a.yaml")
    (volume / "ratelimit").chmod(0o100)
    contents = files.read(runtime(volume))
    assert ([], 1) == (contents.problems, len(contents.documents))
    assert [str(volume / "ratelimit")] == [warning.file for warning in contents.warnings]


@pytest.mark.parametrize("watch_root", [True, False])
def test_the_directory_of_the_rules_must_be_readable(volume: Path, watch_root: bool) -> None:
    """No rules go missing without an error. Becoming readable is a change."""
    config = write(volume / "ratelimit" / "config" / "a.yaml").parent
    config.chmod(0)
    find = runtime(volume, watch_root=watch_root)
    watcher = files.Watcher(find)
    assert [f"{config}: cannot be read: Permission denied"] == list(map(str, files.read(find).problems))
    config.chmod(0o755)
    assert [False, True, False] == [watcher.changed() for _ in range(3)]


def test_a_directory_that_cannot_be_read_for_another_reason_fails_the_load(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lack of file descriptors or a disk error may be temporary, and no rules go missing."""
    write(tmp_path / "ratelimit" / "config" / "team" / "a.yaml")
    scandir = os.scandir

    def short_of_descriptors(path: Path) -> object:
        if Path(path).name == "team":
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE), str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", short_of_descriptors)
    with pytest.raises(InvalidRules, match="team: cannot be read: Too many open files") as raised:
        files.read(runtime(tmp_path))
    assert raised.value.again


@pytest.mark.parametrize("wrong", [errno.EMFILE, errno.EIO, errno.ESTALE], ids=os.strerror)
def test_a_temporary_error_of_a_file_is_retried(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, wrong: int
) -> None:
    """The file does not change when the error is over, so that the watcher would not notice."""
    write(tmp_path / "a.yaml")

    def fails(path: Path) -> bytes:
        raise OSError(wrong, os.strerror(wrong), str(path))

    monkeypatch.setattr(Path, "read_bytes", fails)
    with pytest.raises(InvalidRules) as raised:
        files.read(files.find_in([tmp_path]))
    assert raised.value.again
    assert f"{tmp_path / 'a.yaml'}: cannot be read: {os.strerror(wrong)}" == str(raised.value)


def test_the_name_of_the_reading_thread_is_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """So a log line can name the file that does not answer."""
    write(tmp_path / "a.yaml")
    busy_with: list[str] = []
    read_bytes = Path.read_bytes

    def reads(path: Path) -> bytes:
        busy_with.append(threading.current_thread().name)
        return read_bytes(path)

    monkeypatch.setattr(Path, "read_bytes", reads)
    before = threading.current_thread().name
    files.read(files.find_in([tmp_path]))
    assert ([str(tmp_path / "a.yaml")], before) == (busy_with, threading.current_thread().name)


def test_cyclic_links_are_followed_once(tmp_path: Path) -> None:
    """A directory that links to itself is read once."""
    config = write(tmp_path / "ratelimit" / "config" / "a.yaml").parent
    (config / "again").symlink_to(config)
    assert ["config/a.yaml"] == names(runtime(tmp_path))


def test_all_unreadable_files_are_reported(tmp_path: Path) -> None:
    """One has invalid YAML, and one is a dangling link that appeared after the listing."""
    broken = write(tmp_path / "a.yaml", "domain: [")
    gone = tmp_path / "b.yaml"
    find = lambda: files.Listing([files.FoundFile("a.yaml", broken), files.FoundFile("b.yaml", gone)])  # noqa: E731
    assert ["a.yaml", "b.yaml"] == [problem.file for problem in files.read(find).problems]


def test_a_configuration_without_files_is_an_error(tmp_path: Path) -> None:
    """An empty directory must not remove all rules."""
    empty = files.read(files.find_in([tmp_path]), str(tmp_path))
    assert [f"{tmp_path}: there is no configuration file"] == list(map(str, empty.problems))


def test_a_missing_file_is_reported(tmp_path: Path) -> None:
    """The other files are read, and their problems are reported, too."""
    there, gone = write(tmp_path / "there.yaml"), tmp_path / "gone.yaml"
    contents = files.read(files.find_in([gone, there]))
    assert [str(there)] == [document.file for document in contents.documents]
    assert [f"{gone}: cannot be read: No such file or directory"] == list(map(str, contents.problems))
