"""Makes what operators see and steer the service with."""

from __future__ import annotations

from collections.abc import Callable

from .core.amendments.index import Amendments
from .core.matching.tree import RuleTree
from .ports import CounterStore
from .seeing.listing import Lister
from .seeing.views import Views
from .settings.table import Settings


def make_views(
    settings: Settings, store: CounterStore, amendments: Amendments, tree: Callable[[], RuleTree | None]
) -> Views:
    """Return the views of a service that counts in `store` by the rules that `tree` returns."""
    return Views(Lister(store, amendments, tree, settings.cache_key_prefix, settings.near_limit_ratio))
