# SPDX-License-Identifier: Apache-2.0
"""/proc of processes that the test knows: its own, and children of its own."""

from __future__ import annotations

import mmap
import os
import resource
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from restorer.errors import ProcessError
from restorer.maps import parse_maps
from restorer.model import Registers
from restorer.procfs import INFINITY, PF_KTHREAD, Process, Status
from restorer.restarts import original_call

SMAPS = b"""\
55b10989b000-55b10989d000 r--p 00000000 fe:01 260131                     /usr/bin/a b
Size:                  8 kB
ProtectionKey:         3
VmFlags: rd mr mw me lo
7f0000000000-7f0000001000 rw-s 00002000 00:01 1026                       /dev/zero (deleted)
VmFlags: rd wr sh mr mw me ms
7f0000002000-7f0000003000 ---p 00000000 00:00 0
VmFlags: mr mw me
7f0000004000-7f0000005000 rw-p 00000000 00:00 0                          [anon:a name]
VmFlags: rd wr
7ffc00000000-7ffc00002000 r-xp 00000000 00:00 0                          [vdso]
VmFlags: rd ex mr mw me de
7ffc00003000-7ffc00004000 r--p 00000000 fe:01 7                          /tmp/x\\012y\\012
VmFlags: rd
"""


@contextmanager
def child() -> Iterator[Process]:
    program = subprocess.Popen(["sleep", "1000"], env={"PATH": os.environ["PATH"], "ODD": "\udcff\n"})
    process = Process(program.pid)
    try:
        # Popen returns in the middle of execve.
        while not process.cmdline():
            time.sleep(0.001)
        yield process
    finally:
        program.kill()
        program.wait()


def test_smaps() -> None:
    text, shared, nothing, named, vdso, odd = parse_maps(SMAPS)
    assert (text.start, text.end, text.length) == (0x55B10989B000, 0x55B10989D000, 0x2000)
    assert (text.prot, text.dev, text.inode) == (mmap.PROT_READ, (0xFE, 1), 260131)
    assert (text.path, text.name, text.pkey) == ("/usr/bin/a b", "", 3)
    assert text.flags == {"rd", "mr", "mw", "me", "lo"}
    assert not text.anonymous and not text.deleted and not text.shared
    assert shared.shared and shared.deleted and not shared.anonymous and shared.offset == 0x2000
    assert nothing.prot == 0 and nothing.anonymous and nothing.path == nothing.name == ""
    assert named.name == "[anon:a name]" and named.anonymous and named.path == ""
    assert vdso.special and not vdso.anonymous and vdso.executable
    assert odd.path == "/tmp/x\ny\n"
    assert str(nothing) == "7f0000002000-7f0000003000 ---p anonymous"


def test_an_ambiguous_path_is_asked_for() -> None:
    def exact(start: int, _end: int) -> str:
        assert start == 0x7FFC00003000
        return "/tmp/x\\012y\n"

    assert parse_maps(SMAPS, exact)[-1].path == "/tmp/x\\012y\n"


def test_files_with_odd_names_are_mapped(tmp_path: Path) -> None:
    for name in ("new\nline", "back\\012slash", "carriage\rreturn", "b\udcffyte", "end  "):
        path = tmp_path / name
        path.write_bytes(b"x")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 1, prot=mmap.PROT_READ):
            assert str(path) in {vma.path for vma in Process(os.getpid()).vmas()}


def test_our_own_mappings() -> None:
    with mmap.mmap(-1, 1 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS) as memory:
        memory.madvise(mmap.MADV_DONTFORK)
        process = Process(os.getpid())
        vmas = process.vmas()
        assert [vma.start for vma in vmas] == sorted(vma.start for vma in vmas)
        assert any("dc" in vma.flags and vma.length >= 1 << 20 for vma in vmas)
        assert {"[stack]", "[vdso]"} <= {vma.name for vma in vmas}
        assert any(vma.path == process.exe() for vma in process.maps())


def test_status() -> None:
    process = Process(os.getpid())
    status = process.status
    assert (status.tgid, status.ppid, status.nspid) == (os.getpid(), os.getppid(), os.getpid())
    assert (status.uids.real, status.uids.effective, status.gids.saved) == os.getresuid()[
        :2
    ] + os.getresgid()[2:]
    assert status.groups == sorted(os.getgroups())
    assert (status.seccomp, status.tracer, status.core_dumping) == (status.number("Seccomp"), 0, False)
    assert status.caps.keys() == {"inheritable", "permitted", "effective", "bounding", "ambient"}
    assert status.sig_caught & 1 << signal.SIGINT - 1
    assert status.number("NoSuchField", 7) == 7
    assert process.stat.flags & PF_KTHREAD == 0


def test_signal_masks() -> None:
    number = signal.SIGUSR2
    process = Process(os.getpid(), threading.get_native_id())
    signal.pthread_sigmask(signal.SIG_BLOCK, {number})
    try:
        signal.pthread_kill(threading.get_ident(), number)
        assert process.status.sig_blocked & 1 << number - 1
        assert process.status.sig_pending == 1 << number - 1
        assert signal.sigwait({number}) == number
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {number})


def test_names_that_look_like_syntax() -> None:
    code = "import sys;open('/proc/self/comm','w').write('a) R (\\n 7');print(flush=True);sys.stdin.read()"
    program = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process = Process(program.pid)
    assert program.stdout is not None
    program.stdout.readline()
    try:
        assert process.comm() == process.comm(program.pid) == "a) R (\n 7"
        assert process.stat.ppid == os.getpid()
        assert process.stat.state in "RS"
        assert process.status.tgid == program.pid
    finally:
        program.communicate()


def test_stat_addresses() -> None:
    with child() as process:
        stat = process.stat
        assert stat.pgrp == os.getpgrp() and stat.session == os.getsid(0)
        assert 0 < stat.start_code < stat.end_code and 0 < stat.arg_start < stat.arg_end <= stat.env_start
        assert stat.exit_signal == signal.SIGCHLD
        with pytest.raises(AttributeError):
            _ = stat.no_such_field


def test_limits() -> None:
    limits = Process(os.getpid()).limits()
    for kind in (resource.RLIMIT_NOFILE, resource.RLIMIT_STACK, resource.RLIMIT_CORE, resource.RLIMIT_RTPRIO):
        expected = [
            INFINITY if value == resource.RLIM_INFINITY else value for value in resource.getrlimit(kind)
        ]
        assert list(limits[kind]) == expected
    assert len(limits) == 16


def test_files(tmp_path: Path) -> None:
    process = Process(os.getpid())
    with (tmp_path / "file").open("w") as file:
        file.write("four")
        file.flush()
        number = file.fileno()
        assert number in process.fds()
        assert process.link(f"fd/{number}") == file.name
        assert process.fdinfo(number)["pos"] == "4"
        assert process.stat_of(f"fd/{number}").st_size == 4
    with pytest.raises(ProcessError):
        process.fdinfo(number)


def test_the_rest() -> None:
    with child() as process:
        assert process.cmdline() == ["sleep", "1000"]
        assert process.cwd() == os.getcwd() and process.root() == "/"
        assert set(process.environ()) == {f"PATH={os.environ['PATH']}", "ODD=\udcff\n"}
        assert process.tasks() == [process.pid] and process.children() == []
        assert process.pid in Process(os.getpid()).children()
        assert process.ns("pid") == os.stat("/proc/self/ns/pid").st_ino
        assert process.personality() == 0 and process.timers() == ""
        assert -1000 <= process.oom_score_adj() <= 1000
        assert process.coredump_filter() == int(Path("/proc/self/coredump_filter").read_text(), 16)
        assert process.io()["cancelled_write_bytes"] == 0
        assert process.auxv()[-1] == (0, 0)
        assert dict(process.auxv())[6] == mmap.PAGESIZE
        assert process.thread(process.pid).status.tgid == process.pid


def test_a_process_that_has_ended() -> None:
    with child() as process:
        pass
    calls = (
        process.vmas,
        process.fds,
        process.limits,
        process.exe,
        process.tasks,
        process.cmdline,
        process.children,
    )
    for call in calls:
        with pytest.raises(ProcessError, match=f"^process {process.pid} has ended$"):
            call()
    for name in ("status", "stat"):
        with pytest.raises(ProcessError):
            getattr(process, name)
    assert not process.exists()


def test_a_zombie_has_no_memory() -> None:
    program = subprocess.Popen(["true"])
    os.waitid(os.P_PID, program.pid, os.WEXITED | os.WNOWAIT)
    process = Process(program.pid)
    assert process.status.state == "Z" and process.vmas() == [] and process.cmdline() == []
    with pytest.raises(ProcessError):
        process.exe()
    program.wait()


def test_a_status_of_an_older_kernel() -> None:
    status = Status({"Pid": "9", "State": "S (sleeping)"})
    assert (status.nspid, status.seccomp, status.no_new_privs, status.state) == (9, 0, False, "S")


MOV = b"\xb8\xe6\x00\x00\x00\x0f\x05"
CLOCK_NANOSLEEP, NANOSLEEP, POLL, FUTEX = 230, 35, 7, 202


@pytest.mark.parametrize(
    ("code", "rdi", "rsi", "rdx", "r10", "expected"),
    [
        (MOV, 1, 0, 0x7F0000, 0, CLOCK_NANOSLEEP),
        (b"\x90" * 7, 0, 0, 0x7F0000, 0, None),  # as well poll(NULL, 0, ...)
        (b"\x90" * 7, 1, 0, 0x7F0000, 0, CLOCK_NANOSLEEP),
        (b"\x90" * 7, 0x7F0000, 0x7F0010, 0, 0, NANOSLEEP),
        (b"\x90" * 7, 0x7F0000, 3, 100, 0, POLL),
        (b"\xb8\xca\x00\x00\x00\x0f\x05", 0x7F0000, 128, 0, 0x7F0010, FUTEX),
        (b"\x90" * 7, 0x7F0000, 128, 0, 0x7F0010, None),  # as well poll of 128 files
        (b"\xb8\x00\x00\x00\x00\x0f\x05", 1, 0, 0x7F0000, 0, None),
    ],
)
def test_the_call_behind_restart_syscall(
    code: bytes, rdi: int, rsi: int, rdx: int, r10: int, expected: int | None
) -> None:
    regs = Registers.of([0] * 27).but(rdi=rdi, rsi=rsi, rdx=rdx, r10=r10)
    assert original_call(regs, code) == expected
