"""The settings of the process: reading, validation, and error messages."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.errors import InvalidSetting
from ratelimit_service.settings.redis_target import redis_target
from ratelimit_service.settings.table import documented, load_settings

from .problems import problem


def test_all_defaults_but_six_are_those_of_upstream() -> None:
    """So an image can be replaced without new settings. The table has upstream's default where ours
    differs.
    """
    ours = {doc.name: doc.meaning for doc in documented()}
    differing = {name for name, meaning in ours.items() if "envoyproxy/ratelimit: " in meaning}
    assert {
        "DEBUG_HOST",
        "USE_PROMETHEUS",
        "LOG_LEVEL",
        "BACKEND_TYPE",
        "REDIS_TIMEOUT",
        "REDIS_PERSECOND_TIMEOUT",
    } == differing


def test_an_empty_environment_has_the_defaults() -> None:
    """Spot checks of each kind of value."""
    settings = load_settings({})
    assert ("0.0.0.0", 8080, 8081, "127.0.0.1", 6070) == (
        settings.host,
        settings.port,
        settings.grpc_port,
        settings.debug_host,
        settings.debug_port,
    )
    assert (86400.0, 3600.0, 1.0, 10.0) == (
        settings.grpc_max_connection_age,
        settings.grpc_max_connection_age_grace,
        settings.redis_timeout,
        settings.shutdown_grace,
    )
    assert (True, "info", "text", ()) == (
        settings.use_prometheus,
        settings.log_level,
        settings.log_format,
        settings.config_path,
    )
    assert ("off", 1.0, 1_000) == (
        settings.decision_log,
        settings.decision_log_sample,
        settings.track_max_buckets,
    )
    assert (300, 0.8, "RateLimit-Limit") == (
        settings.expiration_jitter_max_seconds,
        settings.near_limit_ratio,
        settings.limit_limit_header,
    )


def test_the_environment_of_the_process_is_not_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Only the mapping that is passed in is read."""
    monkeypatch.setenv("GRPC_PORT", "9999")
    assert 8081 == load_settings({}).grpc_port


def test_an_option_takes_precedence_over_its_variable() -> None:
    """Other variables keep their values."""
    settings = load_settings({"PORT": "1", "GRPC_PORT": "2"}, {"PORT": "3"})
    assert (3, 2) == (settings.port, settings.grpc_port)


def test_an_option_is_validated_like_a_variable() -> None:
    """The message is the same, whether the value comes from the command line or the environment."""
    with pytest.raises(InvalidSetting, match=r"^PORT="):
        load_settings({"PORT": "80"}, {"PORT": "eighty"})


def test_settings_are_immutable() -> None:
    """Parts that were started with them would not notice a change."""
    with pytest.raises(FrozenInstanceError):
        load_settings({}).port = 1  # type: ignore[misc]


@pytest.mark.parametrize(
    ("name", "value", "line"),
    [
        ("GRPC_PORT", "65536", 'GRPC_PORT="65536" is not a port: give one from 0 to 65535'),
        ("PORT", "", 'PORT="" is not a port: give one from 0 to 65535, or leave PORT unset'),
        (
            "NEAR_LIMIT_RATIO",
            "nan",
            'NEAR_LIMIT_RATIO="nan" is not a ratio: give a number from 0 to 1, such as 0.8',
        ),
        (
            "NEAR_LIMIT_RATIO",
            "-1",
            'NEAR_LIMIT_RATIO="-1" is not a ratio: give a number from 0 to 1, such as 0.8',
        ),
        (
            "DECISION_LOG_SAMPLE",
            "10%",
            'DECISION_LOG_SAMPLE="10%" is not a ratio: give a number from 0 to 1, such as 0.8',
        ),
        (
            "DECISION_LOG_SAMPLE",
            "1.5",
            'DECISION_LOG_SAMPLE="1.5" is more than 1: give a number from 0 to 1, such as 0.1 for a tenth',
        ),
        ("DECISION_LOG", "on", 'DECISION_LOG="on" is not known here: give off, refused or all'),
        ("TRACK_MAX_BUCKETS", "0", 'TRACK_MAX_BUCKETS="0" is not a whole number: give one from 1 to 10000'),
        (
            "LOG_LEVEL",
            "loud",
            'LOG_LEVEL="loud" is not known here: give trace, debug, info, warning, error, fatal or panic',
        ),
        ("LOG_FORMAT", "xml", 'LOG_FORMAT="xml" is not known here: give text or json'),
        (
            "CONFIG_TYPE",
            "file,etcd",
            'CONFIG_TYPE="file,etcd" is not known here: give FILE or GRPC_XDS_SOTW, '
            "or both with a comma between them",
        ),
        ("BACKEND_TYPE", "memcache", 'BACKEND_TYPE="memcache" is not supported: give redis or memory'),
        ("BACKEND_TYPE", "etcd", 'BACKEND_TYPE="etcd" is not known here: give memory or redis'),
        (
            "REDIS_TYPE",
            "sharded",
            'REDIS_TYPE="sharded" is not known here: give SINGLE, SENTINEL or CLUSTER',
        ),
        (
            "REDIS_TIMEOUT",
            "0",
            'REDIS_TIMEOUT="0" is not a positive duration: give more than 0, such as 1s or 250ms',
        ),
        (
            "PROMETHEUS_ADDR",
            "9090",
            'PROMETHEUS_ADDR="9090" is not an address: give host:port, such as :9090, '
            "127.0.0.1:9090 or [::1]:9090",
        ),
        (
            "PROMETHEUS_PATH",
            "metrics",
            'PROMETHEUS_PATH="metrics" is not a path: give one that begins with a slash, such as /metrics',
        ),
        (
            "LIMIT_LIMIT_HEADER",
            "X Limit",
            'LIMIT_LIMIT_HEADER="X Limit" is not the name of a header: '
            "give letters, digits and dashes, such as RateLimit-Limit",
        ),
        (
            "CACHE_KEY_PREFIX",
            "\udcff",
            r'CACHE_KEY_PREFIX="\udcff" is not UTF-8: give text without other bytes',
        ),
    ],
)
def test_an_invalid_value_is_refused_in_one_line(name: str, value: str, line: str) -> None:
    """It has the variable, the value, the mistake and a correction."""
    assert line == problem(name, value)


def test_all_invalid_values_are_reported_together() -> None:
    """One start reports every mistake."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings({"PORT": "x", "SHADOW_MODE": "x", "REDIS_TIMEOUT": "x", "HOST": "fine"})
    assert ["PORT", "REDIS_TIMEOUT", "SHADOW_MODE"] == [
        line.partition("=")[0] for line in str(refused.value).splitlines()
    ]


def test_an_invalid_value_cannot_add_lines_to_the_message() -> None:
    """It is escaped, and cut if it is long."""
    line = problem("PORT", "1\nPORT is fine\x1b[2J" + "x" * 1000)
    assert line.startswith(r'PORT="1\nPORT is fine\x1b[2Jxxx')
    assert (1, True) == (len(line.splitlines()), len(line) < 300)


def test_an_empty_text_is_a_value() -> None:
    """As in upstream, only an unset variable has its default."""
    settings = load_settings(
        {"HOST": "", "RUNTIME_APPDIRECTORY": "", "LIMIT_LIMIT_HEADER": "", "LOG_FORMAT": ""}
    )
    assert ("", "", "", "text") == (
        settings.host,
        settings.runtime_appdirectory,
        settings.limit_limit_header,
        settings.log_format,
    )


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"REDIS_AUTH": "x", "REDIS_AUTH_FILE": "/run/password"},
            'REDIS_AUTH_FILE="/run/password" is set together with REDIS_AUTH: give only one of them',
        ),
        (
            {"REDIS_PERSECOND_AUTH": "x", "REDIS_PERSECOND_AUTH_FILE": "/run/password"},
            'REDIS_PERSECOND_AUTH_FILE="/run/password" is set together with REDIS_PERSECOND_AUTH: give only '
            "one of them",
        ),
        (
            {"REDIS_TLS_CLIENT_KEY": "/key.pem"},
            'REDIS_TLS_CLIENT_KEY="/key.pem" has no certificate: give REDIS_TLS_CLIENT_CERT as well',
        ),
    ],
)
def test_contradictory_settings_are_refused(environ: dict[str, str], line: str) -> None:
    """Neither of them silently takes precedence."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings(environ)
    assert line == str(refused.value)


SECRETS = [
    {"REDIS_URL": "redis://:hunter2@redis:99999"},
    {"REDIS_URL": "redis://:hunter2@"},
    {"REDIS_URL": "redis//:hunter2@redis:6379"},
    {"REDIS_URL": "redis://redis:6379?password=hunter2"},
    {"REDIS_URL": "redis://x@hunter2"} | {"PORT": "x"},
    {"REDIS_AUTH": "hunter2\udcff"},
    {"REDIS_AUTH": "hunter2", "PORT": "x"},
    {"REDIS_TYPE": "CLUSTER", "REDIS_URL": "redis://one:1,redis://:hunter2@two:0"},
    {"REDIS_TYPE": "SENTINEL", "REDIS_URL": "hunter2@one:1"},
    {"REDIS_PERSECOND": "true", "REDIS_PERSECOND_URL": "redis://:hunter2@redis:99999"},
    {"REDIS_SENTINEL_AUTH": "hunter2\udcff"},
    {"ADMIN_TOKEN": "hunter2"},
    {"ADMIN_TOKEN": "hunter2 and more than that", "READ_TOKEN": "hunter2"},
    {"ADMIN_TOKEN": "hunter2-0123456789", "READ_TOKEN": "hunter2-0123456789"},
    {"ADMIN_TOKEN": "hunter2-0123456789", "ADMIN_TOKEN_FILE": "token"},
    {"REDIS_PERSECOND_AUTH": "hunter2\udcff", "REDIS_PERSECOND_SENTINEL_AUTH": "hunter2\udcff"},
]


@pytest.mark.parametrize("environ", SECRETS)
def test_no_error_contains_a_secret(environ: dict[str, str]) -> None:
    """Neither the line nor the exception that Python would print."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings(environ)
    assert "hunter2" not in str(refused.value)
    assert (None, None) == (refused.value.__cause__, refused.value.__context__)


def test_settings_hide_secrets() -> None:
    """When they are printed or dumped."""
    settings = load_settings(
        {
            "REDIS_URL": "redis://:hunter2@redis:6379",
            "REDIS_AUTH": "hunter3",
            "ADMIN_TOKEN": "hunter4-0123456789",
        }
    )
    shown = f"{settings!r} {settings} {asdict(settings)} {settings.redis!r} {settings.redis.address}"
    assert "hunter" not in shown


@given(st.text())
def test_credentials_in_a_url_are_never_shown(text: str) -> None:
    """Neither the address nor an error message contains the text before an `@`."""
    try:
        said = redis_target(f"{text}:hunter2@host:6379").address
    except ValueError as error:
        said = str(error)
    assert "hunter2" not in said
