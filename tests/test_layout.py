"""The allowed imports between packages: they point towards core/ and ports.py, and a table has all of
them.
"""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

PACKAGE = "ratelimit_service"
ROOT = Path(__file__).parents[1]
LONGEST = 400
"""Lines of a module: a longer one has a second subject, which wants a module of its own."""

ALLOWED = {
    "core": {},
    "runtime": {},
    "proto": {},
    "settings": {
        "core": "its errors are of the one tree of errors",
    },
    "ports": {
        "core": "the ports speak the nouns of the core",
    },
    "deadlines": {},
    "version": {},
    "listening": {
        "core": "its errors are of the one tree of errors",
        "runtime": "the lock that says which process owns the path of a socket, and the states of files",
    },
    "amending": {
        "core": "amendments, and the rules whose limits they change",
        "loading": "takes over thousands in slices",
        "ports": "the store that they are in",
    },
    "events": {
        "core": "rules, amendments and errors",
        "ports": "the store that events wait in",
        "runtime": "supervised tasks",
    },
    "inspection": {
        "core": "budgets, and the rules and amendments that make them",
        "loading": "sorts and joins thousands in slices",
        "ports": "the store whose counters are listed",
        "runtime": "reports of unexpected exceptions",
    },
    "service": {
        "core": "plan and decide",
        "deadlines": "answers calls that are due",
        "ports": "the store and the observer that it is given",
        "runtime": "reports of unexpected exceptions",
    },
    "loading": {
        "runtime": "a thread for files that do not answer",
        "core": "data to rules; what another process reads them with comes with the task, by name",
        "ports": "the changes that sources hand over",
        "service": "gets the rules that were loaded",
    },
    "stores": {
        "runtime": "background tasks, reports of exceptions, and the lock of a file",
        "core": "hits and errors",
        "ports": "what a store is",
    },
    "sources": {
        "core": "files to data, and their problems",
        "ports": "what takes the rules of a control plane",
        "proto": "what a control plane sends",
    },
    "observe": {
        "core": "what is observed: plans, decisions, rules",
        "ports": "the store, where replicas agree on who tells of a threshold",
        "version": "is a label of a metric",
    },
    "tracing": {
        "core": "what spans say of requests and decisions",
        "observe": "the names of rules, and samples of metrics",
        "ports": "the store whose calls are noted",
        "service": "notes its answers",
        "settings": "where spans go, and how many there are",
        "stores": "notes the calls of scripts, as a layer",
        "version": "is an attribute of the resource",
    },
    "workers": {
        "core": "its errors are of the one tree of errors",
        "loading": "reads rules, and passes their pieces on",
        "observe": "joins the metrics of all workers",
        "runtime": "the health of a worker, threads, and reports of exceptions",
    },
    "transports": {
        "core": "requests and decisions",
        "service": "answers the calls",
        "proto": "what stands on the wire",
        "runtime": "the health that grpc.health.v1 reports, and reports of exceptions",
        "listening": "addresses, the paths of sockets, and certificates",
    },
    "api": {
        "amending": "shows and changes amendments",
        "core": "amendments, rules and errors",
        "http": "requests and responses",
        "ports": "the clock",
        "loading": "long lists in slices",
        "inspection": "budgets and what is used of them",
        "runtime": "the health that it shows, reports of exceptions, and a thread for files that do not "
        "answer",
        "settings": "what a usable token is",
        "version": "is part of the status and of the description",
    },
    "http": {
        "core": "requests and decisions",
        "listening": "addresses and certificates",
        "service": "answers /json",
        "runtime": "the health that /healthcheck reports, and reports of exceptions",
        "proto": "/json speaks the protocol's own JSON",
    },
}
"""For each room (a package or module of ours) the rooms that it may import, each with the reason."""

WIRING: dict[str, set[str]] = {
    "assembly": set(),
    "app": {"assembly"},
    "cli": {"app", "assembly"},
    "__main__": {"cli"},
}
"""These make the others and put them together, and may import any of them, and of each other those named
here. No other room imports them.
"""

IN_STORES = {
    "stores": set(),
    "stores.layers": {"stores"},
    "stores.redis": {"stores"},
}
"""The packages of the room `stores`, and those of the same room that each imports. The nouns that layers and
Redis share are in stores/ itself (batch.py, lanes.py). So a layer works above any backend, and Redis below
any layer.
"""

NOT_IN_CORE = {
    "asyncio",
    "http",
    "io",
    "logging",
    "os",
    "random",
    "secrets",
    "socket",
    "subprocess",
    "threading",
    "time",
    "urllib",
    "uuid",
}
"""The standard library's clocks, dice and ways to the outside: what the core needs of these arrives as an
argument."""


class Module(NamedTuple):
    """A parsed module of the package. `name` is "ratelimit_service.core.model"."""

    name: str
    path: Path
    tree: ast.Module

    @property
    def room(self) -> str:
        """Return the package or module directly in ratelimit_service that contains it; "" for the package
        itself.
        """
        return room_of(self.name)

    def imports(self) -> Iterator[str]:
        """Return the full names of its imports, anywhere in the file: "typing.Any",
        "ratelimit_service.core.model.Hit".
        """
        package = self.name if self.path.name == "__init__.py" else self.name.rpartition(".")[0]
        for node in ast.walk(self.tree):
            if isinstance(node, ast.Import):
                yield from (alias.name for alias in node.names)
            elif isinstance(node, ast.ImportFrom):
                above = package.split(".")[: len(package.split(".")) + 1 - node.level] if node.level else []
                base = ".".join([*above, *filter(None, [node.module])])
                yield from (f"{base}.{alias.name}" for alias in node.names)


def room_of(name: str) -> str:
    """Return "core" for ratelimit_service.core.model.Hit."""
    return name.split(".")[1] if "." in name else ""


def module(path: Path) -> Module:
    """Parse the module in a file."""
    name = ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
    return Module(name, path, ast.parse(path.read_bytes()))


MODULES = [module(path) for path in sorted((ROOT / PACKAGE).rglob("*.py"))]

each_module = pytest.mark.parametrize("module", MODULES, ids=lambda module: module.name)
each_core_module = pytest.mark.parametrize(
    "module", [module for module in MODULES if module.room == "core"], ids=lambda module: module.name
)


def arrows(module: Module) -> set[str]:
    """Return the other rooms that it imports from."""
    return {room_of(name) for name in module.imports() if name.startswith(f"{PACKAGE}.")} - {module.room}


@each_module
def test_a_module_imports_only_what_its_room_may(module: Module) -> None:
    """An import that is not in ALLOWED is a mistake, or a decision that needs a reason."""
    if module.room in WIRING:
        allowed = set(ALLOWED) | WIRING[module.room]
    else:
        allowed = set(ALLOWED.get(module.room, {}))
    assert set() == arrows(module) - allowed


def test_the_table_has_every_room_and_every_arrow_that_there_is() -> None:
    """It has no others, so ALLOWED shows the structure of the program."""
    rooms = {module.room for module in MODULES} - {""} - WIRING.keys()
    drawn = {
        room: sorted(set().union(*(arrows(module) for module in MODULES if module.room == room)))
        for room in rooms
    }
    assert {room: sorted(allowed) for room, allowed in ALLOWED.items()} == drawn


def test_arrows_go_one_way() -> None:
    """No two rooms import each other, directly or through others."""
    order: list[str] = []
    waiting = {room: set(arrows) for room, arrows in ALLOWED.items()}
    while ready := sorted(room for room, arrows in waiting.items() if arrows <= set(order)):
        order += ready
        for room in ready:
            del waiting[room]
    assert {} == waiting


def test_layers_and_redis_import_only_what_they_share() -> None:
    """IN_STORES has every arrow within the room, and no other."""

    def package(name: str) -> str:
        part = name.split(".")[2]
        return f"stores.{part}" if f"stores.{part}" in IN_STORES else "stores"

    drawn: dict[str, set[str]] = {name: set() for name in IN_STORES}
    for module in MODULES:
        if module.room == "stores" and module.name != f"{PACKAGE}.stores":
            here = package(module.name)
            imported = {package(name) for name in module.imports() if name.startswith(f"{PACKAGE}.stores.")}
            drawn[here] |= imported - {here}
    assert IN_STORES == drawn
    packages = {path.parent.name for path in (ROOT / PACKAGE / "stores").glob("*/__init__.py")}
    assert {name.partition(".")[2] for name in IN_STORES} - {""} == packages


@each_core_module
def test_the_core_imports_the_standard_library_and_itself(module: Module) -> None:
    """It imports no module of the standard library for time, random numbers, waiting or I/O."""
    roots = {name.split(".")[0] for name in module.imports()} - {PACKAGE}
    assert set() == roots - (sys.stdlib_module_names - NOT_IN_CORE)


@each_core_module
def test_the_core_awaits_nothing_and_reads_no_clock(module: Module) -> None:
    """`datetime` is for calendars. Its clocks, and `open`, are not allowed."""
    found = [
        f"line {node.lineno}: {ast.unparse(node)[:60]}"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.AsyncFunctionDef | ast.Await | ast.AsyncFor | ast.AsyncWith)
        or (
            isinstance(node, ast.Attribute)
            and node.attr in {"now", "utcnow", "today"}
            and _is_date(node.value)
        )
        or (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in {"open", "print"}
        )
    ]
    assert [] == found


def _is_date(node: ast.expr) -> bool:
    """Return whether this names a class of `datetime`, as in `datetime.now` (and not `plan.now`)."""
    return ast.unparse(node).rpartition(".")[2] in {"datetime", "date"}


@pytest.mark.parametrize("directory", [PACKAGE, "bench", "demo", "deploy", "testing", "tests", "tools"])
def test_a_module_has_one_subject(directory: str) -> None:
    """The length of a module is bounded, so that it can be read at once, whether it is of the package or a
    test.

    Only what a program writes may be longer: the stubs of the messages.
    """
    lengths = {
        str(path.relative_to(ROOT)): len(path.read_text(encoding="utf-8").splitlines())
        for path in (ROOT / directory).rglob("*.py")
        if "node_modules" not in path.parts
    }
    assert lengths, f"{directory}/ has no modules"
    assert {} == {name: lines for name, lines in lengths.items() if lines > LONGEST}


def _declared(text: str) -> dict[str, set[str]]:
    """Return the fields of each `cdef class` in the text of a .pxd."""
    found: dict[str, set[str]] = {}
    fields: set[str] = set()
    for line in text.splitlines():
        if match := re.match(r"cdef class (\w+)", line):
            fields = found[match[1]] = set()
        elif match := re.match(r"    cdef [^(]*?(\w+)$", line):
            fields.add(match[1])
    return found


def _fields(cls: ast.ClassDef) -> set[str]:
    """Return the fields that a class annotates or assigns."""
    annotated = {
        node.target.id
        for node in cls.body
        if isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name)
    }
    return annotated | {
        node.attr
        for node in ast.walk(cls)
        if isinstance(node, ast.Attribute)
        and isinstance(node.ctx, ast.Store)
        and ast.unparse(node.value) == "self"
    }


@pytest.mark.parametrize(
    "declarations",
    [path for path in sorted((ROOT / PACKAGE).rglob("*.pxd")) if path.with_suffix(".py").exists()],
    ids=lambda path: path.relative_to(ROOT / PACKAGE).as_posix(),
)
def test_the_classes_that_a_pxd_declares_are_those_of_its_module(declarations: Path) -> None:
    """Cython compiles a declared class without a definition, and each use of the type raises TypeError."""
    classes = {
        node.name: _fields(node)
        for node in module(declarations.with_suffix(".py")).tree.body
        if isinstance(node, ast.ClassDef)
    }
    declared = _declared(declarations.read_text(encoding="utf-8"))
    assert set() == declared.keys() - classes.keys()
    assert {} == {name: missing for name, fields in declared.items() if (missing := fields - classes[name])}
