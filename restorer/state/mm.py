# SPDX-License-Identifier: Apache-2.0
"""What the kernel keeps of an address space beside its mappings: brk, arguments, auxv, executable."""

from __future__ import annotations

import struct
from dataclasses import astuple

from restorer import wire
from restorer.errors import Refused
from restorer.program import Image
from restorer.record import dataclass
from restorer.state import mapped_files
from restorer.state.mapped_files import MappedFile
from restorer.syscalls import NR
from restorer.tracee import Tracee

_PR_SET_MM = 35
_PR_SET_MM_MAP = 14
# struct prctl_mm_map: eleven addresses, the auxv's address and bytes, the executable's fd
_MM_MAP = struct.Struct("<11QQII")
_AUXV_AT, _EXE_FD_AT = 88, 100
_MIN_ADDR = 4096


@dataclass(frozen=True)
class Layout:
    """The addresses of struct prctl_mm_map, in its order."""

    start_code: int
    end_code: int
    start_data: int
    end_data: int
    start_brk: int
    brk: int
    start_stack: int
    arg_start: int
    arg_end: int
    env_start: int
    env_end: int


@dataclass(frozen=True)
class Mm:
    """`auxv` is what /proc/PID/auxv shows, `exe` the program's file."""

    layout: Layout
    auxv: bytes
    exe: MappedFile


def never_lazy(state: Mm) -> list[tuple[int, int]]:
    """(start, end) of arguments and environment.

    /proc/PID/cmdline and environ are empty where a page is missing: access_remote_vm does not wait for it.
    """
    layout = state.layout
    return [(layout.arg_start, layout.arg_end), (layout.env_start, layout.env_end)]


def capture(tracee: Tracee) -> Mm:
    """Reads it. Raises Refused for an executable that is gone, and for addresses the kernel would not take
    back.
    """
    stat = tracee.process.stat
    layout = Layout(
        stat.start_code,
        stat.end_code,
        stat.start_data,
        stat.end_data,
        stat.start_brk,
        tracee.syscall(NR.brk, 0),
        stat.start_stack,
        stat.arg_start,
        stat.arg_end,
        stat.env_start,
        stat.env_end,
    )
    if not all(_MIN_ADDR <= addr < wire.TASK_SIZE for addr in astuple(layout)):
        raise Refused("the process has moved its arguments, data or code to where the kernel takes none")
    return Mm(layout, tracee.process.read("auxv"), _capture_exe(tracee))


def _capture_exe(tracee: Tracee) -> MappedFile:
    path = tracee.process.exe()
    if path.endswith(" (deleted)"):
        return mapped_files.capture_deleted(path, f"{tracee.process.folder}/exe")
    return mapped_files.capture(path, tracee.process.stat_of("exe"), writable=False)


def emit(state: Mm, image: Image) -> None:
    """PR_SET_MM_MAP; the old executable must not be mapped any more (prctl_set_mm_exe_file)."""
    exe_fd = mapped_files.emit_open(state.exe, image)
    table = image.data(_MM_MAP.pack(*astuple(state.layout), 0, len(state.auxv), 0))
    with image.about(f"the program {state.exe.path} and its arguments", "run it with CAP_CHECKPOINT_RESTORE"):
        image.main.store(table + _AUXV_AT, image.data(state.auxv))
        image.main.store(table + _EXE_FD_AT, exe_fd, 4)
        image.main.syscall(NR.prctl, _PR_SET_MM, _PR_SET_MM_MAP, table, _MM_MAP.size, 0)
