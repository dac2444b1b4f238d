"""The settings of refusals: what a refused caller receives beside the verdict."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..core.answers.dialects import DIALECTS
from ..core.answers.refusal import HEADERS
from ..core.planning import FULL, MINIMAL
from .field import setting
from .types import Duration, choice, some_of

REFUSALS = "Refusals"


@dataclass(frozen=True, kw_only=True)
class RefusalSettings:
    """The part of `settings.Settings` that is about refusals."""

    refusal_headers: Annotated[frozenset[str], some_of(*HEADERS)] = setting(
        REFUSALS,
        "retry-after,content-type,x-should-retry",
        "Which headers a refusal has: retry-after, content-type, x-should-retry, x-envoy-ratelimited, x-ratelimit (limit, "
        "remaining and reset of the limit that refused). Envoy adds the last two itself, agentgateway does not. Ours.",
    )
    refusal_body: Annotated[str, choice(*DIALECTS, "none")] = setting(
        REFUSALS,
        "openai",
        "The shape of a refusal's body where the rules have no error_format: openai, anthropic, gemini or problem+json; none: "
        "no body. Ours.",
    )
    refusal_details: Annotated[Literal["full", "minimal"], choice(FULL, MINIMAL)] = setting(
        REFUSALS,
        "full",
        "How much a refusal says where the rules have no error_details: everything (full), or the name of the limit and when it "
        "resets, but never the limit, the use or the subject (minimal). Ours.",
    )
    refusal_retry_within: Duration = setting(
        REFUSALS,
        "60s",
        "A refusal asks for a retry where the limit resets within this time; where it resets later, it asks clients to stop, with "
        "x-should-retry: false. Ours.",
    )
    refusal_retry_jitter: Duration = setting(
        REFUSALS,
        "5s",
        "A retry-after is longer than the limit takes to reset by a random time up to this, so that callers do not all come back "
        "in the same second; whole seconds. Ours.",
    )
    ietf_ratelimit_fields: Annotated[Literal["none", "draft-11"], choice("none", "draft-11")] = setting(
        REFUSALS,
        "none",
        "Whether answers, refusals or not, carry RateLimit-Policy and RateLimit as in draft-ietf-httpapi-ratelimit-headers-11 "
        "(draft-11), or not (none). Ours.",
    )
