"""Snapshot files that cannot be used, and paths where none can be written."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ratelimit_service.core.errors import StartError
from ratelimit_service.stores.snapshot import KeptMemoryStore, Unusable, read

from .snapshot_store import DBA, LONG, NOW, SnapshotStore, charge, sealed

HEADER = "ratelimit-service counters 2\n"
GOOD = sealed(f"{HEADER}{DBA}\t40\t2871\n", 1)

UNUSABLE = [
    ("empty", b"", "is not a snapshot of counters"),
    ("something else", b"hello\n", "is not a snapshot of counters"),
    (
        "of another version",
        GOOD.replace(b"counters 2", b"counters 4"),
        "is of version 4, and this is a service that reads version 3",
    ),
    ("of which only the beginning is there", HEADER.encode(), "is cut off: its last line is not there"),
    ("cut off in a line", GOOD[:50], "is cut off: its last line is not there"),
    ("cut off in the last line", GOOD[:-1], "is cut off: its last line is not there"),
    (
        "with a bit that has turned over",
        GOOD.replace(b"\t40\t", b"\t41\t"),
        "is damaged: its checksum is not that of what is in it",
    ),
    ("with too few counters", sealed(HEADER, 1), "is damaged: it has 0 counters in place of 1"),
    (
        "with a counter below 0",
        sealed(f"{HEADER}k\t-1\t2\n", 1),
        "is damaged: a counter has a value that no counter can have",
    ),
    (
        "with a line of another form",
        sealed(f"{HEADER}k\t1\n", 1),
        "is damaged: not enough values to unpack (expected 3, got 2)",
    ),
]


@pytest.mark.parametrize(("data", "reason"), [row[1:] for row in UNUSABLE], ids=[row[0] for row in UNUSABLE])
async def test_a_file_that_cannot_be_used_is_set_aside(kept: SnapshotStore, data: bytes, reason: str) -> None:
    """It is renamed, a log line has the reason, and the process starts with no counts."""
    kept.path.write_bytes(data)
    with capture_logs() as logged:
        store = await kept.start()
    aside = f"{kept.path}.unusable-{int(NOW)}"
    assert [
        {
            "event": f"the snapshot {reason}: it is set aside, and all counters begin at 0",
            "log_level": "error",
            "path": str(kept.path),
            "set_aside": aside,
        }
    ] == logged
    assert (0, data) == (len(store), kept.path.with_name(Path(aside).name).read_bytes())
    charge(store, DBA, 1)
    assert 1 == charge(await kept.restart(), DBA, 0)


@given(st.data())
def test_all_damage_is_detected(tmp_path_factory: pytest.TempPathFactory, data: st.DataObject) -> None:
    """Any changed byte, and any truncation."""
    path = tmp_path_factory.getbasetemp() / "damaged-counters"
    place = data.draw(st.integers(0, len(GOOD) - 1))
    other = data.draw(st.integers(0, 255).filter(lambda byte: byte != GOOD[place]))
    path.write_bytes(
        data.draw(st.sampled_from([GOOD[:place], GOOD[:place] + bytes([other]) + GOOD[place + 1 :]]))
    )
    with pytest.raises(Unusable):
        read(path)


async def test_a_path_that_is_not_writable_stops_the_start(tmp_path: Path) -> None:
    """One line reports it, with a correction."""
    path = tmp_path / "missing" / "counters"
    store = KeptMemoryStore(lambda: NOW, path, LONG)
    with pytest.raises(StartError) as error:
        await store.start()
    await store.close()
    assert (
        f"MEMORY_SNAPSHOT_PATH: counters cannot be kept in {path}: No such file or directory: "
        "give a file in a directory in which this user may create files"
    ) == str(error.value)


async def test_a_directory_in_place_of_the_file_is_left_alone(tmp_path: Path) -> None:
    """It is not renamed: the operator has probably mistyped the path."""
    with pytest.raises(StartError, match="Is a directory: give a file"):
        await KeptMemoryStore(lambda: NOW, tmp_path, LONG).start()


async def test_two_processes_do_not_share_a_file(kept: SnapshotStore) -> None:
    """Each would overwrite the counts of the other.

    The second process fails to start, and the first continues.
    """
    store = await kept.start()
    charge(store, DBA, 1)
    with pytest.raises(StartError) as error:
        await kept.start()
    assert (
        f"MEMORY_SNAPSHOT_PATH: another process keeps its counters in {kept.path}: give each a file of its "
        "own"
    ) == str(error.value)
    await store.close()
    assert {DBA: 1} == kept.on_disk
