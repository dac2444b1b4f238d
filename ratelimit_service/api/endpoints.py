"""The table of endpoints: what each takes, returns and does."""

from __future__ import annotations

from typing import Literal, NamedTuple

from . import inspection_types, request_types, response_types

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
    Endpoint(
        "GET", "/openapi.json", "openapi", request_types.Nothing, None, "This description, as OpenAPI 3.1."
    ),
    Endpoint(
        "GET",
        "/status",
        "status",
        request_types.Nothing,
        response_types.Status,
        "The state of this replica, and the rights of the caller.",
    ),
    Endpoint(
        "GET",
        "/budgets",
        "budgets",
        request_types.PageOfBudgets,
        response_types.Budgets,
        "Budgets and their use, filtered and sorted.",
    ),
    Endpoint(
        "POST",
        "/bucket",
        "bucket",
        request_types.BucketBody,
        response_types.Budget,
        "One bucket by its descriptor, even if it has no counters yet.",
        missing=True,
    ),
    Endpoint(
        "POST",
        "/explain",
        "explain",
        request_types.ExplainBody,
        inspection_types.Explanation,
        "The answer that a descriptor would get now, and the reasons. Nothing is counted.",
    ),
    Endpoint(
        "GET",
        "/refusals",
        "refusals",
        request_types.LaterRefusals,
        inspection_types.Refusals,
        "The last refusals of this replica: at most 500, and at most 20 of each second.",
    ),
    Endpoint(
        "POST",
        "/series",
        "series",
        request_types.BucketBody,
        inspection_types.Series,
        "The tokens charged to a bucket over time, from the first request for its series on.",
        missing=True,
    ),
    Endpoint(
        "GET",
        "/usage",
        "usage",
        request_types.PageOfUsage,
        inspection_types.UsageOf,
        "The charges of the buckets of a domain by hour or by day, from their ledgers.",
    ),
    Endpoint(
        "GET",
        "/usage-amendments",
        "usage_amendments",
        request_types.PageOfUsage,
        response_types.Audit,
        "The top-ups, overrides and resets of a domain in a span of time, from the audit.",
    ),
    Endpoint(
        "GET",
        "/replicas",
        "replicas",
        request_types.Nothing,
        inspection_types.Replicas,
        "All replicas, and whether they have the same rules and amendments.",
    ),
    Endpoint(
        "GET",
        "/rules",
        "rules",
        request_types.PageOfRules,
        response_types.Rules,
        "The rules in force, and what was wrong with the last load.",
    ),
    Endpoint(
        "GET",
        "/control-planes",
        "control_planes",
        request_types.Nothing,
        response_types.ControlPlanes,
        "The control planes that send rules over xDS, and what was wrong with their last sets.",
    ),
    Endpoint(
        "GET",
        "/amendments",
        "amendments",
        request_types.PageOfAmendments,
        response_types.AmendmentList,
        "Amendments in force on this replica, the latest first.",
    ),
    Endpoint(
        "GET",
        "/audit",
        "audit",
        request_types.PageOfAudit,
        response_types.Audit,
        "All changes with their authors, times and reasons, the latest first; the last 100,000 edits (in "
        "memory 10,000).",
    ),
    Endpoint(
        "POST",
        "/override",
        "override",
        request_types.OverrideBody,
        response_types.Changed,
        "Set the limit of a descriptor, a pattern or a domain; 0 blocks.",
        changes=True,
    ),
    Endpoint(
        "POST",
        "/top-up",
        "top_up",
        request_types.TopUpBody,
        response_types.Changed,
        "Add to the limit of a descriptor, a pattern or a domain.",
        changes=True,
    ),
    Endpoint(
        "POST",
        "/reset",
        "reset",
        request_types.ResetBody,
        response_types.Changed,
        "Set the counters of a descriptor or a pattern to 0 in their present windows.",
        changes=True,
    ),
    Endpoint(
        "POST",
        "/unblock",
        "unblock",
        request_types.UnblockBody,
        response_types.Changed,
        "Remove the override for exactly this descriptor or pattern, and this window.",
        changes=True,
        missing=True,
    ),
    Endpoint(
        "POST",
        "/remove",
        "remove",
        request_types.RemoveBody,
        response_types.Changed,
        "Remove an amendment by its id.",
        changes=True,
        missing=True,
    ),
    Endpoint(
        "POST",
        "/changes",
        "changes",
        request_types.ChangesBody,
        response_types.Changed,
        "Several changes, for limits in bulk: all come into force together.",
        changes=True,
        missing=True,
    ),
)
