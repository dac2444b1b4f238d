"""Control planes in the API: without any, and as one or several workers report them."""

from __future__ import annotations

from typing import Any

import pytest

from ratelimit_service.api.response_types import ControlPlane, ControlPlanes
from ratelimit_service.assembly.operators import most_troubled

from .served_api import ServedApi


def seen(*overlay_problems: str, **more: Any) -> ControlPlanes:
    """Return the report of one worker about one control plane."""
    plane: ControlPlane = {
        "server": "eg",
        "connected": True,
        "since": "2026-11-28T10:00:00Z",
        "error": None,
        "generation": 3,
        "hash": "4be1a90c77d2",
        "version": "12",
        "accepted_at": "2026-11-28T10:00:00Z",
        "answered_at": "2026-11-28T10:00:00Z",
        "stale_since": None,
        "domains": 2,
        "rejected_domains": 0,
        "rejected": [],
        "missing": [],
    }
    return {
        "control_planes": [{**plane, **more}],  # type: ignore[typeddict-item]
        "overlay_problems": list(overlay_problems),
    }


async def test_a_service_without_control_planes_has_an_empty_list(api: ServedApi) -> None:
    """The status is not 404, because the page sends this request to every service."""
    assert {"control_planes": [], "overlay_problems": []} == await api.get("/control-planes")


@pytest.mark.parametrize(
    "trouble",
    [
        {"generation": 0},
        {"connected": False, "error": "UNAVAILABLE: gone"},
        {"stale_since": "2026-11-28T10:00:00Z"},
        {"rejected_domains": 1, "rejected": ["shop: unknown unit"]},
    ],
    ids=lambda trouble: next(iter(trouble)),
)
def test_the_report_of_the_worker_with_the_worst_state_is_returned(trouble: dict[str, Any]) -> None:
    """Whichever worker handles the request, the problems of the others are visible."""
    fine, troubled = seen(), seen("a.yaml: not a mapping", **trouble)
    for workers in ([fine, troubled, fine], [troubled, fine], [fine, fine, troubled]):
        assert troubled == most_troubled(workers)


def test_a_worker_that_does_not_answer_is_left_out() -> None:
    """A worker that has just started gets no request."""
    assert seen() == most_troubled([seen()])
