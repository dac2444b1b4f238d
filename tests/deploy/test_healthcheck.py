"""deploy/image/healthcheck.py, which is the HEALTHCHECK of the image, against a real service, and without
one.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from testing.certificates import Authority
from testing.redis_servers import free_port
from testing.service import REPOSITORY, Service, port_of

CHECK = REPOSITORY / "deploy" / "image" / "healthcheck.py"

RULES = "domain: d\ndescriptors: [{key: team, rate_limit: {unit: year, requests_per_unit: 1}}]\n"


def check(environment: dict[str, str]) -> tuple[int, str]:
    """Run it with only this environment, and return its exit code and output."""
    done = subprocess.run(
        [sys.executable, "-I", CHECK], env=environment, capture_output=True, text=True, check=False
    )
    assert "" == done.stderr
    return done.returncode, done.stdout.strip()


@pytest.fixture
def config(tmp_path: Path) -> str:
    """The path of a file with rules."""
    (tmp_path / "d.yaml").write_text(RULES)
    return str(tmp_path / "d.yaml")


@pytest.mark.parametrize("host", ["0.0.0.0", "127.0.0.1", "::", "::1"])
def test_the_check_finds_the_service_on_any_address(config: str, host: str) -> None:
    """It reads HOST and PORT as the service does."""
    with Service({"BACKEND_TYPE": "memory", "CONFIG_PATH": config, "HOST": host}) as service:
        assert (0, "OK") == check({"HOST": host, "PORT": str(port_of(service.http))})


def test_the_check_uses_tls_for_a_port_with_tls(config: str, tmp_path: Path) -> None:
    """It does not verify the certificate, because it connects to its own container."""
    certificate, key = Authority().issue("ratelimit.example").write(tmp_path)
    tls = {"HTTP_TLS_CERT": certificate, "HTTP_TLS_KEY": key}
    with Service({"BACKEND_TYPE": "memory", "CONFIG_PATH": config, **tls}) as service:
        port = {"PORT": str(port_of(service.http))}
        assert (0, "OK") == check({**port, **tls})
        assert 1 == check(port)[0]


def test_a_service_without_its_store_is_unhealthy(config: str) -> None:
    """It prints what is missing, which `docker inspect` shows."""
    nowhere = {"REDIS_URL": f"127.0.0.1:{free_port()}", "CONFIG_PATH": config}
    with Service(nowhere) as service:
        code, said = check({"PORT": str(port_of(service.http))})
    assert 1 == code
    assert "redis" in said.lower()


def test_a_container_without_a_service_is_unhealthy() -> None:
    """Nor is it healthy with an invalid port."""
    code, said = check({"PORT": str(free_port())})
    assert (1, "cannot be asked: [Errno") == (code, said[:23])
    assert (1, "cannot be asked: invalid") == (check({"PORT": "http"})[0], check({"PORT": "http"})[1][:24])
