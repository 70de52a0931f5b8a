# SPDX-License-Identifier: Apache-2.0
"""Session and process group.

A leader leads again: a session of its own, or a group of its own in restore's session. Any other process
joins restore's group, as a job of the shell that restore runs in. A session leader has no controlling
terminal after a restore: a terminal belongs to one session, and that of restore keeps it.
"""

from __future__ import annotations

from dataclasses import dataclass

from restorer.program import Image
from restorer.syscalls import NR
from restorer.tracee import Tracee


@dataclass(frozen=True)
class Session:
    """`terminal` is the device number of the controlling terminal, 0 for none."""

    session_leader: bool
    group_leader: bool
    terminal: int


def capture(tracee: Tracee) -> Session:
    """From /proc/PID/stat."""
    stat = tracee.process.stat
    return Session(stat.session == tracee.pid, stat.pgrp == tracee.pid, stat.tty_nr & 0xFFFFFFFF)


def emit(state: Session, image: Image) -> None:
    """Makes the session or the group."""
    if state.session_leader:
        with image.about("session"):
            image.main.syscall(NR.setsid)
    elif state.group_leader:
        with image.about("process group"):
            image.main.syscall(NR.setpgid, 0, 0)
