# SPDX-License-Identifier: Apache-2.0
"""What state modules decide without a kernel: formats, flags, and the ops they emit."""

from __future__ import annotations

import errno
import os
import socket
import struct
from dataclasses import replace

import pytest

from restorer import wire
from restorer.ops import Op
from restorer.program import Image, Program, ok_or
from restorer.state import credentials, epolls, inet, itimers, multicast, pipes, rlimits, scheduling, session
from restorer.state.credentials import Credentials
from restorer.state.itimers import Itimer, Itimers
from restorer.state.opening import Opener
from restorer.state.scheduling import Scheduling
from restorer.state.session import Session
from restorer.syscalls import NR

EPOLL_LINES = (
    "pos:\t0",
    "tfd:        5 events: 80000019 data:                5  pos:0 ino:40e sdev:10",
    "tfd:       17 events: 40000000 data: ffffffffdeadbeef  pos:0 ino:40e sdev:10",
)
ROOT = Credentials(
    uids=(0, 0, 0, 0),
    gids=(0, 0, 0, 0),
    groups=(),
    inheritable=0,
    permitted=0x1FFFFFFFFFF,
    effective=0x1FFFFFFFFFF,
    bounding=0x1FFFFFFFFFF,
    ambient=0,
    securebits=0,
    no_new_privs=False,
    capabilities=41,
)
PLAIN = Scheduling(0, 0, 5, 0, 0, 0, 0, 0, 1024, None, 0, 50000)


def calls(program: Program, number: int) -> list[Op]:
    return [op for op in program.ops if op.kind == wire.OpKind.SYSCALL and op.nr == number]


def test_epoll_entries_are_read_from_fdinfo() -> None:
    first, second = epolls.parse(EPOLL_LINES)
    assert (first.fd, first.events, first.data) == (5, 0x80000019, 5)
    assert (second.fd, second.events, second.data) == (17, 0x40000000, 0xFFFFFFFFDEADBEEF)


def test_epoll_entry_of_stdio_may_be_something_that_cannot_be_watched() -> None:
    image = Image()
    epolls.emit_entries(epolls.Epoll(epolls.parse(EPOLL_LINES), 0), 9, image, frozenset({5}))
    stdio, other = calls(image.main, NR.epoll_ctl)
    assert stdio.args[:3] == (9, 1, 5)
    assert stdio.expect == ok_or(errno.EPERM)
    assert other.expect != stdio.expect


@pytest.mark.parametrize(
    ("text", "numbers"), [("0-3,8\n", [0, 1, 2, 3, 8]), ("0\n", [0]), ("\n", []), ("5,7-8", [5, 7, 8])]
)
def test_cpu_lists(text: str, numbers: list[int]) -> None:
    assert scheduling.parse_cpus(text) == numbers


def test_cpu_masks() -> None:
    assert scheduling.cpu_mask((0, 9))[:3] == b"\x01\x02\x00"
    assert set(scheduling.cpu_mask(None)) == {0xFF}


def test_clamps_are_set_only_where_there_are_some() -> None:
    assert struct.unpack_from("<Q", scheduling.pack(PLAIN), 8) == (0,)
    assert struct.unpack_from("<Q", scheduling.pack(replace(PLAIN, util_min=10)), 8) == (0x60,)


def test_sockaddrs() -> None:
    assert inet.pack(socket.AF_INET, ("127.0.0.1", 8080, 0)) == (
        b"\x02\x00\x1f\x90\x7f\x00\x00\x01" + bytes(8)
    )
    packed = inet.pack(socket.AF_INET6, ("fe80::1", 80, 3))
    assert len(packed) == 28
    assert struct.unpack_from("=I", packed, 24) == (3,)


def test_a_listening_port_may_be_published() -> None:
    image = Image()
    state = inet.InetSocket(2, 1, 6, "listening", ("0.0.0.0", 80, 0), None, 128, 0, (), os.O_RDWR)
    inet.emit(state, image, Opener(image), "fd 3")
    assert [protocol for _, protocol in image._ports] == [socket.IPPROTO_TCP]
    assert calls(image.shared, NR.listen)[0].args[1] == 128
    set_options = [op.args[2] for op in calls(image.shared, NR.setsockopt)]
    assert set_options == [2, 2], "SO_REUSEADDR for the bind, and back again"


def test_multicast_groups_are_read_from_proc() -> None:
    lines = [
        "Idx\tDevice    : Count Querier\tGroup    Users Timer\tReporter",
        "4\teth0      :     1      V3",
        "\t\t\t\t010000E0     1 0:00000000\t\t0",
    ]
    (group,) = multicast.parse_igmp(lines)
    assert (group.interface, socket.inet_ntoa(group.address)) == (4, "224.0.0.1")
    (six,) = multicast.parse_igmp6(["1    lo              ff020000000000000000000000000001     1 0000000C 0"])
    assert (six.interface, socket.inet_ntop(socket.AF_INET6, six.address)) == (1, "ff02::1")


def test_a_periodic_timer_whose_signal_is_pending_goes_on() -> None:
    assert itimers._decode(0, struct.pack("<4q", 1, 500000, 0, 0)).value_us == 1_500_000
    image = Image()
    itimers.emit_late(Itimers((Itimer(2, 0, 3_000_001),)), image)
    (op,) = calls(image.main, NR.setitimer)
    assert op.args[0] == 2


def test_no_capability_is_dropped_that_the_process_may_have() -> None:
    image = Image()
    credentials.emit(ROOT, image, 0)
    assert not [op for op in calls(image.main, NR.prctl) if op.args[0] == 24]
    credentials.emit(replace(ROOT, bounding=ROOT.bounding & ~(1 << 7), no_new_privs=True), image, 0)
    assert [op.args[1] for op in calls(image.main, NR.prctl) if op.args[0] == 24] == [7]
    assert image.main.ops[-1].args == (38, 1), "no_new_privs comes last"


def test_ids_change_before_capabilities() -> None:
    image = Image()
    credentials.emit(replace(ROOT, uids=(1, 2, 3, 4)), image, 0)
    numbers = [op.nr for op in image.main.ops]
    assert numbers.index(NR.setgroups) < numbers.index(NR.setresgid) < numbers.index(NR.setresuid)
    assert numbers.index(NR.setresuid) < numbers.index(NR.capset)


def test_only_leaders_get_a_session_or_a_group() -> None:
    for leader, group, number in ((True, True, NR.setsid), (False, True, NR.setpgid), (False, False, None)):
        image = Image()
        session.emit(Session(leader, group, 0), image)
        assert [op.nr for op in image.main.ops] == ([] if number is None else [number])


def test_a_limit_that_cannot_be_raised_names_the_way_out() -> None:
    image = Image()
    rlimits.emit(rlimits.Rlimits((rlimits.Rlimit(7, 1024, 4096),)), image)
    text, hint = image._objects[0]
    strings = bytes(image._strings)
    assert strings[text.offset :].startswith(b"resource limit 'Max open files'\0")
    assert b"at least 4096" in strings[hint.offset :].split(b"\0")[0]


def test_the_closed_end_of_a_pipe_is_closed_again() -> None:
    image = Image()
    opener = Opener(image)
    pipe = pipes.Pipe(1, "", 65536, (b"rest",), False, True, False)
    opened = pipes.emit(pipe, image, opener)
    closed_before = len(calls(image.shared, NR.close))
    pipes.finish(pipe, opened, opener)
    closes = calls(image.shared, NR.close)
    assert len(closes) == closed_before + 1
    assert closes[-1].args == (opened.write,)
