"""The settings of the process: what is read from the environment, what is refused, and what is said about it."""

from __future__ import annotations

from dataclasses import FrozenInstanceError, asdict

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ratelimit_service.core.errors import InvalidSetting
from ratelimit_service.observe.logs import LEVELS
from ratelimit_service.settings.redis_target import RedisType, redis_target
from ratelimit_service.settings.table import documented, load_settings
from ratelimit_service.settings.types import host_port, read_duration
from ratelimit_service.settings.unsupported import UNNEEDED, UNSUPPORTED, unsupported


def problem(name: str, value: str) -> str:
    """The line that refuses this value."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings({name: value})
    return str(refused.value)


def test_every_default_of_envoyproxy_ratelimit_is_ours_but_six() -> None:
    """An image can be swapped without setting anything; where the default is ours, the table says theirs."""
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
    """Only what is handed over counts."""
    monkeypatch.setenv("GRPC_PORT", "9999")
    assert 8081 == load_settings({}).grpc_port


def test_an_option_wins_over_the_environment() -> None:
    """And what it does not mention stays."""
    settings = load_settings({"PORT": "1", "GRPC_PORT": "2"}, {"PORT": "3"})
    assert (3, 2) == (settings.port, settings.grpc_port)


def test_an_option_is_validated_like_a_variable() -> None:
    """The same line, whether the value came from the command line or the environment."""
    with pytest.raises(InvalidSetting, match=r"^PORT="):
        load_settings({"PORT": "80"}, {"PORT": "eighty"})


def test_settings_cannot_be_changed() -> None:
    """Nothing that has been started with them would notice."""
    with pytest.raises(FrozenInstanceError):
        load_settings({}).port = 1  # type: ignore[misc]


@pytest.mark.parametrize("text", ["1", "t", "T", "TRUE", "true", "True"])
def test_what_go_reads_as_true_is_true(text: str) -> None:
    """Go's ParseBool."""
    assert load_settings({"SHADOW_MODE": text}).shadow_mode is True


@pytest.mark.parametrize("text", ["0", "f", "F", "FALSE", "false", "False"])
def test_what_go_reads_as_false_is_false(text: str) -> None:
    """Go's ParseBool."""
    assert load_settings({"USE_PROMETHEUS": text}).use_prometheus is False


@pytest.mark.parametrize("text", ["yes", "no", "on", "TrUe", " true", "2", ""])
def test_what_go_does_not_read_as_a_truth_value_is_refused(text: str) -> None:
    """Rather than taken for the one or the other."""
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
def test_durations_are_read_as_go_reads_them(text: str, seconds: float) -> None:
    """Go's ParseDuration, in seconds."""
    assert seconds == load_settings({"SHUTDOWN_GRACE": text}).shutdown_grace


@pytest.mark.parametrize(
    "text",
    ["", "+", "24", "h", ".s", "1d", "1 s", "1S", "-1s", "1e3s", "1,5s", "٣s", "9999999h", "1" * 5000 + "s"],
)
def test_other_durations_are_refused(text: str) -> None:
    """Also one that is negative, or that Go has no room for."""
    assert "is not a duration: give numbers with units, such as 24h, 1h30m, 1.5s, 150us, or 0" in problem(
        "SHUTDOWN_GRACE", text
    )


@given(st.integers(0, 10**6), st.integers(0, 59), st.integers(0, 59), st.integers(0, 999))
def test_the_parts_of_a_duration_add_up(hours: int, minutes: int, seconds: int, millis: int) -> None:
    """Whatever they are."""
    expected = hours * 3600 + minutes * 60 + seconds + millis / 1000
    assert pytest.approx(expected) == read_duration(f"{hours}h{minutes}m{seconds}.{millis:03}s")


@pytest.mark.parametrize(
    ("text", "number"),
    [("10", 10), ("+10", 10), ("0x10", 16), ("0b11", 3), ("0o17", 15), ("017", 15), ("1_000", 1000)],
)
def test_whole_numbers_are_read_as_go_reads_them(text: str, number: int) -> None:
    """Also in other bases, of which the 0 in front is the surprising one."""
    assert number == load_settings({"REDIS_POOL_SIZE": text}).redis_pool_size


@pytest.mark.parametrize(
    "text", ["", "0", "-1", "08", "1.0", "ten", " 10", "1__0", "١٠", "99999999999", "1" * 5000]
)
def test_other_numbers_are_refused(text: str) -> None:
    """Also one that cannot be a pool of connections."""
    assert "is not a whole number: give one from 1 to 2147483647" in problem("REDIS_POOL_SIZE", text)


@pytest.mark.parametrize(("text", "port"), [("0", 0), ("65535", 65535)])
def test_a_port_is_a_port(text: str, port: int) -> None:
    """0 stands for any free one."""
    assert port == load_settings({"GRPC_PORT": text}).grpc_port


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
            'CONFIG_TYPE="file,etcd" is not known here: give FILE or GRPC_XDS_SOTW, or both with a comma between them',
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
            'PROMETHEUS_ADDR="9090" is not an address: give host:port, such as :9090, 127.0.0.1:9090 or [::1]:9090',
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
def test_a_bad_value_is_refused_in_one_clear_line(name: str, value: str, line: str) -> None:
    """Which variable, which value, what is wrong, and what would be right."""
    assert line == problem(name, value)


def test_all_bad_values_are_reported_together() -> None:
    """Nobody has to start the process once for each mistake."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings({"PORT": "x", "SHADOW_MODE": "x", "REDIS_TIMEOUT": "x", "HOST": "fine"})
    assert ["PORT", "REDIS_TIMEOUT", "SHADOW_MODE"] == [
        line.partition("=")[0] for line in str(refused.value).splitlines()
    ]


def test_a_bad_value_cannot_write_lines_of_its_own() -> None:
    """It is escaped, and cut where it is long."""
    line = problem("PORT", "1\nPORT is fine\x1b[2J" + "x" * 1000)
    assert line.startswith(r'PORT="1\nPORT is fine\x1b[2Jxxx')
    assert (1, True) == (len(line.splitlines()), len(line) < 300)


def test_text_that_is_set_to_nothing_is_nothing() -> None:
    """As upstream does it: only a variable that is not set has its default."""
    settings = load_settings(
        {"HOST": "", "RUNTIME_APPDIRECTORY": "", "LIMIT_LIMIT_HEADER": "", "LOG_FORMAT": ""}
    )
    assert ("", "", "", "text") == (
        settings.host,
        settings.runtime_appdirectory,
        settings.limit_limit_header,
        settings.log_format,
    )


@pytest.mark.parametrize("text", [*LEVELS, "WARN", "Debug", "FATAL"])
def test_the_levels_of_upstream_are_known_to_the_settings_and_to_the_log(text: str) -> None:
    """In upper and lower case."""
    assert load_settings({"LOG_LEVEL": text}).log_level in LEVELS


@pytest.mark.parametrize("text", ["loud", "notset", "critical"])
def test_a_level_that_upstream_does_not_have_is_refused(text: str) -> None:
    """So that a deployment can move back."""
    assert problem("LOG_LEVEL", text).startswith(f'LOG_LEVEL="{text}" is not known here')


@pytest.mark.parametrize(
    ("text", "paths"),
    [("", ()), ("/etc/rules", ("/etc/rules",)), ("a.yaml, dir ,,", ("a.yaml", "dir"))],
)
def test_the_paths_of_the_configuration_are_separated_by_commas(text: str, paths: tuple[str, ...]) -> None:
    """Space around them and empty ones do not count."""
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
def test_an_address_is_read_as_go_writes_it(text: str, address: tuple[str, int]) -> None:
    """Without a host it is every address of the machine."""
    assert address == load_settings({"PROMETHEUS_ADDR": text}).prometheus_address


@pytest.mark.parametrize(
    "text", ["", ":", "9090", "a:b", "::1:9090", "[::1]", "a b:1", ":65536", ":١", "host:"]
)
def test_what_is_not_an_address_is_refused(text: str) -> None:
    """Rather than listening somewhere else."""
    with pytest.raises(ValueError, match="is not an address"):
        host_port(text)


@pytest.mark.parametrize(
    ("environ", "backend"),
    [
        ({}, "memory"),
        ({"REDIS_AUTH": "x"}, "memory"),
        ({"REDIS_URL": "redis:6379"}, "redis"),
        ({"REDIS_TYPE": "single"}, "redis"),
        ({"REDIS_SOCKET_TYPE": "tcp"}, "redis"),
        ({"REDIS_URL": "redis:6379", "BACKEND_TYPE": "memory"}, "memory"),
        ({"BACKEND_TYPE": "redis"}, "redis"),
        ({"BACKEND_TYPE": ""}, "redis"),  # as upstream reads it
    ],
)
def test_counters_are_in_redis_as_soon_as_redis_is_mentioned(environ: dict[str, str], backend: str) -> None:
    """Unless BACKEND_TYPE says otherwise: a swapped image never counts in memory unnoticed."""
    assert backend == load_settings(environ).backend_type


@pytest.mark.parametrize(
    ("url", "auth", "address", "credentials"),
    [
        ("redis:6379", "", "redis://redis:6379", ("", "")),
        ("[::1]:6379", "", "redis://[::1]:6379", ("", "")),
        ("/run/redis.sock", "", "unix:///run/redis.sock", ("", "")),
        ("./redis sock", "", "unix://./redis%20sock", ("", "")),
        ("redis://redis", "", "redis://redis:6379", ("", "")),
        ("redis://redis:6379/2", "", "redis://redis:6379/2", ("", "")),
        ("redis://redis:6379/", "", "redis://redis:6379", ("", "")),
        ("rediss://redis:6380/1", "", "rediss://redis:6380/1", ("", "")),
        ("unix:///run/redis.sock?db=3", "", "unix:///run/redis.sock?db=3", ("", "")),
        ("redis://:p%40ss@redis:6379", "", "redis://redis:6379", ("", "p@ss")),
        ("redis://me:p@s/s@redis:6379", "", "redis://redis:6379", ("me", "p@s/s")),
        ("unix://me:pass@/run/redis.sock", "", "unix:///run/redis.sock", ("me", "pass")),
        ("redis:6379", "pass", "redis://redis:6379", ("", "pass")),
        ("redis:6379", "me:pa:ss%40", "redis://redis:6379", ("me", "pa:ss%40")),
        ("redis://other:other@redis:6379", "me:pass", "redis://redis:6379", ("me", "pass")),
    ],
)
def test_redis_url_and_redis_auth_have_the_address_and_the_credentials(
    url: str, auth: str, address: str, credentials: tuple[str, str]
) -> None:
    """The address never has the credentials in it, so that it can be logged."""
    target = load_settings({"REDIS_URL": url, "REDIS_AUTH": auth}).redis
    assert (address, credentials) == (target.address, (target.username, target.password))


@pytest.mark.parametrize(
    ("kind", "url", "address", "password"),
    [
        ("sentinel", "mymaster,one:26379,two:26380", "mymaster,redis://one:26379,redis://two:26380", ""),
        ("Sentinel", "m, redis://one:1/2 ,two:2", "m,redis://one:1/2,redis://two:2/2", ""),
        ("SENTINEL", "m,rediss://:p@one:1,two:2", "m,rediss://one:1,rediss://two:2", "p"),
        ("cluster", "one:1", "redis://one:1", ""),
        ("CLUSTER", "one:1,[::1]:2", "redis://one:1,redis://[::1]:2", ""),
        ("CLUSTER", "redis://:p@one:1,redis://:p@two", "redis://one:1,redis://two:6379", "p"),
    ],
)
def test_redis_type_says_what_the_servers_in_redis_url_are(
    kind: str, url: str, address: str, password: str
) -> None:
    """In upstream's way: the name of the master and its sentinels, or some servers of the Cluster."""
    target = load_settings({"REDIS_TYPE": kind, "REDIS_URL": url}).redis
    assert (RedisType(kind.upper()), address, password) == (target.kind, target.address, target.password)


@pytest.mark.parametrize(
    ("kind", "url", "reason"),
    [
        ("SINGLE", "", "is not an address of Redis"),
        ("SINGLE", "redis", "is not an address of Redis"),
        ("SINGLE", "redis.sock", "is not an address of Redis"),
        ("SINGLE", "redis:0", "is not an address of Redis"),
        ("SINGLE", "redis:99999", "is not an address of Redis"),
        ("SINGLE", "redis://", "is not an address of Redis"),
        ("SINGLE", "http://redis:6379", "is not an address of Redis"),
        ("SINGLE", "unix://", "is not an address of Redis"),
        ("SINGLE", "one:6379,two:6379", "names several servers: set REDIS_TYPE"),
        ("SINGLE", "mymaster,one:26379,two:26379", "names several servers: set REDIS_TYPE"),
        ("SINGLE", "redis://redis:6379/two", "has more than a database after its address"),
        ("SINGLE", "unix:///run/redis.sock?timeout=2", "has more than a database after its address"),
        ("SINGLE", "me:secret@redis:6379", "has credentials but is not a URL"),
        ("SINGLE", ":se/cret@redis:6379", "has credentials but is not a URL"),
        ("SENTINEL", "mymaster", "is not a master and its sentinels: give mymaster,host:26379"),
        ("SENTINEL", "one:26379,two:26379", "is not a master and its sentinels: give mymaster,host:26379"),
        ("SENTINEL", "mymaster,one", "is not an address of Redis: give host:port"),
        ("SENTINEL", "mymaster,/run/redis.sock", "has a Unix socket, where SENTINEL needs servers"),
        ("CLUSTER", "/run/redis.sock", "has a Unix socket, where CLUSTER needs servers"),
        ("CLUSTER", "one:1,,two:2", "is not an address of Redis: give host:port"),
        ("CLUSTER", "redis://one:1/2", "has a database, and a Cluster has only database 0"),
    ],
)
def test_what_is_not_where_a_redis_can_be_is_refused(kind: str, url: str, reason: str) -> None:
    """With what is wrong with it, whichever of the two it is."""
    for name in ("REDIS", "REDIS_PERSECOND"):
        with pytest.raises(InvalidSetting) as refused:
            load_settings({f"{name}_TYPE": kind, f"{name}_URL": url, "REDIS_PERSECOND": "true"})
        assert str(refused.value).startswith(f"{name}_URL")
        assert reason in str(refused.value)


def test_a_redis_for_seconds_that_is_switched_off_may_be_anywhere() -> None:
    """As upstream has it."""
    assert not load_settings({"REDIS_PERSECOND_URL": "nowhere"}).redis_persecond


def test_a_wrong_type_hides_problems_of_the_url() -> None:
    """One mistake is one line."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings({"REDIS_TYPE": "clustre", "REDIS_URL": "one:1,two:2"})
    assert 1 == len(str(refused.value).splitlines())


@pytest.mark.parametrize(
    ("environ", "line"),
    [
        (
            {"REDIS_AUTH": "x", "REDIS_AUTH_FILE": "/run/password"},
            'REDIS_AUTH_FILE="/run/password" is set together with REDIS_AUTH: give only one of them',
        ),
        (
            {"REDIS_PERSECOND_AUTH": "x", "REDIS_PERSECOND_AUTH_FILE": "/run/password"},
            'REDIS_PERSECOND_AUTH_FILE="/run/password" is set together with REDIS_PERSECOND_AUTH: give only one of them',
        ),
        (
            {"REDIS_TLS_CLIENT_KEY": "/key.pem"},
            'REDIS_TLS_CLIENT_KEY="/key.pem" has no certificate: give REDIS_TLS_CLIENT_CERT as well',
        ),
    ],
)
def test_settings_that_do_not_go_together_are_refused(environ: dict[str, str], line: str) -> None:
    """Rather than one of them winning unseen."""
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
def test_no_error_shows_a_secret(environ: dict[str, str]) -> None:
    """Neither the line nor what Python would print with it."""
    with pytest.raises(InvalidSetting) as refused:
        load_settings(environ)
    assert "hunter2" not in str(refused.value)
    assert (None, None) == (refused.value.__cause__, refused.value.__context__)


def test_settings_do_not_show_secrets() -> None:
    """Not when they are printed, and not when they are dumped."""
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
def test_whatever_stands_before_an_at_is_never_shown(text: str) -> None:
    """Whether the URL is understood or refused, no password of it is in the address or in the message."""
    try:
        said = redis_target(f"{text}:hunter2@host:6379").address
    except ValueError as error:
        said = str(error)
    assert "hunter2" not in said


def test_the_variables_of_agentgateways_deployment_are_all_understood() -> None:
    """Its manifest for envoyproxy/ratelimit, as it is."""
    environ = {
        "USE_STATSD": "false",
        "LOG_LEVEL": "debug",
        "RUNTIME_ROOT": "/data",
        "RUNTIME_SUBDIRECTORY": "ratelimit",
        "RUNTIME_IGNOREDOTFILES": "true",
        "REDIS_SOCKET_TYPE": "tcp",
        "REDIS_URL": "redis:6379",
    }
    settings = load_settings(environ)
    assert ("redis", "redis://redis:6379", "debug") == (
        settings.backend_type,
        settings.redis.address,
        settings.log_level,
    )
    assert [] == unsupported(environ)


@pytest.mark.parametrize(
    "environ",
    [
        {},
        {"USE_STATSD": "false", "STATSD_HOST": "statsd", "STATSD_PORT": "8125"},
        {"TRACING_ENABLED": "0", "TRACING_SERVICE_NAME": "limits"},
        {"DISABLE_STATS": "false"},
        {"REDIS_PIPELINE_WINDOW": "150us", "REDIS_PIPELINE_LIMIT": "8", "REDIS_STARTUP_MAX_INTERVAL": "5s"},
        {"REDIS_HEALTH_CHECK_ACTIVE_CONNECTION": "true", "REDIS_STARTUP_MAX_ELAPSED_TIME": "0s"},
        {"MEMCACHE_HOST_PORT": "", "EXTRA_TAGS": ""},
        {"PATH": "/bin", "HOSTNAME": "pod-1"},
    ],
)
def test_a_variable_that_asks_for_what_is_done_anyway_gets_no_warning(environ: dict[str, str]) -> None:
    """Nor one that is switched off, nor one that was never upstream's."""
    assert [] == unsupported(environ)


@pytest.mark.parametrize(
    ("environ", "names"),
    [
        ({"USE_STATSD": "true"}, ["USE_STATSD"]),
        ({"STATSD_HOST": "statsd"}, ["STATSD_HOST"]),
        (
            {"TRACING_ENABLED": "true", "TRACING_SERVICE_NAME": "x"},
            ["TRACING_ENABLED", "TRACING_SERVICE_NAME"],
        ),
        ({"REDIS_STARTUP_MAX_ELAPSED_TIME": "1m"}, ["REDIS_STARTUP_MAX_ELAPSED_TIME"]),
        ({"MEMCACHE_HOST_PORT": "memcached:11211"}, ["MEMCACHE_HOST_PORT"]),
    ],
)
def test_a_variable_that_asks_for_more_is_named_in_a_warning(
    environ: dict[str, str], names: list[str]
) -> None:
    """One line for each, with what happens in its stead, and without its value."""
    lines = unsupported(environ)
    assert names == [line.partition(" is set, but not supported: ")[0] for line in lines]
    assert not any(f"={value}" in line for line in lines for value in environ.values())


UPSTREAM = [
    "HOST",
    "PORT",
    "DEBUG_HOST",
    "DEBUG_PORT",
    "GRPC_UDS",
    "GRPC_HOST",
    "GRPC_PORT",
    "GRPC_MAX_CONNECTION_AGE",
    "GRPC_MAX_CONNECTION_AGE_GRACE",
    "GRPC_SERVER_USE_TLS",
    "GRPC_SERVER_TLS_CERT",
    "GRPC_SERVER_TLS_KEY",
    "GRPC_CLIENT_TLS_CACERT",
    "GRPC_CLIENT_TLS_SAN",
    "LOG_LEVEL",
    "LOG_FORMAT",
    "CONFIG_TYPE",
    "FORCE_START_WITHOUT_INITIAL_CONFIG",
    "CONFIG_GRPC_XDS_NODE_ID",
    "CONFIG_GRPC_XDS_NODE_METADATA",
    "CONFIG_GRPC_XDS_SERVER_URL",
    "CONFIG_GRPC_XDS_SERVER_CONNECT_RETRY_INTERVAL",
    "CONFIG_GRPC_XDS_CLIENT_ADDITIONAL_HEADERS",
    "CONFIG_GRPC_XDS_SERVER_USE_TLS",
    "CONFIG_GRPC_XDS_CLIENT_TLS_CERT",
    "CONFIG_GRPC_XDS_CLIENT_TLS_KEY",
    "CONFIG_GRPC_XDS_SERVER_TLS_CACERT",
    "CONFIG_GRPC_XDS_SERVER_TLS_SAN",
    "XDS_CLIENT_BACKOFF_INITIAL_INTERVAL",
    "XDS_CLIENT_BACKOFF_MAX_INTERVAL",
    "XDS_CLIENT_BACKOFF_RANDOM_FACTOR",
    "XDS_CLIENT_BACKOFF_JITTER",
    "XDS_CLIENT_MAX_MSG_SIZE_IN_BYTES",
    "USE_DOG_STATSD",
    "USE_DOG_STATSD_MOGRIFIERS",
    "USE_STATSD",
    "STATSD_HOST",
    "STATSD_PORT",
    "EXTRA_TAGS",
    "STATS_FLUSH_INTERVAL",
    "DISABLE_STATS",
    "USE_PROMETHEUS",
    "PROMETHEUS_ADDR",
    "PROMETHEUS_PATH",
    "PROMETHEUS_MAPPER_YAML",
    "PROMETHEUS_RESPONSE_TIME_AS_MILLISECONDS",
    "RUNTIME_ROOT",
    "RUNTIME_SUBDIRECTORY",
    "RUNTIME_APPDIRECTORY",
    "RUNTIME_IGNOREDOTFILES",
    "RUNTIME_WATCH_ROOT",
    "EXPIRATION_JITTER_MAX_SECONDS",
    "LOCAL_CACHE_SIZE_IN_BYTES",
    "NEAR_LIMIT_RATIO",
    "CACHE_KEY_PREFIX",
    "BACKEND_TYPE",
    "STOP_CACHE_KEY_INCREMENT_WHEN_OVERLIMIT",
    "LIMIT_RESPONSE_HEADERS_ENABLED",
    "LIMIT_LIMIT_HEADER",
    "LIMIT_REMAINING_HEADER",
    "LIMIT_RESET_HEADER",
    "HEALTHY_WITH_AT_LEAST_ONE_CONFIG_LOADED",
    "REDIS_SOCKET_TYPE",
    "REDIS_TYPE",
    "REDIS_URL",
    "REDIS_POOL_SIZE",
    "REDIS_AUTH",
    "REDIS_TLS",
    "REDIS_TLS_CLIENT_CERT",
    "REDIS_TLS_CLIENT_KEY",
    "REDIS_TLS_CACERT",
    "REDIS_TLS_SKIP_HOSTNAME_VERIFICATION",
    "REDIS_PIPELINE_WINDOW",
    "REDIS_PIPELINE_LIMIT",
    "REDIS_CLUSTER_PIPELINE_PARALLELISM",
    "REDIS_PERSECOND",
    "REDIS_PERSECOND_SOCKET_TYPE",
    "REDIS_PERSECOND_TYPE",
    "REDIS_PERSECOND_URL",
    "REDIS_PERSECOND_POOL_SIZE",
    "REDIS_PERSECOND_AUTH",
    "REDIS_PERSECOND_TLS",
    "REDIS_SENTINEL_AUTH",
    "REDIS_PERSECOND_SENTINEL_AUTH",
    "REDIS_PERSECOND_PIPELINE_WINDOW",
    "REDIS_PERSECOND_PIPELINE_LIMIT",
    "REDIS_PERSECOND_CLUSTER_PIPELINE_PARALLELISM",
    "REDIS_HEALTH_CHECK_ACTIVE_CONNECTION",
    "REDIS_TIMEOUT",
    "REDIS_PERSECOND_TIMEOUT",
    "REDIS_POOL_ON_EMPTY_BEHAVIOR",
    "REDIS_PERSECOND_POOL_ON_EMPTY_BEHAVIOR",
    "REDIS_STARTUP_INITIAL_INTERVAL",
    "REDIS_STARTUP_MAX_INTERVAL",
    "REDIS_STARTUP_MAX_ELAPSED_TIME",
    "MEMCACHE_HOST_PORT",
    "MEMCACHE_MAX_IDLE_CONNS",
    "MEMCACHE_SRV",
    "MEMCACHE_SRV_REFRESH",
    "MEMCACHE_TLS",
    "MEMCACHE_TLS_CLIENT_CERT",
    "MEMCACHE_TLS_CLIENT_KEY",
    "MEMCACHE_TLS_CACERT",
    "MEMCACHE_TLS_SKIP_HOSTNAME_VERIFICATION",
    "SHADOW_MODE",
    "QUOTA_MODE",
    "RESPONSE_DYNAMIC_METADATA",
    "MERGE_DOMAIN_CONFIG",
    "TRACING_ENABLED",
    "TRACING_SERVICE_NAME",
    "TRACING_SERVICE_NAMESPACE",
    "TRACING_SERVICE_INSTANCE_ID",
    "TRACING_EXPORTER_PROTOCOL",
    "TRACING_SAMPLING_RATE",
]


def test_every_variable_of_upstream_is_supported_or_not_needed_or_warned_about() -> None:
    """None is ignored, and none is two of these."""
    supported = [doc.name for doc in documented()]
    unneeded = [name for variables in UNNEEDED for name in variables.names]
    warned = [name for variables in UNSUPPORTED for name in variables.names]
    assert [] == [name for name in UPSTREAM if [*supported, *unneeded, *warned].count(name) != 1]


def test_what_is_neither_upstreams_nor_warned_about_says_that_it_is_ours() -> None:
    """A person who moves back knows what will not be understood there."""
    ours = [doc.name for doc in documented() if doc.meaning.endswith(" Ours.")]
    assert [doc.name for doc in documented() if doc.name not in UPSTREAM] == ours
