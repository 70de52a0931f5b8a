# SPDX-License-Identifier: Apache-2.0
"""A restore that fails, at any op of any of its programs or for want of anything, leaves nothing of it.

Some ops are tried; RESTORER_FAULTS=all tries each, RESTORER_FAULTS=3/40 the third of forty parts.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zstandard

from restorer import firewall, wire
from restorer.store import open_store
from restorer.store_format import REF, frame_check
from restorer.wire import ArgKind, OpKind
from tests.live.harness import (
    CHECKPOINT_OPTIONS,
    HugePages,
    Program,
    Restorer,
    descendants,
    every_fault,
    kill_all_but,
)

SAMPLES = 12
# With what it needs of the machine for itself.
PROGRAMS = {
    "fds": "",
    "hugetlb": "hugetlb",
    "packet": "links",
    "pty": "",
    "shm_files": "",
    "sysvipc": "sysv",
    "sysvshm": "sysv",
    "tcp_inside": "firewall",
    "threads": "",
    "tree": "",
    "tree_tables": "",
    "unix_chroot": "",
    "unix_renamed": "",
    "unix_sockets": "",
    "unlinked": "",
}
_IPC = [Path(f"/proc/sysvipc/{kind}") for kind in ("shm", "sem", "msg")]
# What a program for the loader compares by: 0 with 1.
_NEVER = (OpKind.CHECK_EQ, 0, 0, wire.NO_SLOT, wire.NO_OBJECT, 0, 0, 0)
_ARGS = (0, ArgKind.IMM, 0, 0, 1, ArgKind.IMM, 0, 0, *(0,) * 4 * (wire.ARGS - 2))


def ops(blob: bytes) -> Iterator[tuple[str, int]]:
    """The program and the offset of each op that may fail, but for those that undo. Stores cannot: they write
    to the image's own memory; what they note for the undoing has been done by then.
    """
    header = wire.read_header(blob)
    for index in range(header.programs_count):
        if index != header.undo_program:
            record = header.programs_offset + index * wire.PROGRAM.size
            start, count, name, _ = wire.PROGRAM.unpack_from(blob, record)
            end = blob.index(b"\0", name)
            for number in range(count):
                at = start + number * wire.OP.size
                if wire.OP.unpack_from(blob, at)[0] != wire.OpKind.STORE:
                    yield f"op {number} of {blob[name:end].decode()}", at


def put(store: Path, name: str, blob: bytes) -> None:
    """Replaces the sealed image."""
    key = wire.read_header(blob).image_id
    frame = zstandard.ZstdCompressor(write_checksum=True, write_content_size=True).compress(blob)
    with open_store(store) as opened, opened.changing() as txn:
        images, refs = (opened.env.open_db(db, txn=txn, create=False) for db in (b"images", b"refs"))
        txn.put(struct.pack(">Q", key), frame, db=images)
        txn.put(name.encode(), REF.pack(key, frame_check(frame), 0), db=refs)
        txn.commit()


def seen(folder: Path, what: str = "") -> dict[str, object]:
    """All that a restore could leave; of what the whole machine shares, only `what` we have for ourselves."""
    return {
        "processes": set(descendants(os.getpid())),
        "mounts": Path("/proc/self/mountinfo").read_text(),
        "files": sorted(str(path) for path in folder.rglob("*") if not path.is_socket()),
        "sysv": [[line.split()[:3] for line in table.read_text().splitlines()] for table in _IPC]
        if what == "sysv"
        else [],
        "firewall": sorted(firewall.tables()) if what == "firewall" else [],
        "huge pages": HugePages().used if what == "hugetlb" else 0,
    }


def socket_files(folder: Path) -> set[Path]:
    """Those that the former process has left are of no use: a restore takes them away before it binds."""
    return {path for path in folder.rglob("*") if path.is_socket()}


def fails_without_trace(restorer: Restorer, taken: Program, what: str, *arguments: str) -> bool:
    """Whether it failed; what succeeded is ended."""
    folder, ours = taken.workdir.parent, PROGRAMS[taken.name]
    before, sockets = seen(folder, ours), socket_files(folder)
    done = restorer.run("restore", "image", "-d", *arguments)
    if done.returncode == 0:
        kill_all_but(before["processes"])  # type: ignore[arg-type]
        return False
    assert done.returncode == 125 and done.stderr.count("\n") == 1, f"{what}: {done.stderr}"
    assert seen(folder, ours) == before, f"{what}: {done.stderr}"
    assert socket_files(folder) <= sockets, f"{what}: {done.stderr}"
    return True


@pytest.fixture
def taken(restorer: Restorer, program: Callable[[str], Program], request: pytest.FixtureRequest) -> Program:
    """A program in the store as `image`, and gone."""
    started = program(request.param)
    restorer.checkpoint(started.pid, "image", *CHECKPOINT_OPTIONS.get(request.param, ()))
    started.reap()
    return started


@pytest.mark.slow
@pytest.mark.parametrize(
    "taken",
    [pytest.param(name, marks=pytest.mark.alone(what) if what else ()) for name, what in PROGRAMS.items()],
    indirect=True,
)
@pytest.mark.parametrize("mode", ["same", "ns"])
def test_at_any_op(restorer: Restorer, taken: Program, mode: str) -> None:
    with open_store(restorer.store) as store:
        blob = store.load("image")
    everything = list(ops(blob))
    stride, failed = len(everything) // SAMPLES, 0
    first, stride = every_fault() or (stride // 2 + 1, stride)
    for what, at in everything[first - 1 :: stride]:
        broken = bytearray(blob)
        wire.OP.pack_into(broken, at, *_NEVER, *_ARGS)
        put(restorer.store, "image", bytes(broken))
        failed += fails_without_trace(restorer, taken, what, "--pid", mode)
    assert failed > SAMPLES / 2
    put(restorer.store, "image", blob)
    restored = restorer.restore("image", "--pid", mode)
    taken.go()
    assert taken.result(restored) == "ok\n"


LIMITS = {
    "files": [f"--nofile={n}:{n}" for n in (3, 8, 16, 40, 64, 70)],
    "memory": [f"--as={n << 20}" for n in (1, 4, 16, 64, 256, 1024)],
    "locked": ["--memlock=0"],
}


@pytest.mark.parametrize("taken", ["tree", "unlinked"], indirect=True)
@pytest.mark.parametrize("limit", LIMITS)
def test_for_want_of(restorer: Restorer, taken: Program, workdir: Path, limit: str) -> None:
    """Under limits of the launcher; whether it works is not said, but it does or leaves nothing."""
    for option in LIMITS[limit]:
        before = seen(workdir)
        done = restorer.run("restore", "image", "-d", prefix=("prlimit", option))
        if done.returncode == 0:
            kill_all_but(before["processes"])  # type: ignore[arg-type]
            continue
        assert done.stderr.strip(), option
        assert seen(workdir) == before, f"{option}: {done.stderr}"
    restored = restorer.restore("image")
    taken.go()
    assert taken.result(restored) == "ok\n"
