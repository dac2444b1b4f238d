"""Generate ratelimit_service/proto from proto/*.proto. With --check, only report whether it is current."""

from __future__ import annotations

import filecmp
import shutil
import sys
import tempfile
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).resolve().parent.parent
TARGET = ROOT / "ratelimit_service" / "proto"
NAMES = ("ratelimit", "xds")
GENERATED = [file for name in NAMES for file in (f"{name}.binpb", f"{name}_pb2.pyi")]

POOL = """
# The module has this beside the messages.
from google.protobuf import descriptor_pool as _descriptor_pool

POOL: _descriptor_pool.DescriptorPool
"""


def generate(out: Path) -> None:
    """Write each descriptor set and its type stub into `out`. Raises RuntimeError if protoc fails."""
    include = protoc.__file__.removesuffix("protoc.py") + "_proto"
    for name in NAMES:
        code = protoc.main(
            [
                "protoc",
                f"-I{ROOT / 'proto'}",
                f"-I{include}",
                "--include_imports",
                f"--descriptor_set_out={out / name}.binpb",
                f"--pyi_out={out}",
                f"{name}.proto",
            ]
        )
        if code != 0:
            raise RuntimeError(f"protoc ended with {code}")
        with (out / f"{name}_pb2.pyi").open("a") as stub:
            stub.write(POOL)


def main() -> int:
    """Generate or check, and return the exit code."""
    check = "--check" in sys.argv[1:]
    with tempfile.TemporaryDirectory() as scratch:
        out = Path(scratch)
        generate(out)
        stale = [name for name in GENERATED if not _same(out / name, TARGET / name)]
        if check:
            for name in stale:
                print(f"{TARGET.relative_to(ROOT) / name} is not current: run `make proto`")
            return 1 if stale else 0
        for name in stale:
            shutil.copy(out / name, TARGET / name)
            print(f"wrote {TARGET.relative_to(ROOT) / name}")
    return 0


def _same(a: Path, b: Path) -> bool:
    return b.exists() and filecmp.cmp(a, b, shallow=False)


if __name__ == "__main__":
    sys.exit(main())
