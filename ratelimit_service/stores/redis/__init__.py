"""Counters in Redis: one server, Sentinel or Cluster."""

from __future__ import annotations

from importlib import import_module

from ...runtime.imports import without

with without("opentelemetry"):
    import_module("redis.asyncio")
