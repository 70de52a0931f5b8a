# SPDX-License-Identifier: Apache-2.0
"""Session, process group and parent of one process; births.py puts those of a whole tree back."""

from __future__ import annotations

from restorer.procfs import Process
from restorer.record import dataclass


@dataclass(frozen=True)
class Session:
    """IDs as the program knows them, 0 for one outside of its PID namespace. `terminal` is the device
    number of the controlling terminal, 0 for none; `exit_signal` is what the parent gets at the end, 0 for
    nothing.
    """

    pid: int
    session: int
    group: int
    terminal: int
    exit_signal: int

    @property
    def leads_session(self) -> bool:
        """It made its session."""
        return self.session == self.pid

    @property
    def leads_group(self) -> bool:
        """It made its process group."""
        return self.group == self.pid


def capture(process: Process) -> Session:
    """From /proc/PID/stat and status; also of a zombie."""
    status, stat = process.status, process.stat
    return Session(
        pid=status.nspid,
        session=int(status.fields["NSsid"].split()[-1]),
        group=int(status.fields["NSpgid"].split()[-1]),
        terminal=stat.tty_nr & 0xFFFFFFFF,
        exit_signal=stat.exit_signal,
    )
