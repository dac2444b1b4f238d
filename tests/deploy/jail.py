"""A command in its own root, as container engines start it, with the tools of util-linux: unshare, mount,
chroot.

All mounts are in a namespace that ends with the command, so removing the directory later does not follow
them.
"""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

HOST = "/dev/host"
"""The directory for files of this machine while an image is built: a tmpfs, so that none of them stays in the
image."""

_DEVICES = ("null", "zero", "full", "random", "urandom", "tty")


def jailed(
    root: Path,
    command: Sequence[str],
    *,
    workdir: str = "/",
    user: str = "",
    read_only: bool = False,
    mounts: Mapping[str, Path] | None = None,
    network_files: bool = False,
) -> list[str]:
    """Return the command that runs `command` as process 1 below `root`.

    With `user` ("65532:65532") it has no capability, and cannot get one. `mounts` maps paths inside to paths
    outside, read-only. With `network_files`, names are resolved as outside.
    """
    where = shlex.quote(str(root))
    lines = [
        f"mount --bind {where} {where}",
        f"mount -t proc proc {where}/proc",
        f"mount -t tmpfs -o mode=755 tmpfs {where}/dev",
        f"ln -s /proc/self/fd {where}/dev/fd",
        *(f"touch {where}/dev/{each}; mount --bind /dev/{each} {where}/dev/{each}" for each in _DEVICES),
    ]
    mounts = dict(mounts or {})
    if network_files:
        mounts |= {path: Path(path) for path in ("/etc/resolv.conf", "/etc/hosts") if Path(path).exists()}
    for path, outside in mounts.items():
        target = f"{where}{shlex.quote(path)}"
        if outside.is_dir():
            lines.append(f"mkdir -p {target}")
        else:
            lines.append(f"mkdir -p $(dirname {target}); [ -e {target} ] || touch {target}")
        lines.append(f"mount --bind {shlex.quote(str(outside))} {target}; mount -o remount,ro,bind {target}")
    if read_only:
        lines.append(f"mount -o remount,ro,bind {where}; mount -o remount,ro {where}/dev")
    inside = ["/usr/bin/env", "-C", workdir, *command]
    if user:
        uid, _, gid = user.partition(":")
        drop = ["--clear-groups", "--no-new-privs", "--bounding-set=-all", "--inh-caps=-all"]
        # A change of the user clears the signal by which it would end together with unshare, unless it is
        # asked to keep it.
        drop.append("--pdeathsig=keep")
        inside = ["/usr/bin/setpriv", f"--reuid={uid}", f"--regid={gid or '0'}", *drop, *inside]
    lines.append(f"exec chroot {where} {shlex.join(inside)}")
    unshare = ["/usr/bin/unshare", "--mount", "--pid", "--fork", "--kill-child", "--"]
    return [*unshare, "/bin/sh", "-euc", "\n".join(lines)]
