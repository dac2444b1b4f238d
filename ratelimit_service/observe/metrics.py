"""The counters of the service, for Prometheus and /stats.

They are plain integers in dictionaries, because every descriptor of every request changes some. A scrape
makes samples of them, maybe in another thread: it copies the dictionaries first, which is atomic, and a row
may change meanwhile.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator

from ..core.errors import RateLimitServiceError, StoreError
from ..core.matching.overrides import OVERRIDE_SOURCE
from ..core.matching.tree import RuleTree
from ..core.model import (
    OK,
    USE_OVER,
    Decision,
    Limit,
    Rule,
    Window,
)
from ..core.plan import Plan, PlannedDescriptor
from ..version import version
from .catalogue.all_metrics import BY_NAME, CATALOGUE
from .catalogue.metric_info import Kind
from .charges import Charges
from .columns import (
    CHARGE_COLUMNS,
    CHARGE_SIZE,
    EXPECTED_OF_A_BUDGET,
    EXPECTED_OF_A_LIMIT,
    EXPECTED_OF_A_RULE,
    HITS,
    LIMIT_METRICS,
    NEAR,
    NEGATIVE,
    OVER,
    RULE_CHARGES,
    RULE_CHECKS,
    RULE_COLUMNS,
    RULE_COST_MISSING,
    RULE_EXCESS,
    RULE_HITS,
    RULE_METRICS,
    RULE_REFUSED,
    SHADOW,
    UNLIMITED,
    WITHIN,
)
from .exposition import Process, family
from .holds import HoldMetrics
from .labels import crossing_labels, rule_labels
from .loads import Loads
from .tables import Histogram, Sample, Table, counters, samples_of
from .thresholds import thresholds

UNKNOWN_DOMAIN = "unknown"
"""The label of domains without a configuration, and of requests that could not be planned."""

# The columns that decisions change. Where this module is compiled, these are integers of C.
_HITS, _WITHIN, _NEAR, _OVER, _SHADOW = HITS, WITHIN, NEAR, OVER, SHADOW
_NEGATIVE, _UNLIMITED = NEGATIVE, UNLIMITED
_RULE_HITS, _REFUSED, _CHECKS = RULE_HITS, RULE_REFUSED, RULE_CHECKS

_OUTCOMES = ("ok", "over_limit", "error")
_ERRORS = ("redis_error", "service_error")


class _Rows:
    """The rows of a planned descriptor: one of its limit's statistics, and one of its rule for each
    window.
    """

    __slots__ = ("limit", "windows")

    def __init__(self, limit: list[int], windows: list[list[int]]) -> None:
        self.limit, self.windows = limit, windows


class Metrics:
    """All metrics: an Observer (ports.py) that also counts loads, calls and round trips.

    `max_series` bounds the series of each metric. With `milliseconds`, response times are in that unit, under
    the same name (PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS).
    """

    def __init__(self, max_series: int = 10_000, *, milliseconds: bool = False) -> None:
        self._limits = counters(LIMIT_METRICS, max_series)
        self._rules = counters(RULE_METRICS, max_series, RULE_COLUMNS)
        self._decisions = counters(("ratelimit_service_decisions",), max_series)
        self._errors = counters(("ratelimit_service_should_rate_limit_error",), max_series)
        self._lost_domains = counters(("ratelimit_service_domain_not_found",), max_series)
        self._calls = counters(("ratelimit_service_total_requests",), max_series)
        self._crossings = counters(("ratelimit_service_budget_threshold_crossed",), max_series)
        limits, rules, decisions, errors = self._limits, self._rules, self._decisions, self._errors
        self._charges = Charges(rules, max_series)
        self._holds = HoldMetrics(max_series)
        self._tables = (
            limits,
            rules,
            decisions,
            errors,
            self._lost_domains,
            self._calls,
            self._crossings,
            self._holds.rules,
        )
        self._times = Table(("ratelimit_service_response_time_seconds",), Histogram, max_series)
        self._store = Histogram()
        self._scale = 1_000 if milliseconds else 1
        self._version = version()
        self._row_of_rule: dict[tuple[Rule, Window], list[int]] = {}
        self._former_rows: dict[tuple[Rule, Window], list[int]] = {}
        self._verdicts: dict[str, tuple[list[int], list[int]]] = {}
        self._shadowed = 0
        self._loads = Loads()
        self.watched: dict[str, Callable[[], float]] = {}
        self._gauges: list[Callable[[], Iterable[Sample]]] = []
        self.process = Process()
        """The metrics of this process."""

    # Counting.

    def decided(self, plan: Plan, decision: Decision) -> None:
        """See ports.Observer."""
        self.count(plan, decision)

    def count(self, plan: Plan, decision: Decision) -> bool:
        """Count a decision. Return whether there is more to observe.

        That is an exhausted bucket, a rule with `warn_at` or `track`, or a charge above `max_charge`.
        """
        code = decision.code
        if plan.known_domain:
            domain = plan.request.domain
            verdicts = self._verdicts.get(domain)
            if verdicts is None:
                verdicts = self._verdicts_in(domain)
            row = verdicts[0] if code is OK else verdicts[1]
            row[0] += 1
        else:
            self._count_request(plan, "ok" if code is OK else "over_limit")
        if decision.shadowed:
            self._shadowed += 1
        if plan.without_addend:
            self._count_without_addend(plan)
        more = False
        if plan.excess:
            more = True
            self._count_excess(plan)
        if plan.holds:
            self._holds.decided(plan, decision)
        descriptors, addends = plan.descriptors, plan.addends
        for index, tally in enumerate(decision.tally_values):
            addend, planned = addends[index], descriptors[index]
            if tally is None:
                if addend and planned.rule is not None:
                    self._count_addend(planned, addend)
                continue
            _, _, _, over, within, near, refused, shadowed, uses = tally
            if over or planned.watched:
                more = True
            rows = planned.memo
            if rows is None:
                rows = self._rows(planned)
            if addend:
                self._count_addend(planned, addend)
            elif not over:
                if code is OK and not (plan.request.returned and _ends(plan, index)):
                    row = rows.windows[0]
                    row[_CHECKS] += 1
                continue
            row = rows.limit
            row[_WITHIN] += within
            if near:
                row[_NEAR] += near
            if not over:
                continue
            row[_OVER] += refused
            row[_SHADOW] += shadowed
            if not planned.shadow:
                for use, row in zip(uses, rows.windows, strict=True):
                    if use[USE_OVER]:
                        row[_REFUSED] += 1
        return more

    def failed(self, plan: Plan | None, error: RateLimitServiceError) -> None:
        """See ports.Observer."""
        self._errors.row(("redis_error" if isinstance(error, StoreError) else "service_error",))[0] += 1
        self._count_request(plan, "error")
        if plan is None:
            return
        self._count_without_addend(plan)
        self._count_excess(plan)
        for planned, addend in zip(plan.descriptors, plan.addends, strict=True):
            if addend and planned.rule is not None:
                self._count_addend(planned, addend)

    def requested(self, method: str, seconds: float, calls: int = 1) -> None:
        """Count answered calls of a gRPC method, and the seconds of each."""
        self._calls.row((method,))[0] += calls
        self._times.row((method,)).observe(seconds * self._scale, calls)

    def observe_store(self, seconds: float) -> None:
        """Count a round trip to the store."""
        self._store.observe(seconds)

    def config_loaded(self, tree: RuleTree, now: float) -> None:
        """Count rules that came into force at `now`, in Unix seconds."""
        self._loads.loaded(len(tree.rules), now)
        # Its keys are rules; `config_replaced` releases those of the previous ones.
        self._former_rows, self._row_of_rule = self._row_of_rule, {}
        self._holds.forget_rules()

    def config_replaced(self) -> Generator[None, None, None]:
        """Release what was remembered of the previous rules, in a step for each."""
        while self._former_rows:
            self._former_rows.popitem()
            yield

    def config_failed(self) -> None:
        """Count a refused configuration."""
        self._loads.failed()

    def config_rejected(self, rejected: bool) -> None:
        """Set whether a part of the last configuration is refused (loading/rulebook.py)."""
        self._loads.rejected = rejected

    def crossed(self, rule: Rule, limit: Limit, share: str) -> None:
        """Count a reported crossing (thresholds.py)."""
        self._crossings.row(crossing_labels(rule, limit, share))[0] += 1

    def watch(self, name: str, read: Callable[[], float]) -> None:
        """Show the result of `read` as the metric `name`, which has no labels and is not shown yet."""
        info = BY_NAME[name]
        if info.labels or info.kind is Kind.HISTOGRAM or name in [sample.name for sample in self.counters()]:
            raise ValueError(f"{name} cannot be watched: it is shown already")
        self.watched[name] = read

    def show(self, gauges: Callable[[], Iterable[Sample]]) -> None:
        """Show the samples that `gauges` returns, each series once."""
        self._gauges.append(gauges)

    def config_read(self, tree: RuleTree) -> Generator[None, None, None]:
        """Show the series of these rules at 0: `increase` misses the first 1 of a series that begins with it.

        There is a step for each rule, so that a load of many rules can be sliced, or run in another thread,
        while requests are counted.
        """
        for domain in (*tree.domains, UNKNOWN_DOMAIN):
            for outcome in _OUTCOMES:
                self._decisions.expect((domain, outcome))
            yield
        for error in _ERRORS:
            self._errors.expect((error,))
        for rule in tree.rules:
            domain = rule.path.domain
            if not rule.detailed_metric:  # otherwise labels have values that only requests know
                columns = EXPECTED_OF_A_LIMIT if rule.limits else (UNLIMITED,)
                self._limits.expect((domain, *rule.path.levels[:2]), columns)
            for limit in rule.limits:
                expected = EXPECTED_OF_A_BUDGET if rule.budget else EXPECTED_OF_A_RULE
                self._rules.expect(rule_labels(rule, limit), expected)
                for threshold in thresholds(rule.warn_at, limit.amount):
                    self._crossings.expect(crossing_labels(rule, limit, threshold.text))
            yield

    def rows_of_rules(self) -> dict[tuple[Rule, Window], list[int]]:
        """Return the rows of the windows of those rules in force that requests have matched."""
        return self._row_of_rule.copy()

    def _count_request(self, plan: Plan | None, outcome: str) -> None:
        domain = UNKNOWN_DOMAIN
        if plan is not None:
            if plan.known_domain:
                domain = plan.request.domain
            else:
                self._lost_domains.row((plan.request.domain,))[0] += 1
        self._decisions.row((domain, outcome))[0] += 1

    def _verdicts_in(self, domain: str) -> tuple[list[int], list[int]]:
        """Return the rows of the decisions OK and OVER_LIMIT in a configured domain."""
        rows = self._verdicts[domain] = (
            self._decisions.row((domain, "ok")),
            self._decisions.row((domain, "over_limit")),
        )
        return rows

    def _count_addend(self, planned: PlannedDescriptor, addend: int) -> None:
        """Count the hits_addend of a descriptor, independent of the answer."""
        rows = planned.memo
        if rows is None:
            rows = self._rows(planned)
        row = rows.limit
        if not planned.windows:
            row[_UNLIMITED] += abs(addend)
        elif addend < 0:
            row[_NEGATIVE] -= addend
        else:
            row[_HITS] += addend
            row = rows.windows[0]
            column = CHARGE_COLUMNS[(addend - 1).bit_length()]
            row[column] += 1
            for row in rows.windows:
                row[_RULE_HITS] += addend

    def _count_without_addend(self, plan: Plan) -> None:
        for index in plan.without_addend:
            planned = plan.descriptors[index]
            if planned.windows:
                (planned.memo or self._rows(planned)).windows[0][RULE_COST_MISSING] += 1

    def _count_excess(self, plan: Plan) -> None:
        for index in plan.excess:
            planned = plan.descriptors[index]
            if planned.windows:
                (planned.memo or self._rows(planned)).windows[0][RULE_EXCESS] += 1

    def _rows(self, planned: PlannedDescriptor) -> _Rows:
        """Look up the rows of a descriptor, once for all requests that share its plan."""
        rule, stat = planned.rule, planned.stat
        assert rule is not None and stat is not None
        rows = planned.memo = _Rows(
            self._limits.row((stat.domain, *stat.levels[:2])),
            [self._rule(rule, window.limit) for window in planned.windows],
        )
        return rows

    def _rule(self, rule: Rule, limit: Limit) -> list[int]:
        rule = rule.original or rule  # an amended rule counts as its original
        row = self._row_of_rule.get((rule, limit.window))
        if row is not None:
            return row
        row = self._rules.row(rule_labels(rule, limit))
        if rule.source != OVERRIDE_SOURCE:  # made for one request
            self._row_of_rule[rule, limit.window] = row
        return row

    # Samples.

    def chunks(self) -> Iterator[bytes]:
        """Yield all metrics in chunks of Prometheus' text format 0.0.4.

        Slow with many series: iterate in a thread.
        """
        for name, samples in self.families():
            yield from family(name, samples)
        yield self.process.text()

    def counters(self) -> Iterator[Sample]:
        """Yield every counter and gauge. As in upstream, a labelled counter exists once it has counted."""
        for name, samples in self.families():
            if BY_NAME[name].kind is not Kind.HISTOGRAM:
                yield from samples

    def families(self) -> Iterator[tuple[str, Iterable[Sample]]]:
        """Yield the samples of each metric, in the order of the catalogue."""
        columns = {
            name: (table, column) for table in self._tables for column, name in enumerate(table.metrics)
        }
        single: dict[str, list[Sample]] = {}
        for sample in self._single():
            single.setdefault(sample.name, []).append(sample)
        for info in CATALOGUE:
            if info.name == CHARGE_SIZE:
                yield info.name, self._charges.sizes()
            elif info.name == RULE_METRICS[RULE_CHARGES]:
                yield info.name, self._charges.numbers()
            elif info.name in columns:
                table, column = columns[info.name]
                yield info.name, samples_of(table, column)
            elif info.kind is Kind.HISTOGRAM:
                yield info.name, self._histograms(info.name)
            else:
                yield info.name, single.get(info.name, ())

    def _single(self) -> Iterator[Sample]:
        """Yield the samples that no table has."""
        yield Sample("ratelimit_service_global_shadow_mode", {}, self._shadowed)
        yield from self._loads.samples()
        yield Sample("ratelimit_service_build_info", {"version": self._version}, 1)
        for name, read in self.watched.items():
            yield Sample(name, {}, float(read()))
        for gauges in self._gauges:
            yield from gauges()

    def _histograms(self, name: str) -> Iterator[Sample]:
        for table in (self._times, self._holds.overshoot):
            if name in table.metrics:
                for labels, histogram, _ in table.labelled():
                    yield from histogram.samples(name, labels)
                return
        yield from self._store.samples(name, {})


def _ends(plan: Plan, index: int) -> bool:
    """Return whether a descriptor without hits is the end of a request, and no check."""
    returned = plan.request.returned
    return len(returned) != len(plan.descriptors) or returned[index] is not None
