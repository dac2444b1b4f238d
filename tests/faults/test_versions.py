"""This version and the previous one count in one Redis: an upgrade replica by replica, and its rollback, lose
nothing.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
import sysconfig
import tarfile
from functools import partial
from io import BytesIO
from pathlib import Path

import pytest

from testing.previous import PREVIOUS, of_previous
from testing.redis_servers import RedisServer

from .callers import WITHOUT_LEDGER, counted_in, counting_in
from .gateway import Gateway


@pytest.fixture(scope="module")
def previous(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, ...]:
    """Return the command that serves with the previous version, without compiled modules, in its own
    environment.
    """
    archive = of_previous("archive", PREVIOUS, "ratelimit_service")
    directory = tmp_path_factory.mktemp("previous")
    with tarfile.open(fileobj=BytesIO(archive)) as tar:
        tar.extractall(directory / "source", filter="data")
    environment = directory / "environment"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(environment)], check=True)
    (packages,) = environment.glob("lib/python3*/site-packages")
    paths = (directory / "source", sysconfig.get_path("purelib"), sysconfig.get_path("platlib"))
    (packages / "previous.pth").write_text("".join(f"{path}\n" for path in dict.fromkeys(paths)))
    python = str(environment / "bin" / "python")
    where = subprocess.run(
        [python, "-P", "-c", "import ratelimit_service; print(ratelimit_service.__file__)"],
        capture_output=True,
        text=True,
        check=True,
    )
    assert where.stdout.startswith(str(directory))
    return python, "-P", "-m", "ratelimit_service", "serve"


async def test_an_upgrade_and_its_rollback_count_every_charge_once(
    redis_server: RedisServer, redis_url: str, tmp_path: Path, previous: tuple[str, ...]
) -> None:
    """Two replicas of the previous version, one of each, two of this one, and back again, under load."""
    start_old = partial(counting_in, redis_server, tmp_path, "grpcio", previous, WITHOUT_LEDGER)
    start_new = partial(counting_in, redis_server, tmp_path, "native", rules=WITHOUT_LEDGER)
    replicas = [await asyncio.to_thread(start_old) for _ in range(2)]
    gateway = Gateway(*replicas)
    codes = []

    async def upgrade_and_roll_back() -> None:
        for place, start in ((0, start_new), (1, start_new), (1, start_old), (0, start_old)):
            replicas[place], code = await gateway.replace(replicas[place], start)
            codes.append(code)

    try:
        await gateway.call_while(upgrade_and_roll_back)
    finally:
        for replica in replicas:
            replica.kill()
    assert [0, 0, 0, 0] == codes
    assert gateway.acknowledged == counted_in(redis_server, ledger=False)
