# SPDX-License-Identifier: Apache-2.0
"""Pipes whose ends are all the target's own, with what is in them; FIFOs likewise."""

from __future__ import annotations

import array
import ctypes
import fcntl
import os
import termios
from collections.abc import Mapping

from restorer.errors import Refused
from restorer.program import Image, Slot, exactly
from restorer.record import dataclass
from restorer.state.descriptors import Descriptor, Source, copied
from restorer.state.opening import AT_FDCWD, Opener
from restorer.syscalls import NR

_SPLICE_F_NONBLOCK = 2


@dataclass(frozen=True)
class Pipe:
    """One pipe. `packets` is its content, oldest first; more than one only in packet mode (O_DIRECT)."""

    inode: int
    path: str
    capacity_bytes: int
    packets: tuple[bytes, ...]
    packet_mode: bool
    has_reader: bool
    has_writer: bool


@dataclass(frozen=True)
class PipeEnd:
    """A description of a pipe: `pipe` is its index in the table, `flags` those of the end (fcntl F_GETFL)."""

    pipe: int
    write: bool
    flags: int
    kind: str = "pipe"


def capture(tracees: Mapping[int, Source], ends: list[Descriptor]) -> Pipe:
    """Describes the pipe whose descriptions in the `tracees` (by pid) are `ends`, one descriptor each.

    Raises Refused when an end was opened again through /proc, or when what is in it cannot be read.
    """
    first = ends[0]
    readers = [end for end in ends if end.access != os.O_WRONLY]
    writers = [end for end in ends if end.access != os.O_RDONLY]
    if first.is_anonymous and (len(readers) > 1 or len(writers) > 1 or first.access == os.O_RDWR):
        raise ends[-1].refused("a pipe that was opened anew through /proc cannot be checkpointed")
    end = (readers or writers)[0]
    with copied(tracees[end.pid], end.number) as copy:
        capacity_bytes = fcntl.fcntl(copy, fcntl.F_GETPIPE_SZ)
        packets = _peek(copy, capacity_bytes, first) if readers else ()
    packet_mode = any(end.flags & os.O_DIRECT for end in writers) or len(packets) > 1
    return Pipe(
        inode=first.stat.st_ino,
        path="" if first.is_anonymous else first.link,
        capacity_bytes=capacity_bytes,
        packets=packets if packet_mode else (b"".join(packets),) if packets else (),
        packet_mode=packet_mode,
        has_reader=bool(readers),
        has_writer=bool(writers),
    )


def _peek(copy: int, capacity_bytes: int, about: Descriptor) -> tuple[bytes, ...]:
    """The content, one item a packet; tee(2) duplicates the buffers and takes nothing out."""
    queued = array.array("i", [0])
    fcntl.ioctl(copy, termios.FIONREAD, queued)
    if not queued[0]:
        return ()
    read_end, write_end = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, capacity_bytes)
        _tee(copy, write_end, max(capacity_bytes, queued[0]))
        packets = _drain(read_end)
    finally:
        os.close(read_end)
        os.close(write_end)
    if sum(map(len, packets)) != queued[0]:
        raise about.refused(f"the pipe's {queued[0]} bytes could not be read without taking them out")
    return packets


def _tee(source: int, sink: int, size_bytes: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    libc.tee.restype = ctypes.c_ssize_t
    libc.tee.argtypes = (ctypes.c_int, ctypes.c_int, ctypes.c_size_t, ctypes.c_uint)
    if libc.tee(source, sink, size_bytes, _SPLICE_F_NONBLOCK) < 0:
        code = ctypes.get_errno()
        raise Refused(f"the content of a pipe cannot be read: tee: {os.strerror(code)}")


def _drain(fd: int) -> tuple[bytes, ...]:
    packets: list[bytes] = []
    while True:
        try:
            packet = os.read(fd, 1 << 20)
        except BlockingIOError:
            return tuple(packets)
        if not packet:
            return tuple(packets)
        packets.append(packet)


@dataclass
class Opened:
    """The ends of a pipe in the launcher; a FIFO has only `holder`, which reads and writes."""

    read: Slot | None = None
    write: Slot | None = None
    holder: Slot | None = None


def emit(pipe: Pipe, image: Image, opener: Opener) -> Opened:
    """Makes the pipe and fills it. `finish` must follow once its descriptions are emitted."""
    if pipe.path:
        return _emit_fifo(pipe, image, opener)
    read, write = opener.pipe(os.O_CLOEXEC | (os.O_DIRECT if pipe.packet_mode else 0))
    _fill(pipe, image, write)
    return Opened(read=read, write=write)


def _emit_fifo(pipe: Pipe, image: Image, opener: Opener) -> Opened:
    # A reader that never had a writer must not see a hang-up, so that a writer may only be there beforehand
    # if the image has one too (fifo_open: f_pipe remembers w_counter only when no writer is there).
    if not pipe.has_writer and not pipe.packets:
        return Opened()
    holder = opener.open(
        NR.openat, AT_FDCWD, image.string(pipe.path), os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC
    )
    _fill(pipe, image, holder)
    return Opened(holder=holder)


def _fill(pipe: Pipe, image: Image, write: Slot) -> None:
    image.shared.syscall(NR.fcntl, write, fcntl.F_SETPIPE_SZ, pipe.capacity_bytes)
    for packet in pipe.packets:
        image.shared.syscall(NR.write, write, image.data(packet), len(packet), expect=exactly(len(packet)))


def emit_end(end: PipeEnd, pipe: Pipe, opened: Opened, image: Image, opener: Opener) -> Slot:
    """The slot of one end, with its flags."""
    if pipe.path:
        flags = end.flags | os.O_NONBLOCK | os.O_CLOEXEC
        fd = opener.open(NR.openat, AT_FDCWD, image.string(pipe.path), flags)
    else:
        ready = opened.write if end.write else opened.read
        assert ready is not None
        fd = ready
    image.shared.syscall(NR.fcntl, fd, fcntl.F_SETFL, end.flags)
    return fd


def finish(pipe: Pipe, opened: Opened, opener: Opener) -> None:
    """Closes what the image has no description of: the end whose last fd the target had closed."""
    if opened.read is not None and not pipe.has_reader:
        opener.close(opened.read)
    if opened.write is not None and not pipe.has_writer:
        opener.close(opened.write)
    if opened.holder is not None:
        opener.close(opened.holder)
