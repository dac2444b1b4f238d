"""The settings of refusals, from the environment to the policy."""

from __future__ import annotations

import pytest

from ratelimit_service.assembly.policy import policy_of, spread_of
from ratelimit_service.core.errors import InvalidSetting
from ratelimit_service.settings.table import load_settings


def test_the_defaults_suit_all_sdks() -> None:
    """Every SDK honours a delay of up to 60 s. x-should-retry is sent."""
    settings = load_settings({})
    policy = policy_of(settings)
    assert (
        frozenset(("retry-after", "content-type", "x-should-retry")),
        "openai",
        "full",
        60,
        False,
    ) == (
        policy.refusal_headers,
        policy.error_format,
        policy.error_details,
        policy.retry_within,
        policy.ietf_fields,
    )
    spread = spread_of(settings)
    assert {0, 1, 2, 3, 4, 5} == {spread() for _ in range(1_000)}


@pytest.mark.parametrize(
    "settings, expected",
    [
        ({"REFUSAL_BODY": "none"}, ("", "full", 60, False)),
        ({"REFUSAL_BODY": "Problem+JSON"}, ("problem+json", "full", 60, False)),
        ({"REFUSAL_DETAILS": "minimal", "REFUSAL_RETRY_WITHIN": "2m"}, ("openai", "minimal", 120, False)),
        ({"REFUSAL_RETRY_WITHIN": "0", "IETF_RATELIMIT_FIELDS": "draft-11"}, ("openai", "full", 0, True)),
    ],
)
def test_each_setting_has_its_effect(settings: dict[str, str], expected: tuple[str, str, int, bool]) -> None:
    """Values may be in upper or lower case."""
    policy = policy_of(load_settings(settings))
    assert expected == (policy.error_format, policy.error_details, policy.retry_within, policy.ietf_fields)


@pytest.mark.parametrize("jitter", ["0", "0s", "900ms"])
def test_a_jitter_of_less_than_a_second_is_none(jitter: str) -> None:
    """`retry-after` has whole seconds."""
    spread = spread_of(load_settings({"REFUSAL_RETRY_JITTER": jitter}))
    assert [0] * 20 == [spread() for _ in range(20)]


@pytest.mark.parametrize(
    "name, value, hint",
    [
        ("REFUSAL_BODY", "json", "give openai, anthropic, gemini, problem+json or none"),
        ("REFUSAL_BODY", "", "or leave REFUSAL_BODY unset"),
        ("REFUSAL_DETAILS", "none", "give full or minimal"),
        ("REFUSAL_HEADERS", "retry-afetr", "x-should-retry"),
        ("REFUSAL_RETRY_WITHIN", "60", "is not a duration"),
        ("REFUSAL_RETRY_JITTER", "-1s", "is not a duration"),
        ("IETF_RATELIMIT_FIELDS", "draft-10", "give none or draft-11"),
    ],
)
def test_an_invalid_value_is_refused_with_the_valid_ones(name: str, value: str, hint: str) -> None:
    with pytest.raises(InvalidSetting) as caught:
        load_settings({name: value})
    assert str(caught.value).startswith(name) and hint in str(caught.value)
