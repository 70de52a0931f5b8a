# SPDX-License-Identifier: Apache-2.0
"""Once loaded, /proc shows a restored process as it showed the original: no map, fd, thread or child more."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, children

NAMES = [
    "anon",
    "arguments",
    "brk",
    "file_private",
    "file_shared",
    "growsdown",
    "madvise",
    "mlock",
    "sigmask",
    "threads",
    "restart_epoll",
    "verify",
]
FIELDS = (
    "Name",
    "Umask",
    "Uid",
    "Gid",
    "Groups",
    "VmLck",
    "VmData",
    "VmStk",
    "VmExe",
    "VmLib",
    "Threads",
    "SigPnd",
    "ShdPnd",
    "SigBlk",
    "SigIgn",
    "SigCgt",
    "CapInh",
    "CapPrm",
    "CapEff",
    "CapBnd",
    "CapAmb",
    "NoNewPrivs",
    "Seccomp",
    "Cpus_allowed",
    "THP_enabled",
    "TracerPid",
)


def seen(pid: int) -> dict[str, object]:
    """What /proc says, without what changes by itself. Tasks by name: their order is that of their tids."""
    proc = Path(f"/proc/{pid}")
    status = dict(line.split(":", 1) for line in (proc / "status").read_text().splitlines())
    return {
        "maps": (proc / "maps").read_text().splitlines(),
        "flags": vm_flags(proc),
        "fds": {fd.name: link(fd) for fd in sorted((proc / "fd").iterdir())},
        "children": children(pid),
        "tasks": [
            (task / "comm").read_text()
            for task in sorted((proc / "task").iterdir(), key=lambda t: int(t.name))
        ],
        "status": {field: status.get(field) for field in FIELDS},
        **{
            name: (proc / name).read_bytes() for name in ("cmdline", "environ", "auxv", "comm", "personality")
        },
        **{name: os.readlink(proc / name) for name in ("exe", "cwd", "root")},
    }


def vm_flags(proc: Path) -> list[str]:
    """VmFlags of every mapping, but for two that the program cannot see.

    sd (soft-dirty): every new mapping has it. ac (accounted): what was writable once has it, what is mapped
    read-only from the start gets it when it is made writable (mprotect_fixup).
    """
    area, found = "", []
    for line in (proc / "smaps").read_text().splitlines():
        first, _, rest = line.partition(" ")
        if first == "VmFlags:":
            found.append(f"{area}: {rest.replace(' sd', '').replace(' ac', '').strip()}")
        elif not first.endswith(":"):
            area = line
    return found


def link(fd: Path) -> str:
    """Where a descriptor leads; pipes and sockets have new numbers."""
    target = os.readlink(fd)
    return target.partition(":")[0] if target.startswith(("pipe:", "socket:")) else target


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("mode", ["same", "ns"])
def test_looks_like_the_original(
    restorer: Restorer, program: Callable[[str], Program], name: str, mode: str
) -> None:
    started = program(name)
    before = seen(started.pid)
    tids = sorted(os.listdir(f"/proc/{started.pid}/task"))
    restorer.checkpoint(started.pid)
    started.reap()
    restored = restorer.restore("image", "--pid", mode)
    restored.wait_loaded()
    after = seen(restored.pid)
    for what in before:
        assert after[what] == before[what], what
    if mode == "same":
        assert sorted(os.listdir(f"/proc/{restored.pid}/task")) == tids
    started.go()
    assert started.result(restored) == "ok\n"


@pytest.mark.parametrize("mode", ["same", "ns"])
def test_ps_sees_it_at_once(restorer: Restorer, program: Callable[[str], Program], mode: str) -> None:
    """The kernel does not wait for userfaultfd when it reads cmdline and environ: these are never lazy."""
    started = program("verify")
    proc = Path(f"/proc/{started.pid}")
    before = [(proc / name).read_bytes() for name in ("cmdline", "environ")]
    restorer.checkpoint(started.pid)
    started.reap()
    restored = restorer.restore("image", "--fill", "none", "--pid", mode)
    proc = Path(f"/proc/{restored.pid}")
    assert [(proc / name).read_bytes() for name in ("cmdline", "environ")] == before
