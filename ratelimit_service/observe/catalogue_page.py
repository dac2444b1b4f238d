"""docs/metrics.md: the catalogue as a table, and what holds for all metrics."""

from __future__ import annotations

from .catalogue import CATALOGUE


def markdown() -> str:
    """docs/metrics.md."""
    rows = "\n".join(
        f"| `{info.name}` | {info.kind} | {', '.join(f'`{label}`' for label in info.labels)} "
        f"| {'yes' if info.upstream else ''} | {info.meaning} |"
        for info in CATALOGUE
    )
    return _PAGE.format(rows=rows)


_PAGE = """\
# Metrics

`GET /metrics` on port 9090 (`PROMETHEUS_ADDR`, `PROMETHEUS_PATH`), in the Prometheus text format. Values are
those of the moment of the scrape.

Metrics marked "upstream" have the name and the labels that envoyproxy/ratelimit gives them, so dashboards and
alerts made for it go on working. No counter ends in `_total`, and there are no `_created` series. Dashboards and alerts
that are ready to use: [monitoring.md](monitoring.md).

| metric | type | labels | upstream | meaning |
|---|---|---|---|---|
{rows}

The `process_*` metrics (CPU, memory, open files) are shown as well.

## Labels

- `domain`, `key1`, `key2`: the domain and the first two levels of the statistics path of a limit. A level is
  the `key`, or `key_value` where the rule names a value, or where `detailed_metric` or `value_to_metric` asks
  for the one that came. Levels beyond the second are summed into these. `key2` is not there where a path has one
  level.
- As upstream does, `:` and `|` in a level become `_`, and so do the dots of an IPv4 address. Unlike upstream,
  other dots stay within their level, and what cannot be printed is written as a backslash escape.
- A label value of more than 200 characters is cut, and says how long it was.
- `path`: the path of the rule with its domain in front, as `/rlconfig` shows it; `override` for a limit that
  came with the request.
- `window`: the window as counter keys name it: `minute`, `15minute`. `path` and `window` are what `rule_` and `budget_`
  metrics have in common, and can be [joined](monitoring.md#join-metrics) by.
- `rule`: with `budget_` metrics the name of the limit, where it has one, and else the path; with `rule_` metrics the path.
- `unit`: the same as `window`, with `rule_` metrics.
- `share`: the part of the limit, as a number: `0.8`.
- `bucket`: the descriptor, as `key=value,key=value`; for values that share a bucket (`share_threshold`), what
  they have in common, as the counter key has it.

## Beginnings

What the rules name is there from their load on, at 0: hits, what was within and over the limit, refusals and missing
costs of a rule, its thresholds, decisions of a domain, errors. So `increase()` sees the first of each. Whatever else is
counted begins with its first: series of values that come with requests (`detailed_metric`, `value_to_metric`, overrides),
and those of the other metrics with labels.

The gauges of a rule with `track` whose keys all have a `value` are there from the load on as well: its counter is read every
five seconds, and when its window is new. So they are right in each replica, whoever has charged, given back or reset it.

## Bounds

A metric has at most `METRICS_MAX_SERIES` series (10,000 by default), whatever strangers send. What would
be one more is counted in a series whose labels are all `other`, so that sums stay right. Series are never
dropped before the process ends. `detailed_metric`, `value_to_metric` and overrides are what makes many series.

Tracked buckets come and go. Those with the largest share used are shown, `TRACK_MAX_BUCKETS` of them (1,000 by
default; a bucket with two windows is two); as many again are summed into `bucket="other"`, by domain, rule and
window; what has an even smaller share is forgotten until it is asked for again. A window that is over is not
shown. Replicas that share a store each show what they have seen last, so the truth is the largest of it, but for what was
given back elsewhere: `max by (domain, rule, bucket, window) (ratelimit_service_budget_used)`.

Hits on an unlimited rule, and hits that are given back, have metrics of their own.
"""
