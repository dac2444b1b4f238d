"""The measurement of the mirror: a short one, of which only the form is looked at."""

from __future__ import annotations

import re
import subprocess
import sys

from testing.service import REPOSITORY, inherited


def test_the_mirror_is_measured() -> None:
    """The measurement itself fails if the mirror has not compared every call, or has found a difference."""
    done = subprocess.run(
        [sys.executable, "-m", "bench.mirror", "--calls=100", "--pause=0"],
        cwd=REPOSITORY,
        env=inherited(),
        capture_output=True,
        text=True,
        timeout=240,
        check=False,
    )
    assert (0, "") == (done.returncode, done.stderr)
    for name in ("direct", "through", "added"):
        assert re.search(rf"^{name}( +-?\d+\.\d\d){{4}}$", done.stdout, re.MULTILINE)
    for name in ("the tee", "the comparison", "the service behind it"):
        assert re.search(rf"^{name}: \d+\.\d\d$", done.stdout, re.MULTILINE)
