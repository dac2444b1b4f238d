"""docs/bounds.md has every bound of the service."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

from . import test_bounds
from .documents import ROOT

SERVICE = ROOT / "ratelimit_service"
BOUND = re.compile(r"_?(MOST|LARGEST)(_|$)").match

LEFT_OUT = {
    "the size of an answer's text, which is cut for people": (
        "assembly.control_planes._MOST_SHOWN",
        "core.answers.metadata._MOST_SHOWN",
        "core.plan._MOST_SHOWN",
        "core.planner._MOST_DOMAINS",
        "core.rules.hidden_rules._MOST_NAMED",
        "core.rules.prices._MOST_PROBLEMS",
        "api.endpoint_methods.MOST_PROBLEMS",
        "events.events._MOST_REPORTED",
        "inspection.refusals._MOST_ENTRIES",
        "sources.xds.follower._MOST_NAMED",
    ),
    "a number of the format or of the arithmetic": (
        "core.answers.limit_headers._LARGEST",
        "core.answers.signals._LARGEST",
        "core.budgets.burning.MOST_POINTS",
        "core.holds.hit._MOST_EXPIRED",
        "core.holds.hit.MOST_HELD",
        "core.holds.ids._MOST_BYTES",
        "core.holds.state._MOST_KNOWN",
        "core.windows.calendars._MOST_DAYS",
        "core.windows.calendars._MOST_MONTHS",
        "sources.xds.translate._LARGEST_WHOLE",
        "stores.redis.script._MOST_DIGITS",
        "tracing.spans._MOST_HITS",
    ),
    "a number of attempts, or of steps of a load": (
        "core.rules.hidden_rules._MOST_COMPARED",
        "stores.redis.amendments._MOST_MOVES",
        "stores.redis.amendments._MOST_TRIES",
        "stores.redis.cluster._MOST_REDIRECTS",
        "stores.redis.watchdog.LARGEST_OFFSET",
    ),
    "a share of a bound that the page has": (
        "api.schema._MOST_PARAMETERS",
        "api.schema._MOST_ITEMS",
        "http.connections._LARGEST_READ",
        "http.server.MOST_CONNECTIONS",
        "inspection.query.MOST_LISTED",
        "observe.holds._MOST",
        "transports.native.calls._LARGEST_SHARE",
        "transports.native.lifetime._MOST_IDLE",
        "transports.native.server._LARGEST_READ",
        "transports.reflection.LARGEST",
    ),
    "a cache of a few values of the package": (
        "api.inspection_serializers._start",
        "core.ledger.entries.read_bucket",
        "core.ledger.entries.read_rest",
    ),
    "a cache beside one that the page has": ("transports.wire._addend",),
}
"""The bounds that are not on the page, by the reason."""


def bounds_of(module: str, tree: ast.Module) -> Iterator[str]:
    """The bounds of a module: its constants named MOST or LARGEST, and the caches of its functions."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef) and any(map(is_cache, node.decorator_list)):
            yield f"{module}.{node.name}"
    for statement in tree.body:
        if isinstance(statement, ast.Assign | ast.AnnAssign):
            targets = statement.targets if isinstance(statement, ast.Assign) else [statement.target]
            names = [each.id for one in targets for each in ast.walk(one) if isinstance(each, ast.Name)]
            cached = statement.value is not None and is_cache(statement.value)
            yield from (f"{module}.{name}" for name in names if cached or BOUND(name))


def is_cache(node: ast.expr) -> bool:
    return "lru_cache(maxsize" in ast.unparse(node)


def test_the_page_has_every_bound_of_the_service() -> None:
    """A new bound belongs on the page, with what happens beyond it, or into LEFT_OUT with the reason."""
    found = set()
    for path in SERVICE.rglob("*.py"):
        place = path.relative_to(SERVICE).with_suffix("").parts
        if place[0] != "cli":  # these processes end with their command
            found |= set(bounds_of(".".join(place), ast.parse(path.read_text("utf-8"))))
    shown = set()
    for node in ast.walk(ast.parse(Path(test_bounds.__file__).read_text("utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            module = getattr(getattr(test_bounds, node.value.id, None), "__name__", "")
            shown.add(f"{module}.{node.attr}".removeprefix("ratelimit_service."))
        elif isinstance(node, ast.Name) and (value := getattr(test_bounds, node.id, None)) is not None:
            shown.add(f"{getattr(value, '__module__', '')}.{node.id}".removeprefix("ratelimit_service."))
    left_out = {name for names in LEFT_OUT.values() for name in names}
    assert set() == found - shown - left_out
    assert set() == left_out - found
    assert set() == left_out & shown


def used_by(module: str, tree: ast.Module) -> Iterator[str]:
    """The names of this package that a module reads, each with the module that defines it."""
    modules: dict[str, str] = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.level:
            above = module.split(".")[: -node.level]
            origin = ".".join([*above, *filter(None, [node.module])])
            for alias in node.names:
                name = f"{origin}.{alias.name}".removeprefix(".")
                modules[alias.asname or alias.name] = name
                yield name
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
            yield f"{module}.{node.id}"
        elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield f"{modules.get(node.value.id, '')}.{node.attr}"


def test_every_bound_is_enforced() -> None:
    """A bound that only the page names would promise what the service does not do."""
    defined: set[str] = set()
    used: set[str] = set()
    for path in SERVICE.rglob("*.py"):
        tree = ast.parse(path.read_text("utf-8"))
        module = ".".join(path.relative_to(SERVICE).with_suffix("").parts)
        defined |= set(bounds_of(module, tree))
        used |= set(used_by(module, tree))
    assert set() == defined - used
