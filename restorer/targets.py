# SPDX-License-Identifier: Apache-2.0
"""Whether a process is one that can be seized, and in words why not."""

from __future__ import annotations

import errno
import os
from typing import Any

from restorer.errors import PrivilegeError, ProcessError, Refused, RestorerError
from restorer.native import check, share_memory
from restorer.procfs import PF_KTHREAD, Process

__all__ = ["Stuck", "does_not_stop", "explain", "inspect", "refuse_dead_leader"]

_DEAD = "ZX"


def inspect(pid: int) -> None:
    """Returns if `pid` names a live process that may be stopped. Raises ProcessError or Refused."""
    process = Process(pid)
    if pid <= 0 or not process.exists():
        raise ProcessError(f"there is no process {pid}", "`ps` lists those there are")
    status = process.status
    if status.tgid != pid:
        raise ProcessError(f"{pid} is a thread of process {status.tgid}", f"name the process: {status.tgid}")
    if process.stat.flags & PF_KTHREAD:
        raise Refused(f"{pid} '{status.name}' is a thread of the kernel", "only programs can be checkpointed")
    if pid == os.getpid():
        raise Refused(f"process {pid} is restorer itself", "name another process")
    if pid in _ancestors():
        raise Refused(
            f"process {pid} '{status.name}' is a parent of this command",
            "start the command from somewhere else",
        )
    if status.tracer:
        raise _traced(pid, status.tracer)
    if status.state in _DEAD:
        raise _dead(pid, status.threads)


def _ancestors() -> list[int]:
    found: list[int] = []
    pid = os.getppid()
    while pid > 0:
        found.append(pid)
        try:
            pid = Process(pid).status.ppid
        except RestorerError:
            break
    return found


def _traced(pid: int, tracer: int) -> ProcessError:
    try:
        name = f" '{Process(tracer).comm()}'"
    except RestorerError:
        name = ""
    return ProcessError(f"process {pid} is traced by process {tracer}{name}", "end that first")


def _dead(pid: int, threads: int) -> RestorerError:
    # A leader that has ended while others run on is a zombie that counts its threads.
    if threads > 1:
        return Refused(
            f"process {pid} cannot be checkpointed: its main thread has ended (pthread_exit), others run on",
            "have it wait for them (pthread_join)",
        )
    return ProcessError(f"process {pid} has ended and waits for its parent to collect it (zombie)")


def refuse_dead_leader(pid: int) -> None:
    """Raises if the leader is a zombie or about to be."""
    status = Process(pid).thread(pid).status
    if status.state in _DEAD:
        raise _dead(pid, status.threads)


class Stuck(ProcessError):
    """A thread waits uninterruptibly in the kernel."""


def does_not_stop(pid: int, tid: int) -> ProcessError:
    """The exception for a thread that takes no interrupt; names the child of vfork(2) that it waits for, or
    the kernel function it waits in, and is Stuck then.
    """
    try:
        for child in Process(pid).thread(tid).children():
            if share_memory(tid, child):
                return ProcessError(
                    f"process {pid} does not stop: it waits for its child {child} '{Process(child).comm()}', "
                    "which vfork has made, to call exec or to end",
                    "try again when it has",
                )
        where = Process(pid).thread(tid).text("wchan")
    except RestorerError:
        where = ""
    return Stuck(
        f"process {pid} does not stop: its thread {tid} waits uninterruptibly in the kernel"
        + (f" ({where})" if where not in ("", "0") else ""),
        "try again later",
    )


def explain(pid: int, tid: int, err: Any) -> bool:
    """Why PTRACE_SEIZE of a thread has failed: False if it has ended by itself, else raises."""
    try:
        status = Process(pid).thread(tid).status
    except ProcessError:
        return False
    if status.state in _DEAD:
        refuse_dead_leader(pid)
        return False
    if err.code != errno.EPERM:
        check(-1, err)
    if status.tracer:
        raise _traced(pid, status.tracer)
    raise PrivilegeError(
        f"process {pid} of user {status.uids.real} may not be traced by user {os.geteuid()}",
        "run as root, or with CAP_SYS_PTRACE; /proc/sys/kernel/yama/ptrace_scope may forbid it, too",
    )
