"""The table of endpoints: what each takes, returns and does."""

from __future__ import annotations

from typing import Literal, NamedTuple

from . import asked, seen, shapes

PREFIX = "/api/v1"

IDEMPOTENCY_KEY = "Idempotency-Key"


class Endpoint(NamedTuple):
    """One endpoint. `name` is its operation in OpenAPI and its method of handler.Api.

    A GET takes the fields of `takes` as parameters, a POST takes them as a JSON object.
    """

    method: Literal["GET", "POST"]
    path: str
    name: str
    takes: type
    returns: type | None
    meaning: str
    changes: bool = False
    """Whether it changes limits, and so needs ADMIN_TOKEN and an idempotency key."""
    missing: bool = False
    """Whether it answers 404 if the bucket or the amendment does not exist."""


ENDPOINTS = (
    Endpoint("GET", "/openapi.json", "openapi", asked.Nothing, None, "This description, as OpenAPI 3.1."),
    Endpoint(
        "GET",
        "/status",
        "status",
        asked.Nothing,
        shapes.Status,
        "The state of this replica, and the rights of the caller.",
    ),
    Endpoint(
        "GET",
        "/budgets",
        "budgets",
        asked.PageOfBudgets,
        shapes.Budgets,
        "Budgets and their use, filtered and sorted.",
    ),
    Endpoint(
        "POST",
        "/bucket",
        "bucket",
        asked.BucketBody,
        shapes.Budget,
        "One bucket by its descriptor, even if it has no counters yet.",
        missing=True,
    ),
    Endpoint(
        "POST",
        "/explain",
        "explain",
        asked.ExplainBody,
        seen.Explanation,
        "The answer that a descriptor would get now, and the reasons. Nothing is counted.",
    ),
    Endpoint(
        "GET",
        "/refusals",
        "refusals",
        asked.LaterRefusals,
        seen.Refusals,
        "The last refusals of this replica: at most 500, and at most 20 of each second.",
    ),
    Endpoint(
        "POST",
        "/series",
        "series",
        asked.BucketBody,
        seen.Series,
        "The tokens charged to a bucket over time, from the first request for its series on.",
        missing=True,
    ),
    Endpoint(
        "GET",
        "/usage",
        "usage",
        asked.PageOfUsage,
        seen.UsageOf,
        "What the buckets of a domain were charged, hour by hour or day by day, from their ledgers.",
    ),
    Endpoint(
        "GET",
        "/usage-amendments",
        "usage_amendments",
        asked.PageOfUsage,
        shapes.Audit,
        "The top-ups, overrides and resets of a domain in a span of time, from the audit.",
    ),
    Endpoint(
        "GET",
        "/replicas",
        "replicas",
        asked.Nothing,
        seen.Replicas,
        "All replicas, and whether they have the same rules and amendments.",
    ),
    Endpoint(
        "GET",
        "/rules",
        "rules",
        asked.PageOfRules,
        shapes.Rules,
        "The rules in force, and what was wrong with the last load.",
    ),
    Endpoint(
        "GET",
        "/control-planes",
        "control_planes",
        asked.Nothing,
        shapes.ControlPlanes,
        "The control planes that send rules over xDS, and what was wrong with their last sets.",
    ),
    Endpoint(
        "GET",
        "/amendments",
        "amendments",
        asked.PageOfAmendments,
        shapes.AmendmentList,
        "Amendments in force on this replica, the latest first.",
    ),
    Endpoint(
        "GET",
        "/audit",
        "audit",
        asked.PageOfAudit,
        shapes.Audit,
        "Who changed what, when and why, the latest first; the last 100,000 edits (in memory 10,000).",
    ),
    Endpoint(
        "POST",
        "/override",
        "override",
        asked.OverrideBody,
        shapes.Changed,
        "Set the limit of a descriptor, a pattern or a domain; 0 blocks.",
        changes=True,
    ),
    Endpoint(
        "POST",
        "/top-up",
        "top_up",
        asked.TopUpBody,
        shapes.Changed,
        "Add to the limit of a descriptor, a pattern or a domain.",
        changes=True,
    ),
    Endpoint(
        "POST",
        "/reset",
        "reset",
        asked.ResetBody,
        shapes.Changed,
        "Set the counters of a descriptor or a pattern to 0 in their present windows.",
        changes=True,
    ),
    Endpoint(
        "POST",
        "/unblock",
        "unblock",
        asked.UnblockBody,
        shapes.Changed,
        "Remove the override for exactly this descriptor or pattern, and this window.",
        changes=True,
        missing=True,
    ),
    Endpoint(
        "POST",
        "/remove",
        "remove",
        asked.RemoveBody,
        shapes.Changed,
        "Remove an amendment by its id.",
        changes=True,
        missing=True,
    ),
    Endpoint(
        "POST",
        "/changes",
        "changes",
        asked.ChangesBody,
        shapes.Changed,
        "Several changes, for limits in bulk: all come into force together.",
        changes=True,
        missing=True,
    ),
)
