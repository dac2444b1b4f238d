"""Whether this process is ready for requests, as gRPC health and /healthcheck report it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

SERVICE_NAME = "ratelimit"
"""The name of the service in grpc.health.v1; "" is the server."""

Listener = Callable[[bool], None]


class Health:
    """Healthy while every component is. Setting a component for the first time adds it.

    With several workers, the components of the others count as well (`set_elsewhere`).
    """

    def __init__(self) -> None:
        self._components: dict[str, bool] = {}
        self._elsewhere: tuple[str, ...] = ()
        self._listeners: list[Listener] = []
        self.changed: Callable[[], None] = lambda: None
        """Called after each change of a component of this process."""

    @property
    def healthy(self) -> bool:
        """Whether every component is healthy."""
        return all(self._components.values()) and not self._elsewhere

    @property
    def unhealthy(self) -> list[str]:
        """The names of the components that are not healthy."""
        return [*self.unhealthy_here, *self._elsewhere]

    @property
    def unhealthy_here(self) -> list[str]:
        """The names of the components of this process that are not healthy."""
        return [name for name, good in self._components.items() if not good]

    def set(self, component: str, healthy: bool) -> None:
        """Set the health of a component, and call the listeners if the overall health changes."""
        before, known = self.healthy, self._components.get(component)
        self._components[component] = healthy
        self._report(before)
        if known is not healthy:
            self.changed()

    def set_elsewhere(self, unhealthy: Sequence[str]) -> None:
        """Set the components of other processes that are not healthy, and call the listeners likewise."""
        before = self.healthy
        self._elsewhere = tuple(unhealthy)
        self._report(before)

    def listen(self, listener: Listener) -> None:
        """Call `listener` with the overall health, now and after each change."""
        self._listeners.append(listener)
        listener(self.healthy)

    def _report(self, before: bool) -> None:
        if self.healthy is not before:
            for listener in self._listeners:
                listener(self.healthy)
