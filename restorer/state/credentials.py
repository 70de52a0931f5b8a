# SPDX-License-Identifier: Apache-2.0
"""Credentials: in Linux each thread has its own.

A task begins with those of the launcher and ends with those of the image. SECBIT_NO_SETUID_FIXUP keeps the
capabilities while ids change; CAP_SETPCAP is held on to until the securebits are final. See credentials(7),
capabilities(7).
"""

from __future__ import annotations

import struct

from restorer.program import ANY, Image, Program, exactly
from restorer.record import dataclass
from restorer.syscalls import NR
from restorer.tracee import Thread

_PR_CAPBSET_READ, _PR_CAPBSET_DROP = 23, 24
_PR_GET_SECUREBITS, _PR_SET_SECUREBITS = 27, 28
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_AMBIENT_RAISE, _AMBIENT_CLEAR_ALL = 2, 4
_SECBIT_NO_SETUID_FIXUP = 4
_CAPABILITY_VERSION_3 = 0x20080522
_SETPCAP = 1 << 8
_ID_MAX = 0xFFFFFFFF

_HINT = "restore as root, with at least the capabilities of the image"


@dataclass(frozen=True)
class Credentials:
    """Ids are (real, effective, saved, filesystem); capabilities are masks, bit N for capability N."""

    uids: tuple[int, int, int, int]
    gids: tuple[int, int, int, int]
    groups: tuple[int, ...]
    inheritable: int
    permitted: int
    effective: int
    bounding: int
    ambient: int
    securebits: int
    no_new_privs: bool
    capabilities: int


def capture(thread: Thread) -> Credentials:
    """From /proc/PID/task/TID/status; securebits by prctl. `capabilities` is how many the kernel knows."""
    status = thread.status
    uids, gids, masks = status.uids, status.gids, status.fields
    return Credentials(
        uids=(uids.real, uids.effective, uids.saved, uids.fs),
        gids=(gids.real, gids.effective, gids.saved, gids.fs),
        groups=tuple(status.groups),
        inheritable=int(masks["CapInh"], 16),
        permitted=int(masks["CapPrm"], 16),
        effective=int(masks["CapEff"], 16),
        bounding=int(masks["CapBnd"], 16),
        ambient=int(masks["CapAmb"], 16),
        securebits=thread.syscall(NR.prctl, _PR_GET_SECUREBITS),
        no_new_privs=status.no_new_privs,
        capabilities=_known_capabilities(),
    )


def _known_capabilities() -> int:
    with open("/proc/sys/kernel/cap_last_cap", encoding="ascii") as file:
        return int(file.read()) + 1


def emit(state: Credentials, image: Image, index: int) -> None:
    """Takes thread `index` from the launcher's credentials to its own, for good."""
    program = image.threads[index]
    with image.about(f"credentials of thread {index}", _HINT):
        program.syscall(NR.prctl, _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
        _emit_ids(state, image, program)
        _emit_bounding_check(state, program)
        program.syscall(NR.prctl, _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
        held = state.permitted | _SETPCAP
        _emit_capset(image, program, (held, held, state.inheritable))
        for capability in _bits(~state.bounding & ((1 << state.capabilities) - 1)):
            program.syscall(NR.prctl, _PR_CAPBSET_DROP, capability)
        for capability in _bits(state.ambient):
            program.syscall(NR.prctl, _PR_CAP_AMBIENT, _AMBIENT_RAISE, capability)
        program.syscall(NR.prctl, _PR_SET_SECUREBITS, state.securebits)
        _emit_capset(image, program, (state.effective, state.permitted, state.inheritable))
        if state.no_new_privs:
            program.syscall(NR.prctl, _PR_SET_NO_NEW_PRIVS, 1)


def emit_pager(state: Credentials, image: Image) -> None:
    """The pager gets the ids of the process, no capability, and no way to any."""
    program = image.pager
    with image.about("credentials of the pager", _HINT):
        program.syscall(NR.prctl, _PR_SET_SECUREBITS, _SECBIT_NO_SETUID_FIXUP)
        _emit_ids(state, image, program)
        program.syscall(NR.prctl, _PR_CAP_AMBIENT, _AMBIENT_CLEAR_ALL)
        _emit_capset(image, program, (0, 0, 0))
        program.syscall(NR.prctl, _PR_SET_NO_NEW_PRIVS, 1)


def _emit_ids(state: Credentials, image: Image, program: Program) -> None:
    groups = image.data(struct.pack(f"<{len(state.groups)}I", *state.groups), align=4)
    program.syscall(NR.setgroups, len(state.groups), groups)
    program.syscall(NR.setresgid, *state.gids[:3])
    program.syscall(NR.setresuid, *state.uids[:3])
    # setfsuid(2) never fails: it returns the former id, and a second call shows what has become of the first.
    for number, wanted in ((NR.setfsgid, state.gids[3]), (NR.setfsuid, state.uids[3])):
        program.syscall(number, wanted, expect=ANY)
        program.syscall(number, _ID_MAX, expect=exactly(wanted))


def _emit_bounding_check(state: Credentials, program: Program) -> None:
    for capability in _bits(state.bounding):
        program.syscall(NR.prctl, _PR_CAPBSET_READ, capability, expect=exactly(1))


def _emit_capset(image: Image, program: Program, masks: tuple[int, int, int]) -> None:
    header = image.data(struct.pack("<Ii", _CAPABILITY_VERSION_3, 0))
    low = [mask & 0xFFFFFFFF for mask in masks]
    high = [mask >> 32 for mask in masks]
    program.syscall(NR.capset, header, image.data(struct.pack("<6I", *low, *high)))


def _bits(mask: int) -> list[int]:
    return [bit for bit in range(mask.bit_length()) if mask >> bit & 1]
