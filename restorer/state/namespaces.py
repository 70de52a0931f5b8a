# SPDX-License-Identifier: Apache-2.0
"""Namespaces: the target must live in ours, but for its PID namespace.

A mount namespace may be another one that shows the same mounts, /proc aside: `restore --pid ns` makes such.
"""

from __future__ import annotations

import os

from restorer.errors import Refused
from restorer.procfs import Process
from restorer.tracee import Tracee

_KINDS = {
    "mnt": "mount",
    "net": "network",
    "ipc": "IPC",
    "uts": "UTS",
    "user": "user",
    "cgroup": "cgroup",
    "time": "time",
    "time_for_children": "time (for children)",
}


def check(tracee: Tracee, root: Tracee) -> None:
    """Raises Refused naming each namespace of the target, or one of its threads, that is not ours; its PID
    namespace must be that of the tree's `root`.
    """
    foreign = [name for kind, name in _KINDS.items() if _differs(tracee, kind)]
    if foreign:
        raise Refused(
            f"process {tracee.pid} has other namespaces than this command: {', '.join(foreign)}",
            f"run the command in them: nsenter -t {tracee.pid} -a",
        )
    if tracee.process.link("ns/pid") != root.process.link("ns/pid"):
        raise Refused(f"process {tracee.pid} has another PID namespace than its parents")
    if tracee.process.link("ns/pid") != tracee.process.link("ns/pid_for_children"):
        raise Refused(f"process {tracee.pid} has another PID namespace for its children")


def _differs(tracee: Tracee, kind: str) -> bool:
    try:
        ours = os.readlink(f"/proc/self/ns/{kind}")
    except FileNotFoundError:
        return False
    if all(thread.process.link(f"ns/{kind}") == ours for thread in tracee.threads):
        return False
    return kind != "mnt" or any(
        _mounts(thread.process) != _mounts(Process(os.getpid())) for thread in tracee.threads
    )


def _mounts(process: Process) -> set[tuple[str, ...]]:
    """What is mounted where: (device, root, mount point, options, file system) of each mount but /proc."""
    found: set[tuple[str, ...]] = set()
    for line in process.text("mountinfo").splitlines():
        mount, _, source = line.partition(" - ")
        _, _, device, root, point, options, *_ = mount.split(" ")
        kind = source.split(" ")[0]
        if (kind, point) != ("proc", "/proc"):
            found.add((device, root, point, options, kind))
    return found
