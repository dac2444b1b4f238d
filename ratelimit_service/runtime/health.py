"""Whether this process is ready for requests, as gRPC health and /healthcheck report it."""

from __future__ import annotations

from collections.abc import Callable

SERVICE_NAME = "ratelimit"
"""The name of the service in grpc.health.v1; "" is the server."""

Listener = Callable[[bool], None]


class Health:
    """Healthy while every component is. Setting a component for the first time adds it."""

    def __init__(self) -> None:
        self._components: dict[str, bool] = {}
        self._listeners: list[Listener] = []

    @property
    def healthy(self) -> bool:
        """Whether every component is healthy."""
        return all(self._components.values())

    @property
    def unhealthy(self) -> list[str]:
        """The names of the components that are not healthy."""
        return [name for name, good in self._components.items() if not good]

    def set(self, component: str, healthy: bool) -> None:
        """Set the health of a component, and call the listeners if the overall health changes."""
        before = self.healthy
        self._components[component] = healthy
        if self.healthy is not before:
            for listener in self._listeners:
                listener(self.healthy)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the overall health, now and after each change."""
        self._listeners.append(listener)
        listener(self.healthy)
