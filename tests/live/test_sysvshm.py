# SPDX-License-Identifier: Apache-2.0
"""System V shared memory that is there already, or in somebody's way, or that a failed restore has made."""

from __future__ import annotations

import ctypes
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.live.harness import Program, Restorer, descendants, ipc_exists, ipc_objects, kill_all

pytestmark = pytest.mark.alone("sysv")  # an ID is taken by who asks next
PROGRAM = "sysvshm"  # the segments that nobody has removed are still there once it is in the store
_libc = ctypes.CDLL(None, use_errno=True)
_libc.shmat.restype = ctypes.c_void_p
_libc.shmat.argtypes = (ctypes.c_int, ctypes.c_void_p, ctypes.c_int)
_libc.shmdt.argtypes = (ctypes.c_void_p,)


def ids(of: Program) -> tuple[int, int]:
    """Of the segments which the program leaves: one with a key, one without."""
    (_, found), (_, odd) = ipc_objects(of.workdir)
    return found, odd


def key(of: Program) -> int:
    return 0x52000000 | of.pid


def exist(number: int) -> bool:
    return ipc_exists("shm", number)


def remove(number: int) -> None:
    if exist(number):
        subprocess.run(["ipcrm", "-m", str(number)], check=True)


@contextmanager
def attached(number: int) -> Iterator[int]:
    """The address of a segment, here."""
    address = _libc.shmat(number, None, 0)
    try:
        yield address
    finally:
        _libc.shmdt(address)


def test_killed_and_again(restorer: Restorer, stored: Program) -> None:
    """What a copy that was killed has left there is not what the next one finds."""
    first = restorer.restore("image", "--fill", "before")
    first.wait_loaded()
    for number in ids(stored):
        with attached(number) as address:
            ctypes.memset(address, 0xEE, 56)
    kill_all([first.pid, *descendants(first.pid)])
    last = restorer.restore("image")
    stored.go()
    assert stored.result(last) == "ok\n"


def test_made_anew(restorer: Restorer, stored: Program) -> None:
    for number in ids(stored):
        remove(number)
    restored = restorer.restore("image")
    stored.go()
    assert stored.result(restored) == "ok\n"


def test_in_use(restorer: Restorer, stored: Program) -> None:
    found, _ = ids(stored)
    with attached(found):
        message = restorer.fails("restore", "image", "-d", code=125)
    assert f"System V shared memory {found}" in message and "ipcs -m" in message
    assert exist(found)


def test_key_is_taken(restorer: Restorer, stored: Program) -> None:
    """Nothing that the failed restore has made stays, and nothing of others goes."""
    found, odd = ids(stored)
    remove(found)
    remove(odd)
    other = _libc.shmget(key(stored), 4096, 0o1600)
    assert other not in (-1, found)
    try:
        message = restorer.fails("restore", "image", "-d", code=125)
        assert f"System V shared memory {found}" in message
        assert exist(other) and not exist(found) and not exist(odd)
    finally:
        remove(other)


@pytest.mark.parametrize("held", [0, 1])
def test_nothing_made_stays(restorer: Restorer, stored: Program, held: int) -> None:
    """Whichever of the two comes first."""
    number, other = ids(stored)[held], ids(stored)[1 - held]
    remove(other)
    with attached(number):
        message = restorer.fails("restore", "image", "-d", code=125)
    assert f"System V shared memory {number}" in message
    assert exist(number) and not exist(other)
