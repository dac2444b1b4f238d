"""The OpenAPI description is true: every response of the API conforms to it, whatever the request."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from schemathesis import GenerationMode
from schemathesis.config import SchemathesisConfig

from ratelimit_service.api.endpoints import ENDPOINTS, Endpoint
from ratelimit_service.api.openapi import description
from testing.service import Service

from .served_api import ADMIN, RULES, bearer


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Service]:
    """A service that counts in memory."""
    rules = tmp_path_factory.mktemp("rules") / "rules.yaml"
    rules.write_text(RULES)
    with Service({"BACKEND_TYPE": "memory", "CONFIG_PATH": str(rules), "ADMIN_TOKEN": ADMIN}) as service:
        yield service


CONFIG = SchemathesisConfig.from_dict(
    {
        "checks": {
            # A field of the right type may still have an invalid value: 422.
            "negative_data_rejection": {"expected-statuses": ["400", "401", "413", "422", "429"]},
            "positive_data_acceptance": {"expected-statuses": ["2xx", "404", "409", "422", "429"]},
        }
    }
)


SCHEMA = schemathesis.openapi.from_dict(description(), config=CONFIG)

EXAMPLES = 12
"""Requests of each kind to each endpoint."""


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=lambda mode: mode.value
)
@pytest.mark.parametrize("endpoint", ENDPOINTS, ids=lambda endpoint: endpoint.name)
def test_every_response_is_described(service: Service, endpoint: Endpoint, mode: GenerationMode) -> None:
    """For valid and invalid requests, there is never a 500, nor a status, type or field that is missing from
    the description.
    """
    operation = SCHEMA[endpoint.path][endpoint.method.lower()]
    if mode is GenerationMode.NEGATIVE and not (operation.body or operation.query or operation.headers):
        pytest.skip("no part of the request could be invalid")

    @given(operation.as_strategy(generation_mode=mode))
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def run(case: Any) -> None:
        headers = {**(case.headers or {}), **bearer(ADMIN)}
        case.call_and_validate(base_url=f"http://{service.debug}/api/v1", headers=headers)

    run()


def test_the_served_description_is_that_of_the_code(service: Service) -> None:
    """Word for word."""
    answer = httpx.get(f"http://{service.debug}/api/v1/openapi.json", trust_env=False, timeout=60)
    assert description() == answer.json()
