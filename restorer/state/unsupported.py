# SPDX-License-Identifier: Apache-2.0
"""What no module restores yet and is not an fd or a mapping: found here, and refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator

from restorer.errors import Refused, RestorerError
from restorer.native import kcmp
from restorer.procfs import Process
from restorer.tracee import Tracee

_KCMP_VM, _KCMP_FILES, _KCMP_FS = 1, 2, 3
_SHARED = (
    (_KCMP_VM, "its memory"),
    (_KCMP_FILES, "its file descriptors"),
    (_KCMP_FS, "its working directory"),
)
_NO_LAM = (1 << 64) - 1


def check(tracee: Tracee) -> None:
    """Raises Refused with all reasons, separated by "; "."""
    reasons = [*_threads(tracee), *_others(tracee)]
    if reasons:
        raise Refused(f"process {tracee.pid} cannot be checkpointed: {'; '.join(reasons)}")


def _name(pid: int) -> str:
    try:
        return Process(pid).comm()
    except RestorerError:
        return "?"


def _threads(tracee: Tracee) -> Iterator[str]:
    for thread in tracee.threads:
        fields = thread.status.fields
        if thread.filters_hold:
            yield f"thread {thread.tid} runs under seccomp, which {thread.filters_hold}"
        if "shstk" in fields.get("x86_Thread_features", ""):
            yield f"thread {thread.tid} has a shadow stack"
        if int(fields.get("untag_mask", hex(_NO_LAM)), 16) != _NO_LAM:
            yield f"thread {thread.tid} uses tagged addresses (LAM)"
        if thread is not tracee.leader and kcmp(tracee.pid, thread.tid, _KCMP_FILES, 0, 0):
            yield f"thread {thread.tid} does not share its file descriptors with the others (unshare)"


def _others(tracee: Tracee) -> Iterator[str]:
    """Processes made with CLONE_VM, CLONE_FILES or CLONE_FS that share with the target; those it traces."""
    for entry in os.listdir("/proc"):
        if not entry.isdigit() or int(entry) in (tracee.pid, os.getpid()):
            continue
        pid = int(entry)
        for kind, what in _SHARED:
            if _shares(tracee.pid, pid, kind):
                yield f"it shares {what} with process {pid} '{_name(pid)}'"
        if _traces(tracee.pid, pid):
            yield f"it traces process {pid} '{_name(pid)}'"


def _shares(pid: int, other: int, kind: int) -> bool:
    # Kernel threads, those that have just ended, and those we may not look into share nothing with it.
    try:
        return kcmp(pid, other, kind, 0, 0) == 0
    except (ProcessLookupError, PermissionError):
        return False


def _traces(tracer: int, pid: int) -> bool:
    # Not by a whole Status: every process of the machine is looked at while the tree is frozen.
    try:
        return f"\nTracerPid:\t{tracer}\n" in Process(pid).text("status")
    except RestorerError:
        return False
