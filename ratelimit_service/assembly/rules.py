"""Where rules come from: the names of the sources, and the files."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from ..loading.rulebook import FILES
from ..loading.task import Task
from ..settings.table import Settings
from ..sources import files


def sources_of(settings: Settings) -> list[str]:
    """Return the names of the sources of rules; an earlier source takes precedence."""
    names = {
        "FILE": [FILES],
        "GRPC_XDS_SOTW": [source_of(url.name) for url in settings.config_grpc_xds_server_url],
    }
    return [name for kind in settings.config_type for name in names[kind]]


def source_of(server: str) -> str:
    """Return the name of a control plane as a source of rules."""
    return f"xds {server}"


def places_of(settings: Settings) -> str:
    """Return where configuration files are searched, as text for people."""
    if settings.config_path:
        return ", ".join(settings.config_path)
    place = files.joined(settings.runtime_root, settings.runtime_subdirectory, settings.runtime_appdirectory)
    return f"{place} (CONFIG_PATH is not set)"


def find_files(settings: Settings) -> files.Find:
    """Return what finds the configuration files: by CONFIG_PATH, or by upstream's RUNTIME_* variables."""
    if settings.config_path:
        return files.find_in([Path(path) for path in settings.config_path])
    return files.runtime(
        settings.runtime_root,
        settings.runtime_subdirectory,
        settings.runtime_appdirectory,
        watch_root=settings.runtime_watch_root,
        ignore_dot_files=settings.runtime_ignoredotfiles,
    )


def task_of(settings: Settings) -> Task:
    """Return the load of the configuration files, for a process without a Rulebook."""
    return Task(
        partial(files.read, find_files(settings), places_of(settings), settings.manifest_domain),
        settings.merge_domain_config,
        frozenset(settings.budget_domains),
        several=len(sources_of(settings)) > 1,
        hold_entries=settings.hold_entries,
    )
