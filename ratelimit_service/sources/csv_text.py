"""From CSV to rows with their line numbers: limits as data (core/rules/data.py interprets them)."""

from __future__ import annotations

import csv

from ..core.errors import InvalidRules, Problem
from ..core.rules.document import Document, Row

SUFFIX = ".csv"


def read(file: str, text: bytes) -> Document:
    """Return the rows of a file, without empty lines and those that begin with `#`. Raises InvalidRules.

    Bytes that are not UTF-8 are kept: a value of a descriptor may have any bytes.
    """
    lines = text.decode("utf-8-sig", "surrogateescape").splitlines(keepends=True)
    rows: list[Row] = []
    reader = csv.reader(_with_ends(lines), strict=True)
    before = 0
    try:
        for fields in reader:
            first, before = before + 1, reader.line_num
            if any(fields) and not fields[0].startswith("#"):
                rows.append(Row(first, tuple([field.strip() for field in fields])))
    except csv.Error as error:
        message = (
            f"is not CSV: {error}: a field with a comma or a quote stands in double quotes, "
            "and a quote in it twice"
        )
        raise InvalidRules([Problem(file, reader.line_num, "", message)]) from None
    return Document(file, None, rows=tuple(rows))


def _with_ends(lines: list[str]) -> list[str]:
    """Comments may have any quotes, which the parser must not see."""
    return ["#\n" if line.startswith("#") else line for line in lines]
