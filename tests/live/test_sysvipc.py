# SPDX-License-Identifier: Apache-2.0
"""System V semaphores and queues: restored twice, in IPC namespaces."""

from __future__ import annotations

import ctypes
import subprocess
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, ipc_exists, ipc_objects, kill_all, remove_ipc, script

OPTION = {"sem": "-s", "msg": "-q"}
# One semaphore, that it adds 1 to.
UNDONE = """
c = ctypes.CDLL(None)
s = c.semget(0, 1, 0o1600)
assert c.semop(s, ctypes.create_string_buffer(bytes([0, 0, 1, 0, 0, 0x10])), 1) == 0

def finish():
    return "removed" if c.semctl(s, 0, 0) == 0 else "lost"
"""
pytestmark = pytest.mark.alone("sysv")  # an ID is taken by who asks next
PROGRAM = "sysvipc"  # its objects are still there once it is in the store
_libc = ctypes.CDLL(None, use_errno=True)


def key(of: Program) -> int:
    return 0x53000000 | of.pid


def test_found_as_it_was_not(restorer: Restorer, stored: Program) -> None:
    """What others have sent meanwhile is gone, values are those of the checkpoint."""
    first = restorer.restore("image")
    stored.go()
    assert stored.result(first) == "ok\n"
    first.wait_gone()
    kill_all([first.pid])  # with its memory there it is, or will be, our child, whom nobody has waited for
    stored.reset()
    again = restorer.restore("image")
    stored.go()
    assert stored.result(again) == "ok\n"


def test_taken_from_a_copy(restorer: Restorer, stored: Program) -> None:
    """A checkpoint of what lives in an IPC namespace of its own."""
    copy = restorer.restore("image", "--pid", "ns", "--fill", "none")
    restorer.checkpoint(copy.pid, "second")
    remove_ipc(stored.workdir)
    restored = restorer.restore("second", "--pid", "ns")
    stored.go()
    assert stored.result(restored) == "ok\n"


@pytest.mark.parametrize("kind", ["sem", "msg"])
def test_key_is_taken(restorer: Restorer, stored: Program, kind: str) -> None:
    """Nothing that the failed restore has made stays, and nothing of others goes."""
    remove_ipc(stored.workdir)
    other = _libc.semget(key(stored), 1, 0o3600) if kind == "sem" else _libc.msgget(key(stored), 0o3600)
    assert ipc_exists(kind, other)
    try:
        message = restorer.fails("restore", "image", "-d", code=125)
        assert "System V" in message and OPTION[kind] in message
        assert [one for one in ipc_objects(stored.workdir) if ipc_exists(*one)] == []
        assert ipc_exists(kind, other)
    finally:
        subprocess.run(["ipcrm", OPTION[kind], str(other)], check=True)


def test_what_would_be_undone(restorer: Restorer, workdir: Path, cleanup: None) -> None:
    """Refused, and the program goes on."""
    started = script(workdir / "undone", UNDONE)
    started.start()
    message = restorer.fails("checkpoint", started.pid, "image")
    assert "used System V semaphores with SEM_UNDO" in message
    started.go()
    assert started.result() == "removed\n"
    assert started.reap() == 0
