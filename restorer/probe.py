# SPDX-License-Identifier: Apache-2.0
"""`check`: what this kernel, with these privileges, can do, tried out, not guessed from its version."""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import platform
import struct
from collections.abc import Callable
from typing import TypeAlias

from restorer.errors import RestorerError
from restorer.record import dataclass
from restorer.state import sockdiag

__all__ = ["Feature", "probe_all", "takes_ports_in_time_wait"]

_libc = ctypes.CDLL(None, use_errno=True)
_SYS_USERFAULTFD, _SYS_CLONE3, _SYS_KCMP, _SYS_SECCOMP = 323, 435, 312, 317
_SYS_PIDFD_GETFD, _SYS_CLOSE_RANGE, _SYS_PROCESS_VM_READV = 438, 436, 310
_PR_SET_MM, _PR_SET_MM_MAP_SIZE = 35, 15
_USERFAULTFD_IOC_NEW, _UFFDIO_API = 0xAA00, 0xC018AA3F
_PAGEMAP_SCAN = 0xC0606610
_CLONE_CLEAR_SIGHAND = 0x100000000
_EVENTS = {"FORK": 1 << 1, "REMAP": 1 << 2, "REMOVE": 1 << 3, "UNMAP": 1 << 6}
_PTRACE_O_SUSPEND_SECCOMP = 1 << 21
_POISON, _MOVE = 1 << 14, 1 << 16


@dataclass(frozen=True)
class Feature:
    """One thing restorer uses: whether it is there, whether it must be, and what its lack costs."""

    name: str
    present: bool
    required: bool
    lack: str
    detail: str = ""


def _syscall(number: int, *args: object) -> int:
    """The result, or -errno."""
    arguments = [ctypes.c_long(arg) if isinstance(arg, int) else arg for arg in args]
    result = int(_libc.syscall(ctypes.c_long(number), *arguments))
    return -ctypes.get_errno() if result < 0 else result


def _open_userfaultfd() -> tuple[int, str]:
    """A userfaultfd that serves kernel faults too, and how it was made; -1 without one."""
    flags = os.O_CLOEXEC | os.O_NONBLOCK
    try:
        device = os.open("/dev/userfaultfd", os.O_RDWR | os.O_CLOEXEC)
    except OSError:
        pass
    else:
        try:
            return fcntl.ioctl(device, _USERFAULTFD_IOC_NEW, flags), "/dev/userfaultfd"
        except OSError:
            pass
        finally:
            os.close(device)
    fd = _syscall(_SYS_USERFAULTFD, flags)
    return (fd, "the system call") if fd >= 0 else (-1, "")


def _userfault() -> list[Feature]:
    fd, how = _open_userfaultfd()
    offered = 0
    if fd >= 0:
        answer = bytearray(struct.pack("QQQ", 0xAA, 0, 0))
        fcntl.ioctl(fd, _UFFDIO_API, answer)
        offered = struct.unpack("QQQ", answer)[1]
        os.close(fd)
    missing = [name for name, bit in _EVENTS.items() if not offered & bit]
    return [
        Feature(
            "userfaultfd",
            fd >= 0,
            True,
            "no lazy restore: needs CAP_SYS_PTRACE, or access to /dev/userfaultfd",
            how,
        ),
        Feature(
            "userfaultfd events",
            not missing,
            True,
            f"fork, mremap, madvise and munmap cannot be followed: no {', '.join(missing)}",
        ),
        Feature(
            "UFFDIO_MOVE", bool(offered & _MOVE), False, "pages are copied: up to four times the cost a page"
        ),
        Feature(
            "UFFDIO_POISON",
            bool(offered & _POISON),
            False,
            "a damaged chunk kills the program instead of raising SIGBUS at its address",
        ),
    ]


def _pagemap_scan() -> bool:
    # struct pm_scan_arg of linux/fs.h with every field but the size zero: an empty range, or EINVAL.
    with open("/proc/self/pagemap", "rb") as pagemap:
        try:
            fcntl.ioctl(pagemap, _PAGEMAP_SCAN, bytearray(struct.pack("12Q", 96, *[0] * 11)))
        except OSError as error:
            return error.errno != errno.ENOTTY
    return True


def _set_tid() -> bool:
    """Whether a process can be made with a chosen PID: that of a child which has just ended."""
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)
    wanted = (ctypes.c_int * 1)(pid)
    args = struct.pack("11Q", _CLONE_CLEAR_SIGHAND, 0, 0, 0, 17, 0, 0, 0, ctypes.addressof(wanted), 1, 0)
    child = _syscall(_SYS_CLONE3, ctypes.create_string_buffer(args, len(args)), len(args))
    if child == 0:
        os._exit(0)
    if child > 0:
        os.waitpid(child, 0)
    return child > 0 or child == -errno.EEXIST


def _pidfd_getfd() -> bool:
    pidfd = os.pidfd_open(os.getpid())
    try:
        fd = _syscall(_SYS_PIDFD_GETFD, pidfd, pidfd, 0)
    finally:
        os.close(pidfd)
    if fd >= 0:
        os.close(fd)
    return fd >= 0


def _set_mm_map() -> bool:
    size = ctypes.c_uint(0)
    return int(_libc.prctl(_PR_SET_MM, _PR_SET_MM_MAP_SIZE, ctypes.byref(size), 0, 0)) == 0 and size.value > 0


def _capability(number: int) -> bool:
    """Whether the capability is effective."""
    with open("/proc/self/status", encoding="ascii") as status:
        effective = next(int(line.split()[1], 16) for line in status if line.startswith("CapEff:"))
    return bool(effective >> number & 1)


def _pid_namespace() -> bool:
    """Whether a child may unshare its PID and mount namespaces."""
    pid = os.fork()
    if pid == 0:
        os._exit(0 if _libc.unshare(0x20000000 | 0x00020000) == 0 else 1)
    return os.waitpid(pid, 0)[1] == 0


def _on_child(probe: Callable[[int], bool]) -> bool:
    """What the probe says of a child that waits."""
    pid = os.fork()
    if pid == 0:
        _libc.prctl(1, 9, 0, 0, 0)  # PR_SET_PDEATHSIG, SIGKILL
        while True:
            _libc.pause()
    try:
        return probe(pid)
    finally:
        os.kill(pid, 9)
        os.waitpid(pid, 0x40000000)


def _seize(pid: int, options: int = 0) -> bool:
    return int(_libc.ptrace(0x4206, pid, None, ctypes.c_void_p(options))) == 0


def _rseq_configuration(pid: int) -> bool:
    """Whether a tracer is told where a thread has registered its rseq area."""
    if not _seize(pid):
        return False
    _libc.ptrace(0x4207, pid, None, None)  # PTRACE_INTERRUPT
    os.waitpid(pid, 0x40000000)
    buffer = ctypes.create_string_buffer(64)
    return int(_libc.ptrace(0x420F, pid, ctypes.c_void_p(24), buffer)) > 0


def _suspend_seccomp(pid: int) -> bool:
    """Whether a tracer can hold off seccomp filters."""
    return _seize(pid, _PTRACE_O_SUSPEND_SECCOMP)


def takes_ports_in_time_wait() -> bool:
    """Whether a port can be had beside connections in TIME_WAIT that had no SO_REUSEADDR."""
    try:
        return _capability(12) and sockdiag.tells_of_bound()
    except RestorerError:
        return False


def _known(number: int, *args: object) -> Callable[[], bool]:
    """A probe: the system call exists, whatever it says to these arguments."""
    return lambda: _syscall(number, *args) not in (-errno.ENOSYS, -errno.EPERM)


_Probe: TypeAlias = tuple[str, Callable[[], bool], bool, str]
_CHECKPOINT = "no checkpoint"
_RESTORE = "no restore"
_FOR_CHECKPOINT: tuple[_Probe, ...] = (
    ("x86-64", lambda: platform.machine() == "x86_64", True, "nothing works: no other machine is supported"),
    ("ptrace", lambda: _capability(19), True, f"{_CHECKPOINT} of processes of others: needs CAP_SYS_PTRACE"),
    (
        "ptrace rseq",
        lambda: _on_child(_rseq_configuration),
        True,
        f"{_CHECKPOINT} of programs that registered rseq (glibc does)",
    ),
    ("process_vm_readv", _known(_SYS_PROCESS_VM_READV, os.getpid(), None, 0, None, 0, 0), True, _CHECKPOINT),
    ("pidfd_getfd", _pidfd_getfd, True, f"{_CHECKPOINT} of open files: needs CAP_SYS_PTRACE"),
    (
        "kcmp",
        _known(_SYS_KCMP, os.getpid(), os.getpid(), 0, 0, 0),
        True,
        f"{_CHECKPOINT}: shared descriptors cannot be told apart",
    ),
    (
        "ptrace seccomp",
        lambda: _on_child(_suspend_seccomp),
        False,
        f"{_CHECKPOINT} and {_RESTORE} of programs under seccomp: needs CAP_SYS_ADMIN, "
        "CONFIG_CHECKPOINT_RESTORE, and no filter on this command, as in a container",
    ),
    ("PAGEMAP_SCAN", _pagemap_scan, False, "checkpoint looks for pages through /proc/PID/pagemap: slower"),
)
_FOR_RESTORE: tuple[_Probe, ...] = (
    ("clone3 set_tid", _set_tid, True, f"{_RESTORE}: needs CAP_CHECKPOINT_RESTORE or CAP_SYS_ADMIN"),
    ("PR_SET_MM_MAP", _set_mm_map, True, f"{_RESTORE}: brk and arguments cannot be put back"),
    ("close_range", _known(_SYS_CLOSE_RANGE, 1 << 30, 1 << 30, 0), True, _RESTORE),
    (
        "seccomp filter",
        lambda: _syscall(_SYS_SECCOMP, 2, 0, ctypes.byref(ctypes.c_uint(0x7FFF0000))) == 0,
        True,
        f"{_RESTORE}: the pager does not run without its filter",
    ),
    ("PID namespaces", _pid_namespace, False, "no restore --pid ns: needs CAP_SYS_ADMIN"),
    (
        "time namespaces",
        lambda: os.path.exists("/proc/self/timens_offsets") and _capability(25),
        False,
        "no restore --time continue, and none at all of images from before a boot: needs CAP_SYS_TIME",
    ),
    (
        "ports in TIME_WAIT",
        takes_ports_in_time_wait,
        False,
        f"{_RESTORE} of a server without SO_REUSEADDR within a minute after it has ended connections: needs "
        "CAP_NET_ADMIN and Linux 6.8",
    ),
)


def _try(probes: tuple[_Probe, ...]) -> list[Feature]:
    return [Feature(name, probe(), required, lack) for name, probe, required, lack in probes]


def probe_all() -> list[Feature]:
    """Every feature, tried once. Leaves nothing behind; forks a few children and reaps them."""
    return _try(_FOR_CHECKPOINT) + _userfault() + _try(_FOR_RESTORE)
