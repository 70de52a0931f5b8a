# SPDX-License-Identifier: Apache-2.0
"""What no module restores yet and is not an fd or a mapping: found here, and refused by name."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

from restorer.errors import Refused, RestorerError
from restorer.native import kcmp
from restorer.procfs import Process
from restorer.state.sharing import KCMP_FILES, KCMP_FS, KCMP_VM, Objects
from restorer.tracee import Tracee

_WAY_OUT = "checkpoint a process above both, or end the other one first"
_SHARED = (
    (KCMP_VM, "its memory", "one that vfork has made shares it until it calls exec: try again then"),
    (KCMP_FILES, "its file descriptors", _WAY_OUT),
    (KCMP_FS, "its working directory", _WAY_OUT),
)
_NO_LAM = (1 << 64) - 1

# A process, why it cannot be checkpointed, and the way out.
_Reason = tuple[int, str, str]
# A process that is not of the tree, and its threads.
_Other = tuple[int, list[int]]


def check(tracees: Sequence[Tracee]) -> None:
    """Raises Refused with all reasons, separated by "; ", for the first process of a tree that has any."""
    others = list(_others({tracee.pid for tracee in tracees}))
    reasons = [*_threads(tracees), *_sharers(tracees, others), *_traced(tracees)]
    for tracee in tracees:
        causes = [why for pid, why, _ in reasons if pid == tracee.pid]
        if causes:
            hint = next((hint for pid, _, hint in reasons if pid == tracee.pid and hint), "")
            raise Refused(f"process {tracee.pid} cannot be checkpointed: {'; '.join(causes)}", hint)


def _name(pid: int) -> str:
    try:
        return Process(pid).comm()
    except RestorerError:
        return "?"


def _threads(tracees: Sequence[Tracee]) -> Iterator[_Reason]:
    for tracee in tracees:
        for thread in tracee.threads:
            fields = thread.status.fields
            if thread.filters_hold:
                yield tracee.pid, f"thread {thread.tid} runs under seccomp, which {thread.filters_hold}", ""
            if "shstk" in fields.get("x86_Thread_features", ""):
                yield tracee.pid, f"thread {thread.tid} has a shadow stack", ""
            if int(fields.get("untag_mask", hex(_NO_LAM)), 16) != _NO_LAM:
                yield tracee.pid, f"thread {thread.tid} uses tagged addresses (LAM)", ""
            if thread is not tracee.leader and kcmp(tracee.pid, thread.tid, KCMP_FILES, 0, 0):
                why = f"thread {thread.tid} does not share its file descriptors with the others (unshare)"
                yield tracee.pid, why, "end that thread first"


def _others(own: set[int]) -> Iterator[_Other]:
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in own | {os.getpid()}:
            yield int(entry), _tasks(int(entry))


def _tasks(pid: int) -> list[int]:
    """Those of a process; a directory has one link for each, and two of its own, which is cheaper to ask."""
    try:
        one = os.stat(f"/proc/{pid}/task").st_nlink == 3
        return [pid] if one else [int(tid) for tid in os.listdir(f"/proc/{pid}/task")]
    except OSError:
        return []


def _sharers(tracees: Sequence[Tracee], others: Sequence[_Other]) -> Iterator[_Reason]:
    """Processes that share memory, or descriptors or directories with one outside of the tree."""
    for kind, what, hint in _SHARED:
        known = Objects(kind)
        for index, tracee in enumerate(tracees):
            for thread in tracee.threads:
                first = known.find(thread.tid)
                if first is None:
                    known.add(thread.tid, index)
                elif first != index and kind == KCMP_VM:
                    yield tracee.pid, _with(what, tracees[first].pid), hint
                    break
        for pid, tasks in others:
            for found in {_find(known, tid) for tid in tasks}:
                if found is not None:
                    yield tracees[found].pid, _with(what, pid), hint


def _with(what: str, pid: int) -> str:
    return f"it shares {what} with process {pid} '{_name(pid)}'"


def _find(known: Objects, tid: int) -> int | None:
    # Kernel threads, those that have just ended, and those we may not look into share nothing with it.
    try:
        return known.find(tid)
    except (ProcessLookupError, PermissionError):
        return None


def _traced(tracees: Sequence[Tracee]) -> Iterator[_Reason]:
    """Processes that one of the tree traces, itself of the tree or not: those of the tree we trace."""
    own = {tracee.pid for tracee in tracees}
    for entry in os.listdir("/proc"):
        tracer = _tracer(int(entry)) if entry.isdigit() else 0
        if tracer in own:
            yield tracer, f"it traces process {entry} '{_name(int(entry))}'", ""


def _tracer(pid: int) -> int:
    # Not by a whole Status: every process of the machine is looked at while the tree is frozen.
    try:
        text = Process(pid).text("status")
    except RestorerError:
        return 0
    return int(text.partition("\nTracerPid:\t")[2].partition("\n")[0] or 0)
