# SPDX-License-Identifier: Apache-2.0
"""The pager's seccomp filter: interpreted, and installed in a child."""

from __future__ import annotations

import ctypes
import os
import signal
import struct

import pytest

from restorer.state import pager
from restorer.syscalls import NAMES, NR

X86_64, I386 = 0xC000003E, 0x40000003
KILL, ALLOW = 0x80000000, 0x7FFF0000
PR_SET_NO_NEW_PRIVS, PR_SET_SECCOMP = 38, 22
NEEDED = {"close", "exit", "exit_group", "futex", "getpid", "kcmp", "madvise", "munmap", "pidfd_send_signal"}
NEEDED |= {"ppoll", "pread64", "read", "restart_syscall", "sendmsg"}
# fmt: off
FORBIDDEN = [
    "open", "openat", "openat2", "open_by_handle_at", "creat", "write", "pwrite64", "sendto", "recvmsg",
    "socket", "connect", "dup", "dup2", "fcntl", "mmap", "mprotect", "mremap", "process_vm_readv",
    "process_vm_writev", "process_madvise", "memfd_create", "userfaultfd", "fork", "vfork", "clone",
    "clone3", "execve", "execveat", "ptrace", "kill", "tgkill", "rt_sigqueueinfo", "pidfd_open",
    "pidfd_getfd", "wait4", "setuid", "setresuid", "setgroups", "capset", "prctl", "arch_prctl", "seccomp",
    "prlimit64", "unshare", "setns", "mount", "chroot", "unlink", "rename", "chmod", "bpf",
    "perf_event_open", "keyctl", "io_uring_setup", "kexec_load", "init_module", "reboot",
]
# fmt: on


def run(number: int, arch: int = X86_64, argument: int = 0) -> int:
    """What the filter answers: classic BPF over struct seccomp_data."""
    data = struct.pack("<IIQ6Q", number, arch, 0, 0, argument, 0, 0, 0, 0)
    insns = list(struct.iter_unpack("<HBBI", pager.filter_program()))
    at = accumulator = 0
    while True:
        code, yes, no, k = insns[at]
        at += 1
        if code == 0x20:
            (accumulator,) = struct.unpack_from("<I", data, k)
        elif code == 0x54:
            accumulator &= k
        elif code == 0x15:
            at += yes if accumulator == k else no
        else:
            assert code == 0x06
            return int(k)


def test_allows_what_the_pager_does_and_no_more() -> None:
    allowed = {NAMES.get(number, str(number)) for number in range(4096) if run(number) == ALLOW}
    assert allowed == NEEDED


def test_ioctl_is_for_userfaultfd_only() -> None:
    uffdio_copy, tiocsti = 0xC028AA03, 0x5412
    assert run(NR.ioctl, argument=uffdio_copy) == ALLOW
    assert run(NR.ioctl, argument=tiocsti) == KILL


@pytest.mark.parametrize("number", [NR.read, NR.ioctl, NR.exit_group])
def test_other_abis_are_killed(number: int) -> None:
    assert run(number, arch=I386) == KILL
    assert run(number | 0x40000000) == KILL


def child_under_filter(number: int, argument: int = 0, nobody: bool = False) -> int:
    """Wait status of a child that installs the filter, makes the syscall, and exits with 7."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(pager.filter_program())
    table = struct.pack("<HxxxxxxQ", len(pager.filter_program()) // 8, ctypes.addressof(code))
    pid = os.fork()
    if pid == 0:
        if nobody:
            os.setresuid(65534, 65534, 65534)
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.prctl(PR_SET_SECCOMP, 2, table, 0, 0) != 0:
            os._exit(1)
        libc.syscall(number, 0, argument, 0)
        libc.syscall(NR.exit_group, 7)
    return os.waitpid(pid, 0)[1]


def test_kernel_takes_the_filter() -> None:
    assert os.waitstatus_to_exitcode(child_under_filter(NR.getpid)) == 7
    assert os.waitstatus_to_exitcode(child_under_filter(NR.getppid)) == -signal.SIGSYS


def killed(numbers: list[int], argument: int = 0, nobody: bool = False) -> list[int]:
    return [
        number
        for number in numbers
        if os.waitstatus_to_exitcode(child_under_filter(number, argument, nobody)) == -signal.SIGSYS
    ]


@pytest.mark.parametrize("nobody", [False, True])
def test_kernel_kills_what_would_help(nobody: bool) -> None:
    """To other files, memory, processes, powers; and a number that is no syscall. All the others are for
    `test_allows_what_the_pager_does_and_no_more`: one child each would take half a minute.
    """
    if nobody and os.geteuid() != 0:
        pytest.skip("needs root, to become somebody else")
    numbers = [getattr(NR, name) for name in FORBIDDEN] + [500]
    assert killed(numbers, nobody=nobody) == numbers


def test_kernel_kills_other_ioctls() -> None:
    """Terminals, sockets, file systems, pidfds, KVM, and what comes beside the type of userfaultfd."""
    for kind in (0x00, 0x54, 0x89, 0x66, 0xFF, 0xAE, 0xA9, 0xAB):
        assert killed([NR.ioctl], kind << 8) == [NR.ioctl]
    assert killed([NR.ioctl], 0xAA << 8) == []
