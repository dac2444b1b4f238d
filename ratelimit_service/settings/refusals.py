"""The settings of refusals."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from ..core.answers.dialects import DIALECTS
from ..core.answers.refusal import HEADERS
from ..core.plan import FULL, MINIMAL
from .field import setting
from .holds import HoldSettings
from .types import Duration, choice, some_of

REFUSALS = "Refusals"


@dataclass(frozen=True, kw_only=True)
class RefusalSettings(HoldSettings):
    """The fields of `table.Settings` for refusals."""

    refusal_headers: Annotated[frozenset[str], some_of(*HEADERS)] = setting(
        REFUSALS,
        "retry-after,content-type,x-should-retry",
        "The headers of a refusal: retry-after, content-type, x-should-retry, x-envoy-ratelimited, "
        "x-ratelimit (limit, remaining and reset of the limit that refused). Envoy adds the last two "
        "itself, agentgateway does not. Ours.",
    )
    refusal_body: Annotated[str, choice(*DIALECTS, "none")] = setting(
        REFUSALS,
        "openai",
        "The format of a refusal's body for rules without error_format: openai, anthropic, gemini or "
        "problem+json; none: no body. Ours.",
    )
    refusal_details: Annotated[Literal["full", "minimal"], choice(FULL, MINIMAL)] = setting(
        REFUSALS,
        "full",
        "The details of a refusal for rules without error_details: full, or minimal: the name of the "
        "limit and when it resets, but not the limit, the use or the subject. Ours.",
    )
    refusal_retry_within: Duration = setting(
        REFUSALS,
        "60s",
        "A refusal asks for a retry if the limit resets within this time; otherwise it asks clients to "
        "stop, with x-should-retry: false. Ours.",
    )
    refusal_retry_jitter: Duration = setting(
        REFUSALS,
        "5s",
        "retry-after is longer than the time to the reset by a random number of seconds up to this, so "
        "that callers do not all retry in the same second. Ours.",
    )
    ietf_ratelimit_fields: Annotated[Literal["none", "draft-11"], choice("none", "draft-11")] = setting(
        REFUSALS,
        "none",
        "Whether answers have RateLimit-Policy and RateLimit as in "
        "draft-ietf-httpapi-ratelimit-headers-11 (draft-11), or not (none). Ours.",
    )
