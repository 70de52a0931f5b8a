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
from restorer.errors import Refused
from restorer.ops import Op
from restorer.program import Image, Program, ok_or
from restorer.state import births, credentials, epolls, inet, itimers, multicast, pipes, rlimits, scheduling
from restorer.state.credentials import Credentials
from restorer.state.descent import Orphans
from restorer.state.itimers import Itimer, Itimers
from restorer.state.opening import Opener
from restorer.state.scheduling import Scheduling
from restorer.state.session import Session
from restorer.syscalls import NR
from restorer.wire import OpKind

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
    epolls.emit_entries(epolls.Epoll(epolls.parse(EPOLL_LINES), 0), 9, {}, image, frozenset({5}))
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
    assert [protocol for _, protocol in image.builder._ports] == [socket.IPPROTO_TCP]
    assert calls(image.shared, NR.listen)[0].args[1] == 128
    set_options = [op.args[2] for op in calls(image.shared, NR.setsockopt)]
    assert (set_options[0], set_options[-1]) == (2, 2), "SO_REUSEADDR for the bind, and back again"


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


def family(
    *sessions: tuple[int, int, int], parents: tuple[int, ...], lost: frozenset[int] = frozenset()
) -> births.Births:
    """A tree of (pid, session, group), `lost` the sessions without a leader; what capture works out of it."""
    states = [Session(pid, own, group, 0, 17) for pid, own, group in sessions]
    return births.arrange(states, parents, [()] * len(states), lost)


def images_of(tree: births.Births) -> list[Image]:
    root = Image()
    images = [root, *(Image(root=root, name=f"main {i}") for i in range(1, len(tree.processes)))]
    births.emit(tree, images, ["name"] * len(images), ())
    return images


def test_only_leaders_get_a_session_or_a_group() -> None:
    for own, group, number in ((7, 7, NR.setsid), (1, 7, NR.setpgid), (1, 1, None)):
        (image,) = images_of(family((7, own, group), parents=(-1,)))
        assert [op.nr for op in image.main.ops] == ([] if number is None else [number])


def test_a_child_of_the_former_session_is_forked_first() -> None:
    tree = family((7, 7, 7), (8, 1, 1), (9, 7, 7), parents=(-1, 0, 0))
    kinds = [
        "fork" if op.kind is wire.OpKind.FORK else "setsid"
        for op in images_of(tree)[0].main.ops
        if op.kind is wire.OpKind.FORK or op.nr == NR.setsid
    ]
    assert kinds == ["fork", "setsid", "fork"]
    assert (tree.processes[0].before, tree.processes[0].after) == ((1,), (2,))


def test_a_session_that_no_parent_was_in_is_refused() -> None:
    with pytest.raises(Refused, match="process 9 is in session 1, which its parent has never been in"):
        family((7, 7, 7), (8, 8, 8), (9, 1, 1), parents=(-1, 0, 1))


def test_a_group_without_its_leader_gets_a_placeholder() -> None:
    tree = family((7, 7, 7), (8, 7, 99), (9, 7, 99), parents=(-1, 0, 0))
    assert [one.placeholders for one in tree.processes] == [(99,), (), ()]
    assert tree.tasks == 4
    assert set(tree.pids) == {7, 8, 9, 99}


def test_a_limit_that_cannot_be_raised_names_the_way_out() -> None:
    image = Image()
    rlimits.emit(rlimits.Rlimits((rlimits.Rlimit(7, 1024, 4096),)), image)
    text, hint = image.builder._objects[0]
    strings = bytes(image.builder._strings)
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


def test_a_lost_session_is_led_for_those_of_one_parent() -> None:
    ours = (10, 10, 10), (11, 5, 5), (12, 5, 12), (13, 5, 5)
    tree = family(*ours, parents=(-1, 0, 0, 1), lost=frozenset({5}))
    assert tree.processes[0].orphans == (Orphans(5, (1, 2), False),)
    assert tree.processes[1].after == (3,)
    assert tree.pids == (10, 5, 11, 12, 13)
    with pytest.raises(Refused, match="the processes 12, 13 are in session 5, whose leader has ended"):
        family((10, 10, 10), (11, 11, 11), (12, 5, 5), (13, 5, 5), parents=(-1, 0, 0, 1), lost=frozenset({5}))


def test_who_has_left_its_session_s_leader_is_forked_by_that_one() -> None:
    tree = family((10, 10, 10), (11, 11, 11), (12, 11, 12), parents=(-1, 0, 0))
    assert tree.processes[0].orphans == (Orphans(11, (2,), True),)
    assert (tree.processes[0].after, tree.processes[0].lost_sessions) == ((1,), ())
    leader = images_of(tree)[1].main
    assert [op.args[2] for op in leader.ops if op.kind is OpKind.FORK] == [images_of(tree)[2].main.index]
