"""docs/metrics.md: the catalogue as a table, and the conventions of all metrics."""

from __future__ import annotations

from .all_metrics import CATALOGUE


def markdown() -> str:
    """Return docs/metrics.md."""
    rows = "\n".join(
        f"| `{info.name}` | {info.kind} | {', '.join(f'`{label}`' for label in info.labels)} "
        f"| {'yes' if info.upstream else ''} | {info.meaning} |"
        for info in CATALOGUE
    )
    return _PAGE.format(rows=rows)


_PAGE = """\
# Metrics

`GET /metrics` on port 9090 (`PROMETHEUS_ADDR`, `PROMETHEUS_PATH`), in the Prometheus text format, with the
values at the time of the scrape.

Metrics marked "upstream" have the same name and labels as in envoyproxy/ratelimit, so its dashboards and
alerts keep working. No counter ends in `_total`, and there are no `_created` series.
[monitoring.md](monitoring.md) has dashboards and alerts to install.

| metric | type | labels | upstream | meaning |
|---|---|---|---|---|
{rows}

The `process_*` metrics (CPU, memory, open files) follow.

## Labels

- `domain`, `key1`, `key2`: the domain and the first two levels of the statistics path of a limit. A level is
  the `key`, or `key_value` if the rule has a value, or if `detailed_metric` or `value_to_metric` adds the
  value of the request. Deeper levels are summed into these. A path with one level has no `key2`.
- As in upstream, `:` and `|` in a level become `_`, and so do the dots of an IPv4 address. Unlike upstream,
  other dots stay, and unprintable characters become backslash escapes.
- A label value of more than 200 characters is cut, and its length is added.
- `path`: the path of the rule after its domain, as in `/rlconfig`; `override` for a limit that the request
  brings.
- `window`: the window as in counter keys: `minute`, `15minute`. `path` and `window`
  [join](monitoring.md#join-metrics) `rule_` and `budget_` metrics.
- `rule`: in `budget_` metrics the name of the limit, or the path if it has no name; in `rule_` metrics the
  path.
- `unit`: the same as `window`, in `rule_` metrics. `rule_charge_size` has neither `rule` nor `unit`.
- `share`: the share of the limit, as a number: `0.8`.
- `bucket`: the descriptor, as `key=value,key=value`; for values that share a bucket (`share_threshold`),
  their common part, as in the counter key.

## Initial values

Series that the rules determine exist from the load on, at 0: hits, hits within and over the limit, refusals
and missing costs of a rule, its thresholds, decisions of a domain, errors. So `increase()` sees the first
event. Other series begin with their first event: those with values of requests (`detailed_metric`,
`value_to_metric`, overrides), and those of the other metrics with labels.

The gauges of a rule with `track` whose keys all have a `value` exist from the load on, too: its counter is
read every five seconds, and at the beginning of its window. So each replica shows the current use, no matter
which replica changed it.

## Bounds

A metric has at most `METRICS_MAX_SERIES` series (10,000 by default). Events beyond are counted in a series
whose labels are all `other`, so that sums stay correct. A histogram of charges has 17 series. Series are kept
until the process ends. `detailed_metric`, `value_to_metric` and overrides create most series.

Tracked buckets are evicted. The `TRACK_MAX_BUCKETS` buckets (1,000 by default; a bucket with two windows
counts twice) with the largest shares used are shown; as many again are summed into `bucket="other"`, by
domain, rule and window; others are dropped until their next request. Ended windows are not shown. Replicas
that share a store show what each has last seen. The current use is the largest of them, except after a refund
on another replica: `max by (domain, rule, bucket, window) (ratelimit_service_budget_used)`.

Hits on unlimited rules, and refunded hits, have their own metrics.
"""
