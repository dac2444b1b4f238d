"""The values of each type are those that Go accepts."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.observe.logs import LEVELS
from ratelimit_service.settings.table import load_settings
from ratelimit_service.settings.types import host_port, read_duration

from .problems import problem


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_true_is_written_as_in_go(text: str) -> None:
    """Go's ParseBool."""
    assert load_settings({"SHADOW_MODE": text}).shadow_mode is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_false_is_written_as_in_go(text: str) -> None:
    """Go's ParseBool."""
    assert load_settings({"USE_PROMETHEUS": text}).use_prometheus is False


@pytest.mark.parametrize("text", ["yes", "no", "on", "TrUe", " true", "2", ""])
def test_other_truth_values_are_refused(text: str) -> None:
    """They are not taken for true or false."""
    assert problem("SHADOW_MODE", text).startswith(
        f'SHADOW_MODE="{text}" is not a boolean: give true or false (or 1, t, T, TRUE, True, 0, f, F,'
    )


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        ("0", 0.0),
        ("24h", 86400.0),
        ("1h30m", 5400.0),
        ("1.5s", 1.5),
        (".5s", 0.5),
        ("5.s", 5.0),
        ("150us", 0.00015),
        ("150µs", 0.00015),
        ("150μs", 0.00015),
        ("10ms", 0.01),
        ("7ns", 7e-9),
        ("+2m", 120.0),
        ("1m1m", 120.0),
    ],
)
def test_durations_are_written_as_in_go(text: str, seconds: float) -> None:
    """Go's ParseDuration, in seconds."""
    assert seconds == load_settings({"SHUTDOWN_GRACE": text}).shutdown_grace


@pytest.mark.parametrize(
    "text",
    ["", "+", "24", "h", ".s", "1d", "1 s", "1S", "-1s", "1e3s", "1,5s", "٣s", "9999999h", "1" * 5000 + "s"],
)
def test_other_durations_are_refused(text: str) -> None:
    """Including negative ones, and those beyond Go's range."""
    assert "is not a duration: give numbers with units, such as 24h, 1h30m, 1.5s, 150us, or 0" in problem(
        "SHUTDOWN_GRACE", text
    )


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int, millis: int) -> None:
    """For any parts."""
    expected = hours * 3600 + minutes * 60 + seconds + millis / 1000
    assert pytest.approx(expected) == read_duration(f"{hours}h{minutes}m{seconds}.{millis:03}s")


@pytest.mark.parametrize(
    ("text", "number"),
    [("10", 10), ("+10", 10), ("0x10", 16), ("0b11", 3), ("0o17", 15), ("017", 15), ("1_000", 1000)],
)
def test_whole_numbers_are_written_as_in_go(text: str, number: int) -> None:
    """Other bases are possible; a leading 0 means octal."""
    assert number == load_settings({"REDIS_POOL_SIZE": text}).redis_pool_size


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "08", "1.0", "ten", " 10", "1__0", "١٠", "99999999999", "1" * 5000]
)
def test_other_numbers_are_refused(text: str) -> None:
    """Including those that are invalid as the size of a pool."""
    assert "is not a whole number: give one from 1 to 2147483647" in problem("REDIS_POOL_SIZE", text)


@pytest.mark.parametrize(("text", "port"), [("0", 0), ("65535", 65535)])
def test_a_port_is_between_0_and_65535(text: str, port: int) -> None:
    """0 means any free port."""
    assert port == load_settings({"GRPC_PORT": text}).grpc_port


@pytest.mark.parametrize("text", [*LEVELS, "WARN", "Debug", "FATAL"])
def test_all_log_levels_of_upstream_are_supported(text: str) -> None:
    """In upper and lower case, by the settings and by the log."""
    assert load_settings({"LOG_LEVEL": text}).log_level in LEVELS


@pytest.mark.parametrize("text", ["loud", "notset", "critical"])
def test_a_log_level_that_upstream_lacks_is_refused(text: str) -> None:
    """So a deployment can go back to upstream."""
    assert problem("LOG_LEVEL", text).startswith(f'LOG_LEVEL="{text}" is not known here')


@pytest.mark.parametrize(
    ("text", "paths"),
    [("", ()), ("/etc/rules", ("/etc/rules",)), ("a.yaml, dir ,,", ("a.yaml", "dir"))],
)
def test_the_paths_of_the_configuration_are_separated_by_commas(text: str, paths: tuple[str, ...]) -> None:
    """Spaces around paths, and empty paths, are ignored."""
    assert paths == load_settings({"CONFIG_PATH": text}).config_path


@pytest.mark.parametrize(
    ("text", "address"),
    [
        (":9090", ("", 9090)),
        ("127.0.0.1:0", ("127.0.0.1", 0)),
        ("metrics.local:80", ("metrics.local", 80)),
        ("[::1]:9090", ("::1", 9090)),
        ("[::]:65535", ("::", 65535)),
    ],
)
def test_addresses_are_written_as_in_go(text: str, address: tuple[str, int]) -> None:
    """An empty host means every address of the machine."""
    assert address == load_settings({"PROMETHEUS_ADDR": text}).prometheus_address


@pytest.mark.parametrize(
    "text", ["", ":", "9090", "a:b", "::1:9090", "[::1]", "a b:1", ":65536", ":١", "host:"]
)
def test_an_invalid_address_is_refused(text: str) -> None:
    """The service does not listen at another one."""
    with pytest.raises(ValueError, match="is not an address"):
        host_port(text)
