# SPDX-License-Identifier: Apache-2.0
"""Keeps freezing a process from waiting for ever when it calls execve(2) at that moment.

A thread that execs kills the others, holds cred_guard_mutex and waits until they are gone (de_thread). One
that we have seized is gone when we have collected its exit status; but we may be waiting for the stop of
another, or be inside PTRACE_SEIZE, which waits for that mutex. So somebody else has to collect: any thread of
the tracer may.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress

__all__ = ["collecting"]

_PATIENCE_S = 0.05
_WALL = 0x40000000
_ENDED = (os.CLD_EXITED, os.CLD_KILLED, os.CLD_DUMPED)


@contextmanager
def collecting(tids: Sequence[int]) -> Iterator[None]:
    """Collects those of `tids` that die while the block takes long; their stops are left alone.

    `tids` may grow meanwhile. waitpid(2) says ECHILD of those collected.
    """
    done = threading.Event()
    helper = threading.Thread(target=_collect, args=(tids, done), daemon=True)
    helper.start()
    try:
        yield
    finally:
        done.set()
        helper.join()


def _collect(tids: Sequence[int], done: threading.Event) -> None:
    while not done.wait(_PATIENCE_S):
        for tid in list(tids):
            with suppress(ChildProcessError):
                # Looked at before it is taken: the stops of a tracee are reported whatever the options say
                # (wait_task_stopped), and would be lost to who waits for them.
                found = os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | os.WNOWAIT | _WALL)
                if found is not None and found.si_code in _ENDED:
                    os.waitid(os.P_PID, tid, os.WEXITED | os.WNOHANG | _WALL)
