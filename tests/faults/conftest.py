"""Writes down what the faults came to, where FAULT_REPORT says into which file: `make faults`."""

from __future__ import annotations

import os
from pathlib import Path

from testing.ledger import REPORT, table


def pytest_sessionfinish() -> None:
    """Replace what stands between the two marks of the page by the table of this session."""
    page = os.environ.get("FAULT_REPORT")
    if not page or not REPORT:
        return
    path = Path(page)
    begin, end = "<!-- measured by `make faults` -->\n", "<!-- end -->"
    before, _, rest = path.read_text().partition(begin)
    path.write_text(f"{before}{begin}\n{table(REPORT)}\n\n{end}{rest.partition(end)[2]}")
