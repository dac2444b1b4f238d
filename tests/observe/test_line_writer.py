"""A thread writes lines to a reader that may be slow, or have gone."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from ratelimit_service.observe.line_writer import LineWriter, to_descriptor, to_stdout
from testing.waiting import PATIENCE


class Reader:
    """Takes the written data when `ready` is set; `asked` is set at the first write."""

    def __init__(self) -> None:
        self.ready, self.asked = threading.Event(), threading.Event()
        self.read: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.asked.set()
        assert self.ready.wait(PATIENCE)
        self.read.append(data)


@pytest.fixture
def reader() -> Iterator[Reader]:
    """A reader that is not ready until the end of the test, when it lets the thread finish."""
    reader = Reader()
    yield reader
    reader.ready.set()


def test_lines_arrive_in_their_order(reader: Reader) -> None:
    """All waiting lines are written together."""
    writer = LineWriter(reader.write)
    reader.ready.set()
    writer.put([b"1\n", b"2\n"])
    writer.put([b"3\n"])
    writer.start()
    writer.close(PATIENCE)
    assert ([b"1\n2\n3\n"], 0) == (reader.read, writer.dropped)


def test_lines_that_do_not_fit_are_dropped_whole(reader: Reader) -> None:
    """Half a request would be misleading; later lines that fit are accepted."""
    writer = LineWriter(reader.write, most_lines=3, most_bytes=100)
    for lines in ([b"1\n", b"2\n"], [b"3\n", b"4\n"], [b"5\n"], [b"6\n"]):
        writer.put(lines)
    reader.ready.set()
    writer.start()
    writer.close(PATIENCE)
    assert ([b"1\n2\n5\n"], 3) == (reader.read, writer.dropped)


def test_bytes_are_bounded_too(reader: Reader) -> None:
    """Strangers determine the length of a line."""
    writer = LineWriter(reader.write, most_lines=100, most_bytes=10)
    for line in (b"123456789\n", b"\n"):
        writer.put([line])
    assert 1 == writer.dropped


def test_a_stuck_reader_delays_no_call_and_takes_bounded_memory(reader: Reader) -> None:
    """Data that is being written counts as held; when the reader continues, there is room again."""
    writer = LineWriter(reader.write, most_lines=2)
    writer.start()
    writer.put([b"1\n"])
    assert reader.asked.wait(PATIENCE)
    for line in (b"2\n", b"3\n", b"4\n"):
        writer.put([line])
    assert 2 == writer.dropped
    writer.close(0)  # does not wait for the reader either
    assert [] == reader.read
    reader.ready.set()
    writer.close(PATIENCE)
    assert [b"1\n", b"2\n"] == reader.read


def test_there_is_room_again_when_lines_have_been_written() -> None:
    """The bound is on the held lines, not on the total."""
    written = threading.Semaphore(0)
    read: list[bytes] = []

    def write(data: bytes) -> None:
        read.append(data)
        written.release()

    writer = LineWriter(write, most_lines=2, most_bytes=8)
    writer.start()
    for number in range(20):
        writer.put([b"%d\n" % number])
        assert written.acquire(timeout=PATIENCE)  # of these, at most one is still held
    writer.close(PATIENCE)
    assert ([b"%d\n" % number for number in range(20)], 0) == (read, writer.dropped)


def test_unwritable_lines_are_counted_and_later_ones_are_written() -> None:
    """The first of consecutive failures is reported, and when lines are written again, the number of lost
    ones.
    """
    outcomes = [True, False, False, True, False]
    tried = threading.Semaphore(0)
    read: list[bytes] = []

    def write(data: bytes) -> None:
        works = outcomes.pop(0)
        tried.release()
        if not works:
            raise OSError(f"broken pipe, {len(outcomes)} to go")
        read.append(data)

    notices: list[str | int] = []
    writer = LineWriter(write, failed=lambda error: notices.append(str(error)), caught_up=notices.append)
    writer.start()
    for line in (b"1\n", b"2\n", b"3\n", b"4\n", b"5\n"):
        writer.put([line])
        assert tried.acquire(timeout=PATIENCE)
    writer.close(PATIENCE)
    assert ([b"1\n", b"4\n"], 3) == (read, writer.dropped)
    assert ["broken pipe, 3 to go", 2, "broken pipe, 0 to go"] == notices


def test_whatever_goes_wrong_while_writing_the_thread_goes_on() -> None:
    """If the thread ended, every further line would be dropped silently."""
    outcomes = [True, False]
    read: list[bytes] = []

    def write(data: bytes) -> None:
        if outcomes.pop():
            read.append(data)
        else:
            raise ValueError("a mistake")

    tried = threading.Event()
    writer = LineWriter(write, failed=lambda error: tried.set())
    writer.start()
    writer.put([b"1\n"])
    assert tried.wait(PATIENCE)
    writer.put([b"2\n"])
    writer.close(PATIENCE)
    assert ([b"2\n"], 1) == (read, writer.dropped)


def test_two_writers_to_one_pipe_do_not_interrupt_each_other() -> None:
    """With `2>&1`, a line of the log never interrupts one of the decision log, even if the pipe is full."""
    read_end, write_end = os.pipe()
    other_end = os.dup(write_end)
    lines = b"".join(b"%d:%s\n" % (number, b"x" * 2_000) for number in range(100))
    writing = [threading.Thread(target=to_descriptor(end), args=(lines,)) for end in (write_end, other_end)]
    for thread in writing:
        thread.start()
    read = b""
    while len(read) < 2 * len(lines):
        read += os.read(read_end, 1_000)
    for thread in writing:
        thread.join(PATIENCE)
    for end in (read_end, write_end, other_end):
        os.close(end)
    assert lines + lines == read


def test_writers_in_several_processes_do_not_interrupt_each_other() -> None:
    """Workers write to one pipe, in pieces if its reader is slow, and each line stays whole."""
    ours, theirs = os.pipe()
    lock = os.memfd_create("lock")
    write = (
        "import sys; from ratelimit_service.observe import line_writer as lines; "
        f"lines.lock_between_processes({lock}); "
        f"write = lines.to_descriptor({theirs}); "
        "[write(sys.argv[1].encode() * 50_000 + b'\\n') for _ in range(20)]"
    )
    writers = [
        subprocess.Popen([sys.executable, "-c", write, name], pass_fds=(theirs, lock)) for name in "abc"
    ]
    os.close(theirs)
    with os.fdopen(ours) as reader:
        read = [line.rstrip("\n") for line in reader]
    assert [0, 0, 0] == [writer.wait() for writer in writers]
    os.close(lock)
    assert sorted(name * 50_000 for name in "abc" for _ in range(20)) == sorted(read)


def test_nothing_is_taken_after_the_end(reader: Reader) -> None:
    """Later lines could not be written."""
    writer = LineWriter(reader.write)
    reader.ready.set()
    writer.start()
    writer.close(PATIENCE)
    writer.put([b"1\n"])
    assert ([], 1) == (reader.read, writer.dropped)


def test_a_writer_that_was_never_started_can_be_closed(reader: Reader) -> None:
    """The service may fail to start."""
    writer = LineWriter(reader.write)
    writer.close(PATIENCE)
    assert [] == reader.read


def test_a_pipe_that_does_not_block_gets_everything() -> None:
    """Another process that shares stdout may have made it non-blocking; the rest of a write waits."""
    read_end, write_end = os.pipe()
    os.set_blocking(write_end, False)
    data = b"x" * 1_000_000
    writing = threading.Thread(target=to_descriptor(write_end), args=(data,))
    writing.start()
    read = b""
    while len(read) < len(data):
        read += os.read(read_end, 65_536)
    writing.join(PATIENCE)
    os.close(read_end)
    os.close(write_end)
    assert data == read


def test_a_pipe_without_a_reader_is_an_error_and_not_the_end() -> None:
    """Python ignores SIGPIPE."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with pytest.raises(BrokenPipeError):
        to_descriptor(write_end)(b"x")
    os.close(write_end)


def test_a_process_without_stdout_writes_nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its descriptor 1 may be a connection to Redis."""
    monkeypatch.setattr(sys, "stdout", None)
    with pytest.raises(OSError, match="the process has no standard output"):
        to_stdout()(b"x")
