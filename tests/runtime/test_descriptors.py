"""The distribution of file descriptors among ports."""

from __future__ import annotations

import subprocess
import sys

import pytest

from ratelimit_service.runtime.descriptors import shared


@pytest.mark.parametrize(
    ("most", "grpc", "http"),
    [
        (2**31 - 1, 10_000, 1_000),
        (20_000, 10_000, 1_000),
        (16_384, 10_000, 1_000),
        (4_096, 3_234, 248),
        (1_024, 738, 56),
        (256, 114, 8),
        (100, 4, 4),
        (16, 4, 4),
    ],
)
def test_every_port_has_a_share_of_the_file_descriptors(most: int, grpc: int, http: int) -> None:
    """With three HTTP ports and 22 connections to Redis. The sum is below the limit, unless the limit is too
    low for the minimum of each.
    """
    shares = shared(most, grpc=10_000, http_ports=3, redis=22)
    assert (grpc, http) == shares
    assert most < 140 or shares.grpc + 3 * shares.http + 22 + 96 <= most


def test_the_setting_bounds_connections_of_grpc() -> None:
    """GRPC_MAX_CONNECTIONS."""
    assert 50 == shared(20_000, grpc=50, http_ports=3, redis=0).grpc


RAISED = """\
import resource
from ratelimit_service.runtime import descriptors
resource.setrlimit(resource.RLIMIT_NOFILE, (100, 200))
descriptors.raise_limit()
print(resource.getrlimit(resource.RLIMIT_NOFILE), descriptors.limit())
"""


def test_the_soft_limit_is_raised_to_the_hard_one() -> None:
    """Service managers and shells set it to 1,024 for programs that use select()."""
    done = subprocess.run([sys.executable, "-c", RAISED], capture_output=True, text=True, check=True)
    assert "(200, 200) 200\n" == done.stdout
