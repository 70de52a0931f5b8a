# SPDX-License-Identifier: Apache-2.0
"""Programs in words; and damaged blobs, which never end in anything but StoreDamaged."""

from __future__ import annotations

import errno
import random

import pytest

from restorer.errors import StoreDamaged
from restorer.plan import Decoder, plan_lines
from restorer.program import CTL, SLOT, Header, Image, ProcessEntry, exactly, ok_or
from restorer.syscalls import NR


def build() -> bytes:
    image = Image(name="main 123")
    with image.about("fd 5: /srv/app.log", "put it back"):
        fd = image.shared.call(NR.openat, -100, image.string("/srv/app.log"), 0x402, 0)
        image.shared.check_eq(fd, 5, file_check=True)
    image.main.syscall(SLOT.uffd_nr, SLOT.uffd_arg0, expect=ok_or(errno.EPERM))
    image.main.syscall(NR.munmap, 0, SLOT.region)
    image.main.syscall(NR.close_range, 64, SLOT.channel + -1, expect=exactly(0))
    image.main.syscall(9999, 1)
    image.main.add(CTL.ready)
    image.main.spawn(image.data(bytes(88)), 88, image.pager)
    entry = ProcessEntry(1, 2, 0, 0, 0, 0, (), ((1 << 30, 4096),))
    return image.seal(Header(1, 3, 576, (entry,), (1,), b"{}"))


def test_lines_read_like_strace() -> None:
    lines = list(plan_lines(build()))
    assert lines[0] == "program 0 'shared', 2 ops:"
    assert lines[1] == ('    openat(AT_FDCWD, "/srv/app.log", 0x402, 0) = $34   # fd 5: /srv/app.log')
    assert lines[2] == "    check_eq($34, 5) unless --force-files"
    assert lines[3] == "program 1 'main 123', 6 ops:"
    assert lines[4] == "    syscall[$uffd_nr]($uffd_arg0) or -1"
    assert lines[5] == "    munmap(0, $region)"
    assert lines[6] == "    close_range(64, $channel-1, 0) must be 0"
    assert lines[7] == "    syscall_9999(1)"
    assert lines[8] == "    add(ctl.ready, 1)"
    assert lines[9].startswith("    spawn(image+0x")


def test_hints_are_decoded() -> None:
    program = next(Decoder(build()).programs())
    assert (program.ops[0].about, program.ops[0].hint) == ("fd 5: /srv/app.log", "put it back")


@pytest.mark.parametrize("length", [0, 1, 8, 231, 232, 300, 500, 900])
def test_truncated(length: int) -> None:
    with pytest.raises(StoreDamaged):
        list(plan_lines(build()[:length]))


def test_flipped_bytes_end_in_lines_or_in_an_error() -> None:
    blob = build()
    chance = random.Random(1)
    for at in range(len(blob)):
        flipped = bytearray(blob)
        flipped[at] ^= 1 << chance.randrange(8)
        try:
            list(plan_lines(bytes(flipped)))
        except StoreDamaged as error:
            assert "\n" not in str(error)
