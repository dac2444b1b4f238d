"""Creates the parts for operators: views, and the API of the debug port."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from ..amending.follower import Follower
from ..api.changes import Changes
from ..api.endpoint_methods import Api, ApiParts, no_control_planes
from ..api.guard import Guard
from ..api.handler import ApiHandler
from ..api.previews import Previews
from ..api.response_types import ControlPlane, ControlPlanes, StoreStatus
from ..api.tokens import Token, Tokens
from ..core.amendments.index import Amendments
from ..core.errors import StartError
from ..core.matching.tree import RuleTree
from ..http.messages import Handler
from ..inspection.listing import Lister
from ..inspection.prices import Prices
from ..inspection.profiles import Profiles
from ..inspection.refusals import Refusals
from ..inspection.replicas import Registry
from ..inspection.views import Views
from ..loading.rulebook import Rulebook
from ..loading.slices import in_slices
from ..observe.decision_log import DecisionLog
from ..observe.metrics import Metrics
from ..observe.observers import Observers
from ..observe.pairing import PERIOD, Pairing, Question, Unpaired, added_up
from ..observe.tables import Sample
from ..observe.thresholds import Thresholds
from ..observe.tracking import Tracker
from ..ports import CounterStore, InForce
from ..runtime.tasks import Background
from ..service import RateLimitService
from ..settings.table import Settings
from ..version import version
from ..workers.worker_link import Siblings
from .running import Running

if TYPE_CHECKING:
    from ..events.events import Events

_PAIRS = "pairs"
_ASKED_AT_ONCE = 500
"""The most rules of one question to the other workers: more would take long to pickle."""


def make_views(
    settings: Settings,
    store: CounterStore,
    amendments: Amendments,
    follower: Follower,
    rulebook: Rulebook,
    service: RateLimitService,
    refusals: Refusals,
    siblings: Siblings,
    profiles: Profiles,
    name: str = "",
) -> Views:
    """Return the views of a service that counts in `store`. `service` decides, and observes nothing.

    `name` is what this process is called among the replicas; by default it is made up.
    """

    def tree() -> RuleTree | None:
        return service.tree

    release = version()

    def standing() -> InForce:
        return InForce(rulebook.digest, follower.version, release)

    lister = Lister(
        store, amendments, tree, settings.cache_key_prefix, settings.near_limit_ratio, profiles=profiles
    )
    registry = Registry(store.replicas, standing, name)
    prices = make_prices(settings)
    return Views(
        store, amendments, lister, registry, rulebook, service.foresee, refusals, siblings, prices=prices
    )


def make_prices(settings: Settings) -> Prices:
    """Return the prices by model that the settings name. Raises StartError for an unusable file."""
    if not settings.prices_file:
        return Prices()
    from ..core.rules.prices import read_model_prices
    from ..sources.yaml_text import read  # imports yaml, which nothing else needs in this process

    return Prices(settings.prices_file, lambda file, text: read_model_prices(read(file, text)))


def make_tokens(settings: Settings) -> Tokens:
    """Return the tokens that the settings name. Raises StartError for an unusable file."""
    admin = Token("ADMIN_TOKEN", settings.admin_token.reveal(), settings.admin_token_file)
    read = Token("READ_TOKEN", settings.read_token.reveal(), settings.read_token_file)
    if admin.digest is not None and admin.digest == read.digest:
        raise StartError("READ_TOKEN is the token of ADMIN_TOKEN: whoever may read could change limits")
    return Tokens(admin, read)


def make_api(app: Running, settings: Settings) -> Handler:
    """Return the handler of /api/v1. Raises StartError."""
    tokens = make_tokens(settings)
    kind = settings.backend_type

    def watched(name: str) -> float:
        return app.metrics.watched.get(name, float)()

    async def store_here() -> StoreStatus:
        return {
            "type": kind,
            "reachable": kind not in app.health.unhealthy_here,
            "circuit_open": bool(watched("ratelimit_service_store_circuit_open")),
            "journal_hits": int(watched("ratelimit_service_store_journal_hits")),
        }

    async def store() -> StoreStatus:
        """Return the status of the store as all workers see it."""
        workers: list[StoreStatus] = [await store_here(), *await app.siblings.ask("store")]
        return {
            "type": kind,
            "reachable": all([each["reachable"] for each in workers]),
            "circuit_open": any([each["circuit_open"] for each in workers]),
            "journal_hits": sum([each["journal_hits"] for each in workers]),
        }

    app.siblings.share("store", store_here)

    if (planes := app.control_planes) is not None:

        async def control_planes_here() -> ControlPlanes:
            return planes.status()

        app.siblings.share("control_planes", control_planes_here)

    async def control_planes() -> ControlPlanes:
        if planes is None:
            return await no_control_planes()
        return most_troubled([planes.status(), *await app.siblings.ask("control_planes")])

    async def unpaired_here() -> Sequence[Unpaired]:
        return app.pairing.unpaired

    app.siblings.share("unpaired", unpaired_here)

    async def unpaired() -> Sequence[str]:
        """Return the unpaired rules of all workers."""
        return list(map(str, added_up([await unpaired_here(), *await app.siblings.ask("unpaired")])))

    parts = ApiParts(
        app.operations,
        app.views,
        Changes(app.operations, Previews(app.operations, app.views, settings.near_limit_ratio), tokens.admin),
        lambda: app.service.tree,
        lambda: app.rulebook.problems,
        app.health,
        store,
        app.grpc.TRANSPORT,
        tokens.admin.wanted,
        control_planes=control_planes,
        unpaired=unpaired,
    )
    handler = ApiHandler(Api(parts), Guard(tokens))

    def samples() -> Iterator[Sample]:
        for (path, status), count in tuple(handler.answered.items()):
            yield Sample("ratelimit_service_api_requests", {"endpoint": path, "status": f"{status}"}, count)

    app.metrics.show(samples)
    return handler.answer


def most_troubled(workers: Sequence[ControlPlanes]) -> ControlPlanes:
    """Return the status of each control plane as the worker with the most problems sees it."""

    def trouble(one: ControlPlane) -> tuple[bool, bool, bool, int]:
        stale = one["stale_since"] is not None
        return (one["generation"] == 0, not one["connected"], stale, one["rejected_domains"])

    seen = zip(*[each["control_planes"] for each in workers], strict=False)
    return {
        "control_planes": [max(one, key=trouble) for one in seen],
        "overlay_problems": max([each["overlay_problems"] for each in workers], key=len),
    }


def make_events(app: Running, settings: Settings, store: CounterStore) -> Events | None:
    """Return the events, or None if there is no receiver. Raises StartError."""
    if not settings.events_webhook_url and not settings.events_webhooks:
        return None
    from ..events.current_receivers import CurrentReceivers
    from ..events.events import Events

    events = Events(
        CurrentReceivers(
            settings.events_webhook_url, settings.events_webhook_secret_file, settings.events_webhooks
        ),
        store.events,
        store.amendments,
        lambda: app.follower.version,
        time.time,
        lambda: app.views.registry.name,
        lambda: settings.backend_type not in app.health.unhealthy_here,
        lambda: app.service.tree,
        settings.events_cacert,
    )
    app.metrics.watch("ratelimit_service_event_lost", lambda: events.emitter.lost)

    def samples() -> Iterator[Sample]:
        for receiver, outcome, count in events.counts():
            yield Sample(
                "ratelimit_service_event_deliveries", {"receiver": receiver, "outcome": outcome}, count
            )

    app.metrics.show(samples)
    return events


def make_observers(
    metrics: Metrics,
    store: CounterStore,
    tracker: Tracker,
    log: DecisionLog | None,
    refusals: Refusals,
    events: Events | None,
) -> Observers:
    """Return the observer of decisions: metrics, the log, thresholds, tracked buckets, refusals and
    events.
    """
    emitter = events.emitter if events is not None else None
    thresholds = Thresholds(store, metrics.crossed, emitter.crossed if emitter is not None else None)
    refused = emitter.refused if emitter is not None else None
    tracker.foreseen = emitter.foreseen if emitter is not None else None
    return Observers(metrics, thresholds, tracker, log, refusals.note, refused)


async def look_for_unpaired(pairing: Pairing, siblings: Siblings, now: float) -> None:
    """Report the rules that this worker and no other one finds unpaired."""
    found = await in_slices(pairing.look())
    unpaired: list[Unpaired] = []
    for begin in range(0, len(found), _ASKED_AT_ONCE):
        some = found[begin : begin + _ASKED_AT_ONCE]
        questions: list[Question] = [(each.rule, each.checked) for each in some]
        answers = await siblings.ask(_PAIRS, questions)
        unpaired += [each for place, each in enumerate(some) if not any([one[place] for one in answers])]
    pairing.report(unpaired, now)


def keep_views(app: Running, background: Background, profiles: Profiles) -> None:
    """Keep current what the views show, from now on, and remove amendments that ended some time ago."""

    async def pairs(found: Sequence[Question]) -> Sequence[bool]:
        return await in_slices(app.pairing.pairs(found))

    app.siblings.share(_PAIRS, pairs)

    async def pair() -> None:
        while True:
            await asyncio.sleep(PERIOD)
            await look_for_unpaired(app.pairing, app.siblings, time.time())

    background.keep("replicas", app.views.registry.run)
    background.keep("forecasts", profiles.run)
    background.keep("pairing", pair)
    background.keep("amendments_ended", app.follower.run_tidying)


def keep_events(events: Events | None, background: Background, *, leads: bool = False) -> None:
    """Emit events from now on, or deliver them, in the process that leads."""
    if events is not None:
        (events.lead if leads else events.keep)(background)
