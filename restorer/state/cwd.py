# SPDX-License-Identifier: Apache-2.0
"""The working directory and the root directory."""

from __future__ import annotations

import os
import secrets
import stat

from restorer.errors import Refused
from restorer.procfs import Process
from restorer.program import ANY, Program
from restorer.record import dataclass
from restorer.state.opening import AT_FDCWD
from restorer.syscalls import NR

_AT_REMOVEDIR = 0x200
_NAME_CHARACTERS = 40


@dataclass(frozen=True)
class Deleted:
    """What a directory was that has been deleted, and so is empty for ever: nothing can be made in it."""

    mode: int
    owner: tuple[int, int]


@dataclass(frozen=True)
class Cwd:
    """Both as paths seen from outside, so that a process in a chroot has a prefix in them. If the working
    directory is `deleted`, `path` is one that nothing has: it is made, and deleted at once.
    """

    path: str
    root: str
    deleted: Deleted | None = None


def capture(process: Process) -> Cwd:
    """Reads both, of a process or one of its threads. Raises Refused when a path does not lead to the
    directory any more.
    """
    root = _checked(process, "root", "root directory")
    status = process.stat_of("cwd")
    if status.st_nlink:
        return Cwd(_checked(process, "cwd", "working directory"), root)
    path = process.link("cwd").removesuffix(" (deleted)")
    folder = os.path.dirname(path)
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    if os.stat(folder).st_dev != status.st_dev:
        raise Refused(
            f"working directory {path} has been deleted, and so has all of its file system that was above it",
            "change to another first",
        )
    name = f".{os.path.basename(path)[:_NAME_CHARACTERS]}.restorer-{secrets.token_hex(8)}"
    deleted = Deleted(stat.S_IMODE(status.st_mode), (status.st_uid, status.st_gid))
    return Cwd(os.path.join(folder, name), root, deleted)


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
    if state.deleted is not None:
        _emit_deleted(state.path, state.deleted, program)
    else:
        with image.about(f"working directory {state.path}", "make it again"):
            program.syscall(NR.chdir, image.string(state.path))
    if state.root != "/":
        with image.about(f"root directory {state.root}", "make it again"):
            program.syscall(NR.chroot, image.string(state.root))


def _emit_deleted(path: str, deleted: Deleted, program: Program) -> None:
    image = program.image
    where, here = image.string(path), image.string(".")
    with image.about(f"working directory {path}, which had been deleted"):
        image.undo.syscall(NR.unlinkat, AT_FDCWD, where, _AT_REMOVEDIR, expect=ANY)
        program.syscall(NR.mkdirat, AT_FDCWD, where, 0o700)
        program.syscall(NR.chdir, where)
        program.syscall(NR.chown, here, *deleted.owner)
        program.syscall(NR.chmod, here, deleted.mode)
        program.syscall(NR.unlinkat, AT_FDCWD, where, _AT_REMOVEDIR)
