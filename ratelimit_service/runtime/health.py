"""Whether this process should be asked: one answer for every way of asking (gRPC health, HTTP)."""

from __future__ import annotations

from collections.abc import Callable

SERVICE_NAME = "ratelimit"
"""The name under which gRPC clients ask for the health of the service; "" is the server as a whole."""

Listener = Callable[[bool], None]


class Health:
    """Healthy while every component is. Components are named when they are first set."""

    def __init__(self) -> None:
        self._components: dict[str, bool] = {}
        self._listeners: list[Listener] = []

    @property
    def healthy(self) -> bool:
        """Whether every component is healthy."""
        return all(self._components.values())

    @property
    def unhealthy(self) -> list[str]:
        """The components that are not healthy."""
        return [name for name, good in self._components.items() if not good]

    def set(self, component: str, healthy: bool) -> None:
        """Say how a component is; listeners hear of it where that changes the whole."""
        before = self.healthy
        self._components[component] = healthy
        if self.healthy is not before:
            for listener in self._listeners:
                listener(self.healthy)

    def listen(self, listener: Listener) -> None:
        """Call `listener` now with the health of the whole, and whenever that changes."""
        self._listeners.append(listener)
        listener(self.healthy)
