# SPDX-License-Identifier: Apache-2.0
"""NUMA memory policies: of each thread (set_mempolicy) and of mappings (mbind).

Set before pages come: the kernel takes each page of the program from the nodes that its mapping asks for,
whoever brings it. The home node of a mapping (set_mempolicy_home_node) is shown nowhere.
"""

from __future__ import annotations

import errno
import struct
from collections.abc import Sequence

from restorer.errors import ProcessError
from restorer.model import Vma
from restorer.program import Image, Program, ok_or
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread, Tracee

_MPOL_DEFAULT, _MPOL_F_ADDR = 0, 2
# 1024 nodes at most (CONFIG_NODES_SHIFT); the kernel leaves the last bit of what it is told out (get_nodes).
_NODES = 1024
_MASK_BYTES, _MODE_BYTES = _NODES // 8, 8


@dataclass(frozen=True)
class Policy:
    """A mode with its flags, as get_mempolicy(2) gives it, and the mask of nodes."""

    mode: int
    nodes: bytes


DEFAULT = Policy(_MPOL_DEFAULT, b"")


def capture_thread(tracee: Tracee, thread: Thread) -> Policy:
    """Of the thread; the default on kernels without NUMA."""
    return _ask(tracee, thread, 0, 0)


def capture(tracee: Tracee, vmas: Sequence[Vma]) -> tuple[tuple[int, int, Policy], ...]:
    """(start, bytes, policy) of each mapping that has one of its own."""
    try:
        lines = tracee.process.text("numa_maps").splitlines()
    except (OSError, ProcessError):
        return ()
    # A mapping without a policy is listed with that of its thread (show_numa_map).
    words = (line.split()[:2] for line in lines)
    suspects = {int(start, 16) for start, policy in words if policy != "default"}
    asked = [vma for vma in vmas if vma.start in suspects]
    found = [(vma, _ask(tracee, tracee.leader, vma.start, _MPOL_F_ADDR)) for vma in asked]
    return tuple((vma.start, vma.length, policy) for vma, policy in found if policy != DEFAULT)


def _ask(tracee: Tracee, thread: Thread, addr: int, flags: int) -> Policy:
    mode, nodes = tracee.scratch, tracee.scratch + _MODE_BYTES
    tracee.write(mode, bytes(_MODE_BYTES + _MASK_BYTES))
    try:
        thread.syscall(NR.get_mempolicy, mode, nodes, _NODES, addr, flags)
    except OSError as error:
        if error.errno == errno.ENOSYS:
            return DEFAULT
        raise
    (number,) = struct.unpack("<i", tracee.read(mode, 4))
    if number == _MPOL_DEFAULT:
        return DEFAULT
    return Policy(number, tracee.read(nodes, _MASK_BYTES))


def emit(found: Sequence[tuple[int, int, Policy]], image: Image) -> None:
    """Of mappings that are there and empty."""
    for start, length, policy in found:
        with image.about(f"memory policy at {start:#x}", "is a NUMA node of it missing here?"):
            mask = image.data(policy.nodes)
            image.main.syscall(NR.mbind, start, length, policy.mode, mask, _NODES + 1, 0)


def emit_thread(policy: Policy, image: Image, index: int) -> None:
    """The default too: whoever restores may have another."""
    program: Program = image.threads[index]
    with image.about(f"memory policy of thread {index}", "is a NUMA node of it missing here?"):
        if policy == DEFAULT:
            program.syscall(NR.set_mempolicy, policy.mode, 0, 0, expect=ok_or(errno.ENOSYS))
        else:
            program.syscall(NR.set_mempolicy, policy.mode, image.data(policy.nodes), _NODES + 1)
