"""What the fuzzer begins with: real traffic, each played in several ways.

python -m tests.fuzz.seeds DIRECTORY
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

from .native import Way, floods, spell, traffic

WAYS = (
    Way(0),
    Way(1) | Way.HELD,
    Way(2) | Way.FAILING,
    Way(3) | Way.LEAVING,
    Way(0) | Way.DEAF | Way.GONE,
    Way(0) | Way.HELD | Way.GONE | Way.LEAVING,
)
FLOODED = (
    Way(0),
    Way.HELD | Way.BUSY,
    Way(3) | Way.SLOW,
    Way.SCARCE,
    Way.SCARCE | Way.BUSY | Way.GONE | Way.HELD,
    Way.DEAF,
)


def seeds() -> Iterator[tuple[str, bytes]]:
    """Inputs, and a name for each."""
    for name, sent in traffic().items():
        for way in WAYS:
            yield f"{name}-{way.value}", way.to_bytes(2, "little") + sent
            yield f"{name}-{way.value}-spelt", (way | Way.SPELT).to_bytes(2, "little") + spell(sent)
    for name, records in floods().items():
        for way in FLOODED:
            yield f"{name}-{way.value}", (way | Way.SPELT).to_bytes(2, "little") + records


if __name__ == "__main__":
    directory = Path(sys.argv[1])
    directory.mkdir(parents=True, exist_ok=True)
    for name, seed in seeds():
        (directory / name).write_bytes(seed)
