# SPDX-License-Identifier: Apache-2.0
"""Counters and the last faults of a restore that goes on, read from its launcher's shared memory.

The launcher and the pager write there whether somebody reads or not; reading disturbs neither.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from struct import Struct

from restorer.errors import PrivilegeError, ProcessError
from restorer.record import dataclass

__all__ = ["COUNTERS", "PHASES", "Fault", "Telemetry", "find"]

COUNTERS = (
    "faults",
    "fault_pages",
    "fill_pages",
    "eager_pages",
    "moved_pages",
    "copied_pages",
    "zero_pages",
    "written_pages",
    "poisoned_pages",
    "dropped_pages",
    "decoded_chunks",
    "read_bytes",
    "events",
    "retries",
    "total_pages",
    "hot_pages",
    "hot_blocks",
    "huge_pages",
    "huge_dear",
)
PHASES = ("queue", "lookup", "read", "decode", "install")
PATHS = ("nothing", "move", "copy", "zero", "poison", "hot")
COUNTERS_OFFSET = 56
TRACE_OFFSET = 4096
TRACE = Struct("<8sIiQQ2Q2QQQ208s")
FAULT = Struct("<QQIII5I2I")
RING = 1024
NO_RECORD = 0xFFFFFFFF
_MAGIC = b"RSTRTRC\0"
_VERSION = 2
_LAUNCHER = "restorer-launch"
_MEMFD = "/memfd:restorer (deleted)"
_U64 = Struct("<Q")


@dataclass(frozen=True)
class Fault:
    """When its message was read (CLOCK_MONOTONIC), thread, address, chunk (index of its record; None for a
    page that the image does not have), how it was answered, and how long each phase took.
    """

    time_ns: int
    tid: int
    addr: int
    chunk: int | None
    path: str
    phases_ns: dict[str, int]

    @property
    def total_ns(self) -> int:
        return sum(self.phases_ns.values())


@dataclass(frozen=True)
class Telemetry:
    """A moment of a restore. `faults`: the last ones, in order; `used_chunks`: needed by faults so far."""

    name: str
    image_id: int
    pid: int
    launcher: int
    loaded: bool
    counters: dict[str, int]
    used_chunks: int
    faults: tuple[Fault, ...]


def find(target: str) -> Telemetry:
    """The restore of the process with this PID, or of the image with this name.

    Raises ProcessError where there is none, or several of the name; PrivilegeError.
    """
    # By PID: until its loader has closed what it inherited, a process looks like its launcher.
    found: dict[int, Telemetry] = {}
    forbidden = False
    for launcher in _launchers():
        try:
            telemetry = _read(launcher)
        except PermissionError:
            forbidden = True
            continue
        if telemetry and (telemetry.name == target or str(telemetry.pid) == target):
            found[telemetry.pid] = telemetry
    if len(found) > 1:
        pids = ", ".join(map(str, found))
        raise ProcessError(f"image {target!r} is being restored as processes {pids}", "name one of them")
    if found:
        return next(iter(found.values()))
    if forbidden:
        raise PrivilegeError("the launchers of this machine belong to another user", "run as root")
    raise ProcessError(
        f"nothing that is being restored is {target!r}",
        "with -d the launcher leaves once all memory is loaded; --stats FILE keeps the counters",
    )


def _launchers() -> Iterator[int]:
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        with suppress(OSError):
            if (folder / "comm").read_text().rstrip("\n") == _LAUNCHER[:15]:
                yield int(folder.name)


def _read(launcher: int) -> Telemetry | None:
    """None where the process has gone, or has no such memory (the one that waits in front of -d)."""
    try:
        for link in Path(f"/proc/{launcher}/fd").iterdir():
            if os.readlink(link) == _MEMFD:
                return _parse(launcher, link.read_bytes())
    except (FileNotFoundError, ProcessLookupError):
        pass
    return None


def _parse(launcher: int, raw: bytes) -> Telemetry | None:
    if len(raw) < TRACE_OFFSET + TRACE.size + RING * FAULT.size:
        return None
    magic, version, pid, image_id, _, tsc0, tsc1, ns0, ns1, count, used, name = TRACE.unpack_from(
        raw, TRACE_OFFSET
    )
    if (magic, version) != (_MAGIC, _VERSION):
        return None
    values = Struct(f"<{len(COUNTERS)}Q").unpack_from(raw, COUNTERS_OFFSET)
    clock = _Clock(tsc0, ns0, (ns1 - ns0) / (tsc1 - tsc0) if tsc1 > tsc0 else 0.0)
    return Telemetry(
        name=name.rstrip(b"\0").decode(errors="backslashreplace"),
        image_id=image_id,
        pid=pid,
        launcher=launcher,
        loaded=raw[24:28] != bytes(4),
        counters=dict(zip(COUNTERS, values, strict=True)),
        used_chunks=used,
        faults=tuple(_fault(raw, i, clock) for i in range(max(0, count - RING), count)),
    )


@dataclass(frozen=True)
class _Clock:
    """Cycles of the time stamp counter as nanoseconds of CLOCK_MONOTONIC."""

    tsc: int
    ns: int
    ns_per_cycle: float

    def moment_ns(self, tsc: int) -> int:
        return self.ns + round((tsc - self.tsc) * self.ns_per_cycle)

    def span_ns(self, cycles: int) -> int:
        return round(cycles * self.ns_per_cycle)


def _fault(raw: bytes, number: int, clock: _Clock) -> Fault:
    offset = TRACE_OFFSET + TRACE.size + number % RING * FAULT.size
    tsc, addr, tid, record, path, *rest = FAULT.unpack_from(raw, offset)
    return Fault(
        time_ns=clock.moment_ns(tsc),
        tid=tid,
        addr=addr,
        chunk=None if record == NO_RECORD else record,
        path=PATHS[path] if path < len(PATHS) else str(path),
        phases_ns={phase: clock.span_ns(rest[i]) for i, phase in enumerate(PHASES)},
    )
