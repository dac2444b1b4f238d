"""Environments as `pip install` makes them, without an index: the packages are those of this environment."""

from __future__ import annotations

import subprocess
import sys
import sysconfig
from collections.abc import Iterable
from importlib.metadata import Distribution, distribution
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

PIP = (sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check")


def required(requirements: Iterable[str]) -> dict[str, Distribution]:
    """Return the distributions that these requirements and theirs need here, by name, each as it is in this
    environment.
    """
    found: dict[str, Distribution] = {}
    seen: set[tuple[str, str]] = set()
    waiting = [(Requirement(each), "") for each in requirements]
    while waiting:
        requirement, extra = waiting.pop()
        if requirement.marker is not None and not requirement.marker.evaluate({"extra": extra}):
            continue
        name = canonicalize_name(requirement.name)
        for wanted in ("", *requirement.extras):
            if (name, wanted) not in seen:
                seen.add((name, wanted))
                found[name] = distribution(name)
                waiting += [(Requirement(each), wanted) for each in found[name].requires or ()]
    return found


def environment(place: Path, requirements: Iterable[str]) -> Path:
    """Make an environment with what these requirements need, and nothing else. Return its interpreter."""
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    (packages,) = place.glob("lib/python*/site-packages")
    here = Path(sysconfig.get_path("purelib"))
    for each in required(requirements).values():
        for file in each.files or ():
            if ".." not in file.parts and "__pycache__" not in file.parts:
                link = packages / file
                link.parent.mkdir(parents=True, exist_ok=True)
                link.symlink_to(here / file)
    return place / "bin" / "python"


def install(python: Path, package: Path, *options: str, **variables: str) -> None:
    """Install a package from its file alone. pip fails if a requirement of it is not in the environment."""
    command = (*PIP, "--python", str(python), "install", "--no-index", *options, str(package))
    done = subprocess.run(command, env=variables or None, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    checked = subprocess.run(
        (*PIP, "--python", str(python), "check"), capture_output=True, text=True, check=False
    )
    assert 0 == checked.returncode, checked.stdout


IMPORT_ALL = """
import importlib, pkgutil
import ratelimit_service
for module in pkgutil.walk_packages(ratelimit_service.__path__, "ratelimit_service."):
    if not module.name.endswith("__main__"):
        try:
            importlib.import_module(module.name)
        except ImportError as error:
            print(module.name, error.name)
"""


def missing(python: Path) -> dict[str, str]:
    """Return, for each module of the service that cannot be imported, the module that it lacks."""
    done = subprocess.run([python, "-P", "-c", IMPORT_ALL], capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stderr
    return dict(line.split(" ", 1) for line in done.stdout.splitlines())
