"""Files of rules, as people and kubelet write them."""

from __future__ import annotations

from pathlib import Path

from ratelimit_service.sources import files


def write(path: Path, text: str = "domain: d\n") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def mount(directory: Path, version: str, contents: dict[str, str]) -> None:
    """Lay out files as kubelet mounts a ConfigMap: files in `..<version>`, and links through `..data`."""
    real = directory / f"..{version}"
    for name, text in contents.items():
        write(real / name, text)
    temporary = directory / "..data_tmp"
    temporary.symlink_to(real.name)
    temporary.rename(directory / "..data")
    for name in contents:
        link = directory / name.split("/")[0]
        if not link.is_symlink():
            link.symlink_to(Path("..data") / link.name)


def runtime(root: Path, *, watch_root: bool = True, ignore_dot_files: bool = False) -> files.Find:
    return files.runtime(
        str(root), "ratelimit", "config", watch_root=watch_root, ignore_dot_files=ignore_dot_files
    )
