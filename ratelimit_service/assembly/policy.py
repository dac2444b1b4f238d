"""The settings that influence answers, in the form that the service takes."""

from __future__ import annotations

import itertools
import random

from ..core.answers.refusal import Spread
from ..core.bounds import RequestBounds
from ..core.plan import FailureMode, Policy
from ..core.prepared import Jitter
from ..deadlines import Patience
from ..settings.table import Settings


def policy_of(settings: Settings) -> Policy:
    """Return the settings that influence answers."""
    headers = settings.limit_response_headers_enabled
    return Policy(
        near_limit_ratio=settings.near_limit_ratio,
        shadow_mode=settings.shadow_mode,
        quota_mode=settings.quota_mode,
        stop_when_over=settings.stop_cache_key_increment_when_overlimit,
        key_prefix=settings.cache_key_prefix,
        limit_header=settings.limit_limit_header if headers else "",
        remaining_header=settings.limit_remaining_header if headers else "",
        reset_header=settings.limit_reset_header if headers else "",
        dynamic_metadata=settings.response_dynamic_metadata,
        bounds=RequestBounds(settings.request_max_descriptors, settings.request_max_entries),
        failure_mode=FailureMode(settings.store_failure_mode),
        refusal_headers=settings.refusal_headers,
        error_format="" if settings.refusal_body == "none" else settings.refusal_body,
        error_details=settings.refusal_details,
        retry_within=int(settings.refusal_retry_within),
        hold_entries=settings.hold_entries,
        ietf_fields=settings.ietf_ratelimit_fields == "draft-11",
    )


def patience_of(settings: Settings) -> Patience:
    """Return how long calls wait for the store."""
    return Patience(settings.store_answer_margin, settings.store_answer_deadline)


def jitter_of(settings: Settings) -> Jitter:
    """Return a function that draws how much longer than its window a counter is kept.

    It returns 0 to EXPIRATION_JITTER_MAX_SECONDS - 1 seconds.
    """
    most = settings.expiration_jitter_max_seconds
    # As random as a draw for each counter, and faster.
    return itertools.cycle(random.choices(range(max(most, 1)), k=10_007)).__next__


def spread_of(settings: Settings) -> Spread:
    """Return a function that draws the jitter of retry-after: 0 to REFUSAL_RETRY_JITTER, in whole seconds."""
    most = int(settings.refusal_retry_jitter)
    return itertools.cycle(random.choices(range(most + 1), k=10_007)).__next__ if most else lambda: 0
