"""docs/licences.md lists everything that is shipped, with a licence that was read."""

from __future__ import annotations

import re
from email.message import Message
from importlib.metadata import Distribution, distribution
from typing import Any, cast

import pytest

from tools.licences import BUILD, licence_of, page, python_packages

from .documents import ROOT


class Named(Distribution):
    """A package with this metadata."""

    def __init__(self, *fields: tuple[str, str]) -> None:
        self._fields = fields

    @property
    def metadata(self) -> Any:
        made = Message()
        for field in (("Name", "x"), *self._fields):
            made.add_header(*field)
        return made

    read_text = locate_file = cast(Any, None)


def test_every_locked_package_but_those_of_the_build_is_listed() -> None:
    lock = (ROOT / "requirements-tracing.lock").read_text()
    locked = set(re.findall(r"^([A-Za-z0-9_.-]+)==", lock, re.MULTILINE))
    assert locked - {name for name, _, _ in python_packages()} <= set(BUILD)
    assert {"grpcio", "opentelemetry-sdk"} <= {name for name, _, _ in python_packages()}


def test_vendored_scripts_and_nghttp2_are_listed() -> None:
    """Each file of a licence beside the scripts is named."""
    vendor = ROOT / "ratelimit_service" / "http" / "page" / "vendor"
    texts = sorted(path.name for path in vendor.glob("LICENSE.*"))
    assert ["LICENSE.htm", "LICENSE.preact"] == texts
    assert [] == [name for name in (*texts, "LICENSE.nghttp2") if f"`{name}`" not in page()]


def test_every_listed_package_has_the_text_of_its_licence() -> None:
    """The page says that it is in the `*.dist-info` directory."""
    for name, _, _ in python_packages():
        if name != "async-timeout":  # not for every Python
            files = [str(path) for path in distribution(name).files or ()]
            found = [
                file
                for file in files
                if re.search(r"\.dist-info/.*(licen[sc]e|copying)", file, re.IGNORECASE)
            ]
            assert found, name


def test_a_licence_is_that_of_the_expression_the_classifiers_or_the_field() -> None:
    both = [
        ("Classifier", f"License :: OSI Approved :: {name}")
        for name in ("MIT License", "Apache Software License")
    ]
    assert "Apache-2.0, MIT" == licence_of(Named(("License", "MIT License"), *both))
    vague = ("Classifier", "License :: OSI Approved :: BSD License")
    assert "BSD-3-Clause" == licence_of(Named(vague, ("License", "BSD-3-Clause")))
    assert "MIT" == licence_of(Named(("License-Expression", "MIT"), vague))


def test_a_licence_that_was_not_read_is_refused() -> None:
    with pytest.raises(LookupError, match=r"x has the licence 'GPL-3[.]0-only': read it"):
        licence_of(Named(("License-Expression", "GPL-3.0-only")))
    with pytest.raises(LookupError, match="GNU"):
        licence_of(
            Named(("Classifier", "License :: GNU"), ("Classifier", "License :: OSI Approved :: MIT License"))
        )
