# SPDX-License-Identifier: Apache-2.0
"""Open files of /proc/PID, for processes and threads of the tree, and the namespaces that it is in.

The restored process opens them by itself, under the IDs of then, when all others are there. What such a file
shows is made when it is read: only the offset comes back.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Mapping

from restorer.errors import RestorerError
from restorer.procfs import Process
from restorer.program import Image, Slot, exactly
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor, filesystem_magic
from restorer.state.opening import AT_FDCWD, Opener
from restorer.syscalls import NR
from restorer.tracee import Tracee

_PROC_SUPER_MAGIC = 0x9FA0
_NAMESPACE = re.compile(r"(mnt|net|ipc|uts|user|cgroup|pid|time):\[(\d+)\]")
_PATH = re.compile(r"/proc/(?P<pid>\d+)(?P<task>/task/(?P<tid>\d+))?(?P<rest>/.*)?")
# Named after what is not there yet when they are opened.
_LATE = re.compile(r"/(fd|fdinfo|map_files)/")


@dataclass(frozen=True)
class ProcFile:
    """An open file of /proc, its path with IDs as the program knows them."""

    path: str
    flags: int
    pos: int
    kind: str = "file of /proc"


def is_one(descriptor: Descriptor) -> bool:
    """Whether it is a namespace, or a file of a process."""
    if _NAMESPACE.fullmatch(descriptor.link):
        return True
    if descriptor.is_anonymous or filesystem_magic(descriptor) != _PROC_SUPER_MAGIC:
        return False
    return any(part.isdigit() for part in descriptor.link.split("/")) or not _is_ours(descriptor)


def _is_ours(descriptor: Descriptor) -> bool:
    """Whether it is of our /proc, where IDs are those that we see."""
    return descriptor.stat.st_dev == os.stat("/proc").st_dev


def capture(tracees: Mapping[int, Tracee], descriptor: Descriptor) -> ProcFile:
    """Describes it; `tracees` are the tree, by pid. Raises Refused for what is of another process, or of none
    any more.
    """
    namespace = _NAMESPACE.fullmatch(descriptor.link)
    if namespace:
        path = _namespace(tracees[descriptor.pid], descriptor, namespace[1], int(namespace[2]))
    else:
        path = _path(tracees, descriptor)
    flags = descriptor.kept_flags
    if stat.S_ISDIR(descriptor.stat.st_mode):
        flags |= os.O_DIRECTORY
    return ProcFile(path, flags, descriptor.pos)


def _namespace(tracee: Tracee, descriptor: Descriptor, kind: str, inode: int) -> str:
    if tracee.process.ns(kind) != inode:
        raise descriptor.refused(
            f"{descriptor.link} is a namespace that process {tracee.pid} is not in", "close it first"
        )
    return f"/proc/self/ns/{kind}"


def _path(tracees: Mapping[int, Tracee], descriptor: Descriptor) -> str:
    link, ours = descriptor.link, _is_ours(descriptor)
    theirs = os.stat(f"/proc/{descriptor.pid}/root/proc").st_dev
    if not link.startswith("/proc/") or (not ours and descriptor.stat.st_dev != theirs):
        raise descriptor.refused(f"{link} is of a procfs that is not /proc", "close it first")
    match = _PATH.fullmatch(link)
    if match is None:
        return link
    rest = match["rest"] or ""
    if descriptor.stat.st_nlink == 0 or rest.endswith(" (deleted)"):
        raise descriptor.refused(f"{link} was of a process that has ended", "close it first")
    if _LATE.match(rest):
        raise descriptor.refused(
            f"{link} stands for a file or a mapping that will be another", "close it first"
        )
    pid = _own_id(tracees, int(match["pid"]), ours)
    tid = _own_id(tracees, int(match["tid"]), ours) if match["tid"] else 0
    if pid == 0 or (match["tid"] and tid == 0):
        raise descriptor.refused(f"{link} is of a process that is not of the tree", "close it first")
    return f"/proc/{pid}" + (f"/task/{tid}" if tid else "") + rest


def _own_id(tracees: Mapping[int, Tracee], number: int, ours: bool) -> int:
    """The ID that the program knows for `number`, 0 for one that is not of the tree."""
    if ours:
        return own_id(tracees, number)
    known = (thread.nstid for tracee in tracees.values() for thread in tracee.threads)
    return number if number in known else 0


def own_id(tracees: Mapping[int, Tracee], pid: int) -> int:
    """The ID by which the program knows process or thread `pid` of the tree, or a zombie of it; 0 for one
    that is not of the tree.
    """
    for tracee in tracees.values():
        for thread in tracee.threads:
            if thread.tid == pid:
                return thread.nstid
    try:
        status = Process(pid).status
    except RestorerError:
        return 0
    if status.state != "Z" or status.ppid not in tracees:
        return 0
    return int(status.fields["NSpid"].split()[-1])


def emit(state: ProcFile, home: Image) -> Slot:
    """Opens it in the process, once all others are there."""
    program = home.main
    flags = state.flags | os.O_CLOEXEC | os.O_NOCTTY
    if state.flags & os.O_PATH:
        flags |= os.O_NOFOLLOW
    fd = Opener(home, program).open(NR.openat, AT_FDCWD, home.string(state.path), flags)
    if state.pos:
        program.syscall(NR.lseek, fd, state.pos, os.SEEK_SET, expect=exactly(state.pos))
    return fd
