"""Passes each decision to metrics, logs, thresholds and tracked buckets."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import structlog

from ..core.errors import CounterRefused, RateLimitServiceError
from ..core.model import (
    OK,
    TALLY_OVER,
    TALLY_RULE,
    TALLY_USES,
    USE_AFTER,
    USE_END,
    USE_KEY,
    USE_LIMIT,
    USE_OVER,
    Decision,
    Rule,
    Tally,
    Use,
    UseValues,
)
from ..core.plan import Plan
from .decision_log import DecisionLog
from .metrics import Metrics
from .once_per_window import OncePerWindow
from .thresholds import Thresholds
from .tracking import Tracker


class Observers:
    """The service's Observer (ports.py). Logs a refused bucket once in its window."""

    def __init__(
        self,
        metrics: Metrics,
        thresholds: Thresholds,
        tracker: Tracker,
        decision_log: DecisionLog | None = None,
        refused: Callable[[Plan, Decision], None] = lambda plan, decision: None,
        first_refusal: Callable[[Rule, Use, int], None] | None = None,
    ) -> None:
        self._first_refusal = first_refusal
        self._refused = refused
        self._metrics = metrics
        self._thresholds = thresholds
        self._tracker = tracker
        self._decision_log = decision_log
        self._refusals = OncePerWindow()
        self._log = structlog.get_logger("ratelimit_service.refusals")
        metrics.watch("ratelimit_service_refusals_unlogged", lambda: self._refusals.overflowed)
        metrics.watch("ratelimit_service_budget_threshold_lost", lambda: thresholds.lost)
        metrics.show(tracker.samples)
        if decision_log is not None:
            metrics.watch("ratelimit_service_decision_log_dropped", lambda: decision_log.dropped)

    def decided(self, plan: Plan, decision: Decision) -> None:
        """See ports.Observer."""
        if self._metrics.count(plan, decision):
            self._observe_buckets(plan, decision)
        if decision.code is not OK:
            self._refused(plan, decision)
        if self._decision_log is not None:
            self._decision_log.decided(plan, decision)

    def _observe_buckets(self, plan: Plan, decision: Decision) -> None:
        """Pass the tallies to the observers of single buckets."""
        now = plan.now
        if plan.excess:
            self._log_excess(plan)
        for index, tally in enumerate(decision.tally_values):
            if tally is None:
                continue
            rule = tally[TALLY_RULE]
            if tally[TALLY_OVER]:
                self._log_refusal(rule, tally[TALLY_USES], now)
            if rule.warn_at:
                self._thresholds.note(Tally._make(tally), now)
            if rule.track:
                self._tracker.note(plan.request.descriptors[index], Tally._make(tally))

    def _log_excess(self, plan: Plan) -> None:
        """Log charges above max_charge, each bucket once a minute: a faulty provider sends one with every
        answer.
        """
        for index in plan.excess:
            planned, descriptor = plan.descriptors[index], plan.request.descriptors[index]
            rule = planned.rule
            if rule is None or not planned.windows:
                continue
            key = plan.hits[planned.windows[0].hit].key
            if self._refusals.note(key, plan.now - plan.now % 60 + 60, "max_charge", plan.now):
                addend = descriptor.hits_addend
                self._log.warning(
                    "a charge is above max_charge",
                    bucket=key,
                    rule=rule.name or str(rule.path),
                    charge=plan.request.hits_addend if addend is None else addend,
                    max_charge=rule.max_charge,
                    counted=plan.addends[index],
                )

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """See ports.Observer."""
        self._metrics.failed(plan, error)
        if plan is not None and isinstance(error, CounterRefused):
            self._log_refused_counter(plan, error)

    def _log_refused_counter(self, plan: Plan, error: CounterRefused) -> None:
        """Log it once a minute: every request for this counter fails until an operator repairs it."""
        if self._refusals.note(error.key, plan.now - plan.now % 60 + 60, "refused counter", plan.now):
            self._log.error("a counter cannot be used", bucket=error.key, error=str(error))

    def _log_refusal(self, rule: Rule, uses: Sequence[UseValues], now: int) -> None:
        for use in uses:
            key, end, limit = use[USE_KEY], use[USE_END], use[USE_LIMIT]
            if use[USE_OVER] and self._refusals.note(key, end, rule.name, now):
                self._log.info(
                    "limit reached",
                    bucket=key,
                    rule=limit.name or str(rule.path),
                    limit=limit.amount,
                    used=use[USE_AFTER],
                    resets_in=end - now,
                )
                if self._first_refusal is not None:
                    self._first_refusal(rule, Use._make(use), now)
