# SPDX-License-Identifier: Apache-2.0
"""What becomes of a syscall that stopping the thread has interrupted.

The kernel marks it in rax and acts on the mark when the thread goes back to user mode, in
arch_do_signal_or_restart (no handler runs) or handle_signal (one does):

    rax                         no handler            handler               handler with SA_RESTART
    -512 ERESTARTSYS            again                 EINTR                 again
    -513 ERESTARTNOINTR         again                 again                 again
    -514 ERESTARTNOHAND         again                 EINTR                 EINTR
    -516 ERESTART_RESTARTBLOCK  restart_syscall       EINTR                 EINTR

A live thread is let go with rax and orig_rax as found, so all that is the kernel's work, remaining time of a
sleep included. An image has to do it itself, and cannot know the remaining time: relative sleeps and
timeouts start over.

Some calls have no mark and simply return EINTR (signal(7), "never restarted"). If no handler is to run, only
our stop can have been the reason, and they are made again, too; their relative timeouts start over.
"""

from __future__ import annotations

import errno

from restorer.model import Registers

__all__ = [
    "CUT_SHORT",
    "MARKS",
    "RESTART_SYSCALL",
    "again",
    "as_found",
    "cut_short",
    "interrupted",
    "original_call",
]

ERESTARTSYS = 512
ERESTARTNOINTR = 513
ERESTARTNOHAND = 514
ERESTART_RESTARTBLOCK = 516

MARKS = frozenset({-ERESTARTSYS, -ERESTARTNOINTR, -ERESTARTNOHAND, -ERESTART_RESTARTBLOCK})

RESTART_SYSCALL = 219

_NEVER_RESTARTED = frozenset(
    {
        0,  # read, of a socket with SO_RCVTIMEO
        1,  # write, SO_SNDTIMEO
        19,  # readv
        20,  # writev
        42,  # connect, SO_SNDTIMEO
        43,  # accept, SO_RCVTIMEO
        44,  # sendto
        45,  # recvfrom
        46,  # sendmsg
        47,  # recvmsg
        65,  # semop
        69,  # msgsnd
        70,  # msgrcv
        128,  # rt_sigtimedwait
        208,  # io_getevents
        220,  # semtimedop
        232,  # epoll_wait
        281,  # epoll_pwait
        288,  # accept4
        299,  # recvmmsg
        307,  # sendmmsg
        333,  # io_pgetevents
        426,  # io_uring_enter
        441,  # epoll_pwait2
    }
)

_CLOCK_NANOSLEEP, _NANOSLEEP, _POLL, _FUTEX = 230, 35, 7, 202
_FUTEX_WAIT, _FUTEX_WAIT_BITSET = 0, 9
_FUTEX_OPTIONS = 128 | 256  # FUTEX_PRIVATE_FLAG | FUTEX_CLOCK_REALTIME


CUT_SHORT = [sum(1 << nr % 64 for nr in _NEVER_RESTARTED if nr // 64 == word) for word in range(8)]
"""The calls that `cut_short` knows, a bit each: tr_wait_stop's never_restarted."""


def interrupted(regs: Registers) -> bool:
    """The thread is in a syscall that the kernel has marked to be made again."""
    return regs.syscall >= 0 and regs.result in MARKS


def cut_short(regs: Registers) -> bool:
    """The thread is about to see EINTR from a call that the kernel never makes again."""
    return regs.syscall in _NEVER_RESTARTED and regs.result == -errno.EINTR


def again(regs: Registers, nr: int) -> Registers:
    """At the syscall instruction once more. Its two bytes are `syscall`'s or `int 0x80`'s."""
    return regs.but(rip=regs.rip - 2, rax=nr, orig_rax=-1)


def as_found(regs: Registers) -> Registers:
    """What they were before `again` was done about a call that was cut short."""
    return regs.but(rip=regs.rip + 2, rax=-errno.EINTR, orig_rax=regs.rax)


def with_handler(regs: Registers, nr: int, sa_restart: bool) -> Registers:
    """What handle_signal makes of an interrupted call before it sets up the handler's frame."""
    if regs.result == -ERESTARTNOINTR or (regs.result == -ERESTARTSYS and sa_restart):
        return again(regs, nr)
    return regs.but(rax=-errno.EINTR, orig_rax=-1)


def original_call(regs: Registers, code: bytes) -> int | None:
    """The syscall behind restart_syscall(2), None if it cannot be told.

    The arguments are still in their registers, the number is not. `code` are the seven bytes before rip: as
    good as always `mov $nr, %eax; syscall`. Otherwise the arguments tell, if they fit one call alone.
    """
    candidates = {nr for nr in (_CLOCK_NANOSLEEP, _NANOSLEEP, _POLL, _FUTEX) if _fits(nr, regs)}
    if len(code) == 7 and code[0] == 0xB8 and code[5:] == b"\x0f\x05":
        nr = int.from_bytes(code[1:5], "little")
        return nr if nr in candidates else None
    return candidates.pop() if len(candidates) == 1 else None


def _fits(nr: int, regs: Registers) -> bool:
    low = 4096  # no pointer of a program is below vm.mmap_min_addr's usual value
    if nr == _CLOCK_NANOSLEEP:
        return (regs.rdi & 0xFFFFFFFF) < low and regs.rsi & 0xFFFFFFFF == 0 and regs.rdx >= low
    if nr == _NANOSLEEP:
        return regs.rdi >= low and (regs.rsi == 0 or regs.rsi >= low)
    if nr == _POLL:
        pointer = regs.rdi >= low or (regs.rdi == 0 and regs.rsi == 0)
        return pointer and regs.rsi & 0xFFFFFFFF < 1 << 20 and regs.rdx < 1 << 32
    command = regs.rsi & 0xFFFFFFFF & ~_FUTEX_OPTIONS
    return regs.rdi >= low and regs.r10 >= low and command in (_FUTEX_WAIT, _FUTEX_WAIT_BITSET)
