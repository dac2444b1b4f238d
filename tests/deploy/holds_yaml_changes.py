"""Changes to holds.yaml as deploy/envoy/README.md describes them, and a slow connection between Envoy and the
service.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import yaml

from testing.envoy import connection_manager
from testing.in_process_service import ClockedService
from testing.proxy import Proxy
from testing.waiting import until, wait_for

from ..docs.documents import section
from .envoy_with_holds import FILE, remaining


def route_of(text: dict[str, Any]) -> dict[str, Any]:
    """Return the only route."""
    (host,) = connection_manager(text)["route_config"]["virtual_hosts"]
    (route,) = host["routes"]
    assert isinstance(route, dict)
    return route


def addition(heading: str) -> Any:
    """Return the YAML under a heading of the README."""
    (text,) = [block.text for block in section(FILE.with_name("README.md"), heading) if block.info == "yaml"]
    return yaml.safe_load(text)


def charged(service: ClockedService, tokens: int) -> None:
    """Wait until this many tokens are charged."""
    wait_for(f"a charge of {tokens}", lambda: 100_000 - tokens == remaining(service.address))


class SlowProxy(Proxy):
    """A proxy that passes nothing on until it is `open`."""

    def __init__(self, target: int) -> None:
        super().__init__(target)
        self.open = threading.Event()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await until(self.open.is_set)
        await super()._pass_on(reader, writer)


async def _ended(proxy: Proxy) -> None:
    """Stop a proxy, and wait until its tasks and its transports have ended."""
    await proxy.stop()
    tasks = asyncio.all_tasks() - {asyncio.current_task()}
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    for _ in range(5):  # transports are closed in later turns of the event loop
        await asyncio.sleep(0)


P = TypeVar("P", bound=Proxy)


@contextmanager
def proxied(port: int, kind: type[P]) -> Iterator[P]:
    """Yield a proxy in front of a port."""
    loop = asyncio.new_event_loop()
    thread = threading.Thread(target=loop.run_forever, daemon=True)
    thread.start()
    proxy = kind(port)
    asyncio.run_coroutine_threadsafe(proxy.start(), loop).result(30)
    try:
        yield proxy
    finally:
        asyncio.run_coroutine_threadsafe(_ended(proxy), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join(30)
        loop.close()
