"""The metric of ledgers (docs/showback.md)."""

from __future__ import annotations

from .metric_info import Kind, MetricInfo

LEDGER_MISSED = MetricInfo(
    "ratelimit_service_ledger_missed",
    Kind.COUNTER,
    (),
    "Entries of ledgers that were not written although their charges were counted: Redis refused them, "
    "such as by an ACL, or the memory store was full.",
)
