"""What the fuzzer begins with: real traffic, each played in several ways.

python -m tests.fuzz.seeds DIRECTORY
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from .native import Way, spell, traffic

WAYS = (
    Way(0),
    Way(1) | Way.HELD,
    Way(2) | Way.FAILING,
    Way(3) | Way.LEAVING,
    Way(0) | Way.DEAF | Way.GONE,
    Way(0) | Way.HELD | Way.GONE | Way.LEAVING,
)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Inputs, and a name for each."""
    for name, sent in traffic().items():
        for way in WAYS:
            yield f"{name}-{way.value}", bytes((way,)) + sent
            yield f"{name}-{way.value}-spelt", bytes((way | Way.SPELT,)) + spell(sent)


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds():
        (directory / name).write_bytes(seed)
