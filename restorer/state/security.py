# SPDX-License-Identifier: Apache-2.0
"""What the security modules and the key service hold of a task, and nobody can put back: refused by name.

A restored process has the label of `restore`, so that the same label is no obstacle.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator

from restorer.errors import ProcessError, Refused
from restorer.procfs import Process
from restorer.syscalls import NR
from restorer.tracee import Thread, Tracee

# proc_pid_attr(5): the label, and those that the next exec or new files, keys and sockets get.
_LABELS = ("current", "exec", "fscreate", "keycreate", "sockcreate")
_GET_KEYRING_ID = 0
_THREAD_KEYRING, _PROCESS_KEYRING = -1, -2


def check(tracee: Tracee, own: Process) -> None:
    """Raises Refused naming labels that differ from those of `own`, which stands for `restore`, and
    keyrings.
    """
    found = [reason for thread in tracee.threads for reason in _reasons(thread, own)]
    if _has_keyring(tracee.leader, _PROCESS_KEYRING):
        found.append("it has a process keyring")
    if found:
        raise Refused(f"process {tracee.pid} cannot be checkpointed: {'; '.join(found)}")


def _reasons(thread: Thread, own: Process) -> Iterator[str]:
    for name in _LABELS:
        ours, theirs = label(own, name), label(thread.process, name)
        if theirs != ours:
            yield f"thread {thread.tid} has the security label {theirs!r} ({name}) where restore has {ours!r}"
    if _has_keyring(thread, _THREAD_KEYRING):
        yield f"thread {thread.tid} has a thread keyring"


def label(process: Process, name: str) -> str:
    """One label, "" where no security module has any."""
    try:
        return process.text(f"attr/{name}").strip("\0\n")
    except ProcessError:
        # A kernel may have no such file; that a process has ended is found elsewhere.
        return ""
    except OSError as error:
        if error.errno in (errno.EINVAL, errno.EOPNOTSUPP):
            return ""
        raise


def _has_keyring(thread: Thread, number: int) -> bool:
    try:
        thread.syscall(NR.keyctl, _GET_KEYRING_ID, number, 0)
    except OSError as error:
        # EKEYREVOKED and EKEYEXPIRED are of a keyring that was.
        if error.errno in (errno.ENOKEY, errno.ENOSYS, errno.EKEYREVOKED, errno.EKEYEXPIRED):
            return False
        raise
    return True
