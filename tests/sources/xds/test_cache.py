"""The file with the last good set."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import structlog

from ratelimit_service.sources.xds.cache import Cache
from testing.control_plane import limit, resource
from tests.sources.xds.rule_sets import received

SET = received(resource("a", limit("team", 5)), resource("b/c", limit("user", 7)))


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    made = Cache(tmp_path / "deep" / "down", "envoy-gateway:18001", "envoy-ratelimit")
    made.save(SET.groups, 1_795_000_000.5)
    return made


def test_a_saved_set_is_loaded_unchanged(cache: Cache) -> None:
    """Its time is kept too. A missing directory is created."""
    kept = cache.load()
    assert kept is not None
    assert (SET.digest, 1_795_000_000.5) == (kept.received.digest, kept.taken_at)
    assert {name: group.digest for name, group in SET.groups.items()} == {
        name: group.digest for name, group in kept.received.groups.items()
    }


def test_a_save_replaces_the_set_in_one_step(cache: Cache) -> None:
    """No other file is left in the directory, and only the user of the service may read the set."""
    other = received(resource("z", limit("team", 1)))
    cache.save(other.groups, 2.0)
    kept = cache.load()
    assert kept is not None and other.digest == kept.received.digest
    assert [cache.path] == list(cache.path.parent.iterdir())
    assert 0o600 == cache.path.stat().st_mode & 0o777


def test_a_set_of_megabytes_is_loaded_unchanged(cache: Cache) -> None:
    """It is copied in pieces."""
    big = received(*(resource(f"d{place}", {"key": "k" * 2**20}) for place in range(3)), resource("e"))
    cache.save(big.groups, 1.0)
    kept = cache.load()
    assert kept is not None and big.digest == kept.received.digest


@pytest.mark.parametrize(
    "damage",
    [
        lambda data: data[:-1],
        lambda data: data[:40],
        lambda data: b"",
        lambda data: b"{}\n" + data,
        lambda data: b"[1]\n",
        lambda data: data.replace(b"team", b"taem"),
        lambda data: data.replace(b"xds 1", b"xds 2"),
    ],
    ids=["cut", "cut in the head", "empty", "another head", "a list", "a byte", "another format"],
)
def test_a_damaged_file_is_ignored_with_a_warning(cache: Cache, damage: Any) -> None:
    """The control plane sends its set anyway."""
    cache.path.write_bytes(damage(cache.path.read_bytes()))
    with structlog.testing.capture_logs() as logged:
        assert cache.load() is None
    assert [("warning", str(cache.path))] == [(line["log_level"], line["file"]) for line in logged]


def test_the_file_of_another_control_plane_or_node_is_ignored(cache: Cache, tmp_path: Path) -> None:
    """A set for another node may have other rules."""
    other = Cache(cache.path.parent, "envoy-gateway:18001", "another-node")
    with structlog.testing.capture_logs() as logged:
        assert (cache.path, None) == (other.path, other.load())
    assert ["belongs to another control plane, node or version"] == [line["error"] for line in logged]
    with structlog.testing.capture_logs() as logged:
        assert Cache(tmp_path, "ai", "node").load() is None
    assert [] == logged


def test_similar_names_have_separate_files(tmp_path: Path) -> None:
    """A name may contain characters that a file name cannot."""
    names = ["a:1", "a_1", "unix:/a/../b", "x" * 300]
    paths = {Cache(tmp_path, name, "n").path for name in names}
    assert (4, {tmp_path}) == (len(paths), {path.parent for path in paths})
