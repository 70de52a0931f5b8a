# SPDX-License-Identifier: Apache-2.0
"""Namespaces: the target must live in ours, but for its PID namespace.

A mount namespace may be another one that shows the same mounts, /proc aside, an IPC namespace and a time
namespace another one of the whole tree: `restore --pid ns` and `--time continue` make such.
"""

from __future__ import annotations

import ctypes
import os
import threading

from restorer.errors import Refused
from restorer.procfs import Process
from restorer.tracee import Tracee

_CLONE_FS = 0x200
_CLONE_NEWNS = 0x20000
_CLONE_NEWIPC = 0x08000000
_libc = ctypes.CDLL(None, use_errno=True)
_KINDS = {
    "mnt": "mount",
    "net": "network",
    "ipc": "IPC",
    "uts": "UTS",
    "user": "user",
    "cgroup": "cgroup",
}


def check(tracee: Tracee, root: Tracee) -> None:
    """Raises Refused naming each namespace of the target, or one of its threads, that is not ours; its PID
    namespace must be that of the tree's `root`.
    """
    foreign = [name for kind, name in _KINDS.items() if _differs(tracee, kind)]
    if foreign:
        raise Refused(
            f"process {tracee.pid} has other namespaces than this command: {', '.join(foreign)}",
            f"run it in them, from a shell that keeps them until the restore: nsenter -t {tracee.pid} -a",
        )
    _check_time(tracee, root)
    if tracee.process.link("ns/pid") != root.process.link("ns/pid"):
        raise Refused(
            f"process {tracee.pid} has another PID namespace than its parents",
            f"checkpoint {tracee.pid} itself, with all that is below it",
        )
    if tracee.process.link("ns/pid") != _pid_for_children(tracee):
        raise Refused(
            f"process {tracee.pid} has another PID namespace for its children",
            "checkpoint its child, the first process of that namespace, instead",
        )


def _pid_for_children(tracee: Tracee) -> str:
    # There is no such link until the namespace has its first process (pidns_for_children_get).
    try:
        return os.readlink(f"{tracee.process.folder}/ns/pid_for_children")
    except FileNotFoundError:
        return ""


def _check_time(tracee: Tracee, root: Tracee) -> None:
    if not os.path.exists("/proc/self/ns/time"):
        return
    own, kinds = root.process.link("ns/time"), ("time", "time_for_children")
    if any(one.process.link(f"ns/{kind}") != own for one in tracee.threads for kind in kinds):
        raise Refused(f"process {tracee.pid} has another time namespace than its tree, or for its children")


def enter_ipc(root: Tracee) -> None:
    """Takes this process, which must be one that ends with the checkpoint, into the tree's IPC namespace: its
    objects can be seen from there. Raises Refused.
    """
    if root.process.link("ns/ipc") == os.readlink("/proc/self/ns/ipc"):
        return
    fd = os.open(f"{root.process.folder}/ns/ipc", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, _CLONE_NEWIPC):
            reason = os.strerror(ctypes.get_errno())
            where = f"the IPC namespace of process {root.pid}"
            raise Refused(f"{where} cannot be entered ({reason})", "run as root")
    finally:
        os.close(fd)


def _differs(tracee: Tracee, kind: str) -> bool:
    try:
        ours = os.readlink(f"/proc/self/ns/{kind}")
    except FileNotFoundError:
        return False
    if all(thread.process.link(f"ns/{kind}") == ours for thread in tracee.threads):
        return False
    return kind != "mnt" or any(_mounts_differ(thread.process) for thread in tracee.threads)


def _mounts_differ(process: Process) -> bool:
    # The two are not read at one moment: what is mounted in between is not a difference.
    ours = _mounts(Process(os.getpid()))
    while (theirs := _mounts(process)) != ours:
        before, ours = ours, _mounts(Process(os.getpid()))
        if ours == before:
            return theirs != ours
    return False


def _mounts(process: Process) -> set[tuple[str, ...]]:
    """What is mounted where: (device, root, mount point, options, file system) of each mount but /proc."""
    found: set[tuple[str, ...]] = set()
    whole = process.root() == "/"
    for line in (process.text("mountinfo") if whole else _from_above(process)).splitlines():
        mount, _, source = line.partition(" - ")
        _, _, device, root, point, options, *_ = mount.split(" ")
        kind = source.split(" ")[0]
        if (kind, point) != ("proc", "/proc"):
            found.add((device, root, point, options, kind))
    return found


def _from_above(process: Process) -> str:
    """mountinfo shows what lies below its process's root directory: of one in a chroot it has to be read by
    somebody who is in the same namespace without being there, a thread of ours.
    """
    found: list[str] = []
    proc = os.open("/proc", os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    namespace = os.open(f"{process.folder}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)

    def read() -> None:
        if _libc.unshare(_CLONE_FS) == 0 and _libc.setns(namespace, _CLONE_NEWNS) == 0:
            fd = os.open("thread-self/mountinfo", os.O_RDONLY | os.O_CLOEXEC, dir_fd=proc)
            with open(fd, encoding="utf-8", errors="surrogateescape") as file:
                found.append(file.read())

    try:
        reader = threading.Thread(target=read)
        reader.start()
        reader.join()
    finally:
        os.close(proc)
        os.close(namespace)
    return "".join(found)
