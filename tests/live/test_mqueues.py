# SPDX-License-Identifier: Apache-2.0
"""POSIX message queues: set to what they were, and in the way of a restore."""

from __future__ import annotations

import ctypes
import os

from tests.live.harness import Program, Restorer, ipc_exists, ipc_objects, mqueue_name, remove_ipc

PROGRAM = "mqueues"  # its named queues are still there once it is in the store
_libc = ctypes.CDLL(None, use_errno=True)


def test_found_as_it_was_not(restorer: Restorer, stored: Program) -> None:
    for _, number in ipc_objects(stored.workdir):
        queue = _libc.mq_open(mqueue_name(number), os.O_WRONLY | os.O_CLOEXEC)
        assert _libc.mq_send(queue, b"of another", 10, 9) == 0
        os.close(queue)
    restored = restorer.restore("image")
    stored.go()
    assert stored.result(restored) == "ok\n"


def test_name_is_taken(restorer: Restorer, stored: Program) -> None:
    """What the failed restore has made is gone again, and what was there is not touched."""
    (_, first), (_, second) = ipc_objects(stored.workdir)
    remove_ipc(stored.workdir)
    flags = os.O_CREAT | os.O_RDWR | os.O_CLOEXEC
    os.close(_libc.mq_open(mqueue_name(second), flags, 0o600, (ctypes.c_long * 8)(0, 2, 50)))
    message = restorer.fails("restore", "image", "-d", code=125)
    assert f"message queue restorer-test-{second}" in message
    assert not ipc_exists("mq", first) and ipc_exists("mq", second)
