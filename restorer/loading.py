# SPDX-License-Identifier: Apache-2.0
"""A tree that restorer itself has restored, with a pager beside each process until all its memory is there.

Until then it cannot be checkpointed: what is missing is in the other image, the pager would be in this one.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator

from restorer.errors import ProcessError, Refused, RestorerError
from restorer.native import pidfd_open, pidfd_send_signal, share_memory
from restorer.procfs import Process

__all__ = ["finish"]

_LAUNCHER, _INIT, _PAGER = "restorer-launch", "restorer-init", "restorer-pager"
_PATIENCE_S, _PATIENCE_STOPPED_S, _POLL_S = 300.0, 10.0, 0.002
_TRIES = 1000
# native/launcher/supervise.c: bring the rest now, whatever --fill said
_FILL_SIGNAL = signal.SIGRTMIN + 1


def finish(pid: int, check: Callable[[], None]) -> None:
    """Asks for the memory that `pid` and its descendants still lack, if they are being restored, and waits.

    `check` is called now and then, and may raise. Raises Refused when the memory does not come in time.
    """
    launcher = _launcher_of(pid)
    if launcher is None:
        return
    fd = pidfd_open(launcher)
    try:
        pidfd_send_signal(fd, _FILL_SIGNAL)
    except ProcessLookupError:
        return
    finally:
        os.close(fd)
    began = time.monotonic()
    while _launcher_of(pid) is not None:
        check()
        waited_s = time.monotonic() - began
        # One that was stopped in its image has yet to run the last of its loader.
        if waited_s > _PATIENCE_STOPPED_S and _is_stopped(pid):
            raise Refused(f"process {pid} is stopped, and not yet restored to the end", "send it SIGCONT")
        if waited_s > _PATIENCE_S:
            raise Refused(f"process {pid} is still being restored by process {launcher}", "try again later")
        time.sleep(_POLL_S)


def _is_stopped(pid: int) -> bool:
    return Process(pid).status.state == "T"


def _launcher_of(pid: int) -> int | None:
    """The launcher that has brought `pid`, while a pager shares the memory of `pid` or of a descendant."""
    for _ in range(_TRIES):
        try:
            return _look(pid)
        except ProcessError:
            # Somebody has ended while it was looked at: that says nothing of the others.
            if not os.path.exists(f"/proc/{pid}"):
                return None
        except RestorerError:
            return None
    return None


def _look(pid: int) -> int | None:
    launcher = _ancestor(pid)
    if launcher is None:
        return None
    pagers = [other for other in _helpers(launcher) if other.comm() == _PAGER]
    members = list(_descent(Process(pid))) if pagers else []
    loading = any(share_memory(one.pid, pager.pid) for one in members for pager in pagers)
    return launcher.pid if loading else None


def _ancestor(pid: int) -> Process | None:
    while pid > 1:
        pid = Process(pid).status.ppid
        if pid and Process(pid).comm() == _LAUNCHER:
            return Process(pid)
    return None


def _helpers(launcher: Process) -> Iterator[Process]:
    """Its children and, with --pid ns, those of the init that it has made: pagers are among them."""
    for child in map(Process, launcher.children()):
        yield child
        if child.comm() == _INIT:
            yield from map(Process, child.children())


def _descent(process: Process) -> Iterator[Process]:
    yield process
    for child in process.children():
        yield from _descent(Process(child))
