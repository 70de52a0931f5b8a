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
    allowed = {name for number, name in NAMES.items() if run(number) == ALLOW}
    assert allowed == NEEDED


def test_ioctl_is_for_userfaultfd_only() -> None:
    uffdio_copy, tiocsti = 0xC028AA03, 0x5412
    assert run(NR.ioctl, argument=uffdio_copy) == ALLOW
    assert run(NR.ioctl, argument=tiocsti) == KILL


@pytest.mark.parametrize("number", [NR.read, NR.ioctl, NR.exit_group])
def test_other_abis_are_killed(number: int) -> None:
    assert run(number, arch=I386) == KILL
    assert run(number | 0x40000000) == KILL


def child_under_filter(number: int) -> int:
    """Wait status of a child that installs the filter, makes the syscall, and exits with 7."""
    libc = ctypes.CDLL(None, use_errno=True)
    code = ctypes.create_string_buffer(pager.filter_program())
    table = struct.pack("<HxxxxxxQ", len(pager.filter_program()) // 8, ctypes.addressof(code))
    pid = os.fork()
    if pid == 0:
        libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
        if libc.prctl(PR_SET_SECCOMP, 2, table, 0, 0) != 0:
            os._exit(1)
        libc.syscall(number, 0, 0, 0)
        libc.syscall(NR.exit_group, 7)
    return os.waitpid(pid, 0)[1]


def test_kernel_takes_the_filter() -> None:
    assert os.waitstatus_to_exitcode(child_under_filter(NR.getpid)) == 7
    assert os.waitstatus_to_exitcode(child_under_filter(NR.getppid)) == -signal.SIGSYS
