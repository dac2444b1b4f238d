"""deploy/helm as objects: the chart as the real helm renders it."""

from __future__ import annotations

import functools
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import yaml

from testing.service import REPOSITORY, CommandResult

from .kustomize import OLDEST, Objects

CHART = REPOSITORY / "deploy" / "helm" / "ratelimit-service"
EXAMPLES = {file.stem: file for file in sorted((CHART / "examples").glob("*.yaml"))}
README = CHART.parent / "README.md"
RELEASE = "ratelimit"


def helm(*arguments: str | Path) -> CommandResult:
    """Run `helm ARGUMENTS` to its end. Skips the test without helm."""
    done = subprocess.run(
        [_command(), *map(str, arguments)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        encoding="utf-8",
        check=False,
    )
    # A checkout has links to what the chart shares with other folders, and a packaged chart has the files.
    err = "".join(line for line in done.stderr.splitlines(True) if "found symbolic link in path" not in line)
    return CommandResult(done.returncode, done.stdout, err)


@functools.cache
def _command() -> str:
    built = REPOSITORY / "build" / "helm"
    found = str(built) if built.exists() else shutil.which("helm")
    if found is None:
        pytest.skip("there is no helm: `make test` builds one where go is installed")
    return found


def templated(
    *values: Path,
    chart: Path = CHART,
    release: str = RELEASE,
    version: str = OLDEST,
    options: Sequence[str] = (),
) -> CommandResult:
    """Return the output of `helm template` for a release in the namespace `ratelimit`."""
    files = [word for file in values for word in ("--values", file)]
    return helm(
        *("template", release, chart, "--namespace", "ratelimit", "--kube-version", version), *files, *options
    )


def parsed(text: str) -> Objects:
    """Return the objects in the output of `helm template`."""
    return Objects([each for each in yaml.safe_load_all(text) if each])


@functools.cache
def objects(*examples: str, release: str = RELEASE, version: str = OLDEST) -> Objects:
    """Return the objects of the chart with the values of examples."""
    done = templated(*(EXAMPLES[name] for name in examples), release=release, version=version)
    assert (0, "") == (done.code, done.err)
    return parsed(done.out)


def written(values: Any, directory: Path) -> Path:
    """Write these values to a file, and return its path."""
    file = directory / "values.yaml"
    file.write_text(yaml.safe_dump(values))
    return file
