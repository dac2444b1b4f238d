"""The licences of everything that is shipped: docs/licences.md, by `make docs`.

A licence that is not in KNOWN is read before it is added: each permits use and redistribution in a program
under Apache-2.0, MPL-2.0 as long as the files under it are not changed.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from importlib.metadata import Distribution, PackageNotFoundError, distribution
from pathlib import Path

TOP = Path(__file__).resolve().parent.parent
LOCK = TOP / "requirements-tracing.lock"
VENDORED = TOP / "ratelimit_service" / "http" / "page" / "vendor" / "vendored.json"
NGHTTP2 = TOP / "tools" / "nghttp2" / "Cargo.toml"

BUILD = ("cython", "setuptools")
"""Packages of the lock file that only build the service."""

NOT_EVERYWHERE = {"async-timeout": "Apache-2.0"}
"""Packages that only some versions of Python need, so that their licence cannot be read everywhere."""

KNOWN = {
    "3-Clause BSD License": "BSD-3-Clause",
    "Apache 2.0": "Apache-2.0",
    "Apache License 2.0": "Apache-2.0",
    "Apache License, Version 2.0": "Apache-2.0",
    "Apache Software License": "Apache-2.0",
    "Apache-2.0": "Apache-2.0",
    "Apache-2.0 AND BSD-2-Clause": "Apache-2.0 AND BSD-2-Clause",
    "BSD-3-Clause": "BSD-3-Clause",
    "MIT": "MIT",
    "MIT License": "MIT",
    "MIT OR Apache-2.0": "MIT OR Apache-2.0",
    "MPL-2.0": "MPL-2.0",
    "Mozilla Public License 2.0 (MPL 2.0)": "MPL-2.0",
    "PSF-2.0": "PSF-2.0",
}
"""How packages name their licences, and the name in SPDX."""

HEAD = """\
# Licences

The licences of everything that the wheels and the image contain. The service itself is under
[Apache-2.0](../LICENSE). `make docs` generates this page, and fails at a licence that is not among those that
were read. `make sbom` writes the Python packages as a list for CycloneDX.

## Inside the package

| what | version | licence | where its text is |
|---|---|---|---|
"""

PYTHON_HEAD = """\
## Python packages

`pip install` gets the ones that `pyproject.toml` names, and what they need; the image has these versions,
including the extra `tracing`. Each has its text, and that of the libraries inside it, in its `*.dist-info`
directory in `site-packages`.

| package | version | licence |
|---|---|---|
"""

DEBIAN = """\
## Debian packages

The image consists of packages of Debian, libnghttp2 and Python among them. `/usr/share/doc/PACKAGE/copyright`
in the image has the licence of each; `dpkg-query --show` lists them with their versions.
"""


def page() -> str:
    """Return the page. Raises LookupError for a package whose licence is not known."""
    inside = "\n".join(f"| {' | '.join(row)} |" for row in _inside())
    python = "\n".join(f"| {' | '.join(row)} |" for row in python_packages())
    return f"{HEAD}{inside}\n\n{PYTHON_HEAD}{python}\n\n{DEBIAN}"


def _inside() -> Iterator[tuple[str, str, str, str]]:
    (version,) = re.findall(r'^version = "[^"+]*\+([^"]*)"', NGHTTP2.read_text("utf-8"), re.MULTILINE)
    where = "`LICENSE.nghttp2` in the `*.dist-info` of the wheel"
    yield "nghttp2, in wheels, linked into the native transport", version, KNOWN["MIT"], where
    vendored = "[vendor](../ratelimit_service/http/page/vendor)"
    for file in json.loads(VENDORED.read_text("utf-8")):
        own = f"{file['package']}, in `{file['file']}` of the [page](page.md)"
        yield own, file["version"], KNOWN[file["licence"]], f"`{file['licence_file']}` in {vendored}"
        for part in file["includes"]:
            name = part["package"]
            where = f"`LICENSE.{name}` in {vendored}"
            yield f"{name}, in the same file", f"that of {file['package']}", KNOWN[part["licence"]], where


def python_packages() -> Iterator[tuple[str, str, str]]:
    """Yield the name, version and licence of each package in the lock file that is shipped."""
    for name, version in re.findall(r"^([A-Za-z0-9_.-]+)==(\S+)", LOCK.read_text("utf-8"), re.MULTILINE):
        if name.lower() not in BUILD:
            yield name, version, NOT_EVERYWHERE.get(name) or _licence(name)


def _licence(name: str) -> str:
    try:
        found = distribution(name)
    except PackageNotFoundError:
        raise LookupError(f"{name} is not installed, so its licence cannot be read") from None
    return licence_of(found)


def licence_of(found: Distribution) -> str:
    """Return the licence of a package: the expression, the field, or the classifiers of its metadata."""
    metadata = found.metadata
    classifiers = [
        text.rpartition(" :: ")[2]
        for text in metadata.get_all("Classifier", [])
        if text.startswith("License ::")
    ]
    expressions = metadata.get_all("License-Expression", [])
    fields = metadata.get_all("License", [])
    # The newest form first. Classifiers may be several, and more exact than the old field, or less.
    for texts in (expressions, classifiers, fields):
        if texts and all(text in KNOWN for text in texts):
            return ", ".join(sorted(KNOWN[text] for text in texts))
    stated = ", ".join(expressions or fields or classifiers)
    raise LookupError(
        f"{metadata['Name']} has the licence {stated!r}: read it, and add it to tools/licences.py"
    )
