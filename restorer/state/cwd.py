# SPDX-License-Identifier: Apache-2.0
"""The working directory and the root directory."""

from __future__ import annotations

import os

from restorer.errors import Refused
from restorer.procfs import Process
from restorer.program import Program
from restorer.record import dataclass
from restorer.syscalls import NR


@dataclass(frozen=True)
class Cwd:
    """Both as paths seen from outside, so that a process in a chroot has a prefix in them."""

    path: str
    root: str


def capture(process: Process) -> Cwd:
    """Reads both, of a process or one of its threads. Raises Refused when a path does not lead to the
    directory any more.
    """
    return Cwd(_checked(process, "cwd", "working directory"), _checked(process, "root", "root directory"))


def _checked(process: Process, link: str, what: str) -> str:
    path = process.link(link)
    try:
        same = os.path.samestat(os.stat(path), process.stat_of(link))
    except OSError:
        same = False
    if not same:
        name = path.removesuffix(" (deleted)")
        raise Refused(
            f"{what} {name} has been deleted, replaced or hidden by a mount", "change to another first"
        )
    return path


def emit(state: Cwd, program: Program) -> None:
    """chdir first: chroot leaves the working directory alone, even one outside of the new root."""
    image = program.image
    with image.about(f"working directory {state.path}", "make it again"):
        program.syscall(NR.chdir, image.string(state.path))
    if state.root != "/":
        with image.about(f"root directory {state.root}", "make it again"):
            program.syscall(NR.chroot, image.string(state.root))
