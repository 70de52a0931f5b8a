# SPDX-License-Identifier: Apache-2.0
"""Seizing children of the test: nothing about them may change. ptrace of a child needs no privilege."""

from __future__ import annotations

import ctypes
import os
import select
import signal
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restorer import native
from restorer.errors import ProcessError, Refused, RestorerError
from restorer.procfs import Process
from restorer.tracee import SCRATCH_BYTES, seize

SOURCES = Path(__file__).parent / "tracee"
SYS_CLOSE, SYS_GETPID, SYS_GETTID = 3, 39, 186
EPOLL_WAIT, CLOCK_NANOSLEEP, RESTART_SYSCALL = 232, 230, 219

Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], str]:
    folder = tmp_path_factory.mktemp("tracee")

    def build(name: str) -> str:
        target = folder / name
        if not target.exists():
            flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
            subprocess.run(["gcc", *flags, "-o", target, SOURCES / f"{name}.c"], check=True)
        return str(target)

    return build


@pytest.fixture
def start() -> Iterator[Start]:
    """Starts a program and waits for its "ready"."""
    started: list[subprocess.Popen[str]] = []

    def run(*command: str, ready: bool = True) -> subprocess.Popen[str]:
        child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        started.append(child)
        if ready:
            assert child.stdout is not None
            assert child.stdout.readline() == "ready\n"
        return child

    yield run
    for child in started:
        child.kill()
        child.communicate()


def python(start: Start, code: str) -> subprocess.Popen[str]:
    return start(sys.executable, "-c", code + "\nprint('ready', flush=True)\nimport signal\nsignal.pause()")


def comes_to(pid: int, state: str) -> None:
    """Waits until the process is in that state."""
    last = time.monotonic() + 5
    while Process(pid).status.state != state:
        assert time.monotonic() < last
        time.sleep(0.001)


def sleeping(pid: int) -> None:
    comes_to(pid, "S")


@pytest.mark.parametrize("inject", [False, True])
def test_no_wait_is_cut_short(built: Callable[[str], str], start: Start, inject: bool) -> None:
    child = start(built("interrupted"), "3")
    calls: set[tuple[int, int]] = set()
    end = time.monotonic() + 2.5
    while time.monotonic() < end:
        with seize(child.pid) as tracee:
            for thread in tracee.threads:
                calls.add((thread.regs.syscall, min(thread.regs.result, 0)))
                thread.resume_regs()
                if inject:
                    assert thread.syscall(SYS_GETTID) == thread.nstid
        time.sleep(0.011)
    out, _ = child.communicate()
    assert out == "fine\n"
    assert child.returncode == 0
    assert (EPOLL_WAIT, -4) in calls
    assert (CLOCK_NANOSLEEP, -516) in calls


@pytest.mark.parametrize("mode", ["poll", "suspend"])
def test_no_signal_is_lost(built: Callable[[str], str], start: Start, mode: str) -> None:
    total, wanted_rounds = 3000, 60
    child = start(built("signals"), str(total), mode)

    libc = ctypes.CDLL(None)

    def send_one(value: int) -> None:
        while libc.sigqueue(child.pid, signal.SIGRTMIN, ctypes.c_void_p(value)) != 0:
            time.sleep(0.001)

    rounds = 0

    def send() -> None:
        # All but the last, with which the program ends: it must not while it is being seized. Some before
        # each round, however slow the machine is.
        for value in range(total - 1):
            while value * wanted_rounds > (rounds + 1) * total:
                time.sleep(0.0005)
            send_one(value)

    sender = threading.Thread(target=send)
    sender.start()
    while sender.is_alive():
        with seize(child.pid) as tracee:
            for thread in tracee.threads:
                thread.syscall(SYS_GETTID)
                thread.resume_regs()
        rounds += 1
        time.sleep(0.002)
    send_one(total - 1)
    out, _ = child.communicate()
    assert out.split() == [str(total), str(total * (total - 1) // 2), "0"]
    assert rounds >= wanted_rounds - 1


def test_a_signal_on_its_way_survives_letting_go(start: Start) -> None:
    """As when seizing fails for another thread, before anybody has waited for this one."""
    child = python(start, "import signal\nsignal.signal(10, lambda *_: print('got', flush=True))")
    assert child.stdout is not None
    sleeping(child.pid)
    assert native.lib.tr_seize(child.pid, native.new_error()) == 0
    os.kill(child.pid, signal.SIGUSR1)
    comes_to(child.pid, "t")
    assert native.lib.tr_detach(child.pid, native.new_error()) == 0
    assert select.select([child.stdout], [], [], 5)[0], "the signal is lost"
    assert child.stdout.readline() == "got\n"


def test_signals_in_the_queues_are_shown(start: Start) -> None:
    child = python(start, "import signal\nsignal.pthread_sigmask(signal.SIG_BLOCK, {10, 12, 36})")
    ctypes.CDLL(None).sigqueue(child.pid, 36, ctypes.c_void_p(77))
    with seize(child.pid) as tracee:
        os.kill(child.pid, signal.SIGUSR1)
        assert [struct.unpack_from("<i", info)[0] for info in tracee.pending] == [36, 10]
        assert struct.unpack_from("<iiiiii i", tracee.pending[0])[6] == 77
        assert {len(info) for info in tracee.pending} == {128}
        assert tracee.leader.pending == []
        assert tracee.leader.sigmask == 1 << 9 | 1 << 11 | 1 << 35


def test_a_hundred_threads(start: Start) -> None:
    code = "from threading import Timer\nfor i in range(100): Timer(1000, print).start()"
    child = python(start, code)
    with seize(child.pid) as tracee:
        assert len(tracee.threads) == 101
        assert tracee.threads[0].tid == child.pid
        assert {thread.status.tracer for thread in tracee.threads} == {os.getpid()}
    assert Process(child.pid).status.tracer == 0


def test_syscalls_leave_no_trace(start: Start) -> None:
    child = python(start, "")
    sleeping(child.pid)
    before = Process(child.pid).maps()
    with seize(child.pid) as tracee:
        regs = tracee.leader.regs
        assert tracee.syscall(SYS_GETPID) == child.pid
        with pytest.raises(OSError, match="Bad file descriptor"):
            tracee.syscall(SYS_CLOSE, 12345)
        tracee.write(tracee.scratch + SCRATCH_BYTES - 3, b"end")
        assert tracee.read(tracee.scratch + SCRATCH_BYTES - 4, 4) == b"\0end"
        assert tracee.leader._read_regs() == regs
        assert len(tracee.vmas) == len(before)
    assert Process(child.pid).maps() == before


def test_memory_without_access_is_read(start: Start) -> None:
    code = (
        "import ctypes, mmap\nm = mmap.mmap(-1, 8192, flags=mmap.MAP_PRIVATE|mmap.MAP_ANONYMOUS)\n"
        "m[:] = b'x' * 8192\na = ctypes.addressof(ctypes.c_char.from_buffer(m))\n"
        "ctypes.CDLL(None).mprotect(ctypes.c_void_p(a + 4096), 4096, 0)\n"
        "open('/proc/self/comm','w').write('%x' % a)"
    )
    child = python(start, code)
    with seize(child.pid) as tracee:
        addr = int(tracee.leader.name, 16)
        assert next(vma.prot for vma in tracee.vmas if vma.start == addr + 4096) == 0
        assert tracee.read(addr + 4000, 200) == b"x" * 200
        assert tracee.read_many([(addr, 2), (addr + 4096, 3), (addr, 0), (addr + 1, 1)]) == [
            b"xx",
            b"xxx",
            b"",
            b"x",
        ]
        tracee.write(addr + 4095, b"ab")
        assert tracee.read(addr + 4094, 4) == b"xabx"
        with pytest.raises(RestorerError, match="0x0"):
            tracee.read(0, 1)


def test_descriptors_are_borrowed(start: Start) -> None:
    child = python(start, "import os\nos.dup2(os.open('/dev/zero', os.O_RDONLY), 50)")
    with seize(child.pid) as tracee:
        fd = tracee.getfd(50)
        assert os.read(fd, 2) == b"\0\0"
        os.close(fd)
        with pytest.raises(OSError):
            tracee.getfd(51)


def test_a_stopped_process_stays_stopped(start: Start) -> None:
    child = python(start, "")
    os.kill(child.pid, signal.SIGSTOP)
    os.waitpid(child.pid, os.WUNTRACED)
    with seize(child.pid) as tracee:
        assert tracee.stopped
        assert tracee.stop_signal == signal.SIGSTOP
        assert tracee.syscall(SYS_GETPID) == child.pid
    comes_to(child.pid, "T")
    assert os.waitpid(child.pid, os.WUNTRACED | os.WNOHANG) == (0, 0)
    os.kill(child.pid, signal.SIGCONT)
    sleeping(child.pid)


@pytest.mark.parametrize("inject", [False, True])
def test_a_stop_meanwhile_takes_effect(start: Start, inject: bool) -> None:
    child = python(start, "")
    with seize(child.pid) as tracee:
        assert not tracee.stopped
        os.kill(child.pid, signal.SIGSTOP)
        if inject:
            tracee.syscall(SYS_GETPID)
            assert tracee.stopped
    os.waitpid(child.pid, os.WUNTRACED)
    # The parent is told once the stop is under way.
    comes_to(child.pid, "T")
    with seize(child.pid):
        os.kill(child.pid, signal.SIGCONT)
    sleeping(child.pid)


def test_the_call_behind_restart_syscall_is_found(start: Start) -> None:
    child = start("sleep", "1000", ready=False)
    for nr in (CLOCK_NANOSLEEP, RESTART_SYSCALL, RESTART_SYSCALL):
        time.sleep(0.05)
        with seize(child.pid) as tracee:
            regs = tracee.leader.regs
            assert regs.syscall == nr
            image = tracee.leader.resume_regs()
            assert image.rax == CLOCK_NANOSLEEP
            assert image.rip == regs.rip - 2
            assert image.syscall == -1


def test_a_restartable_sequence_is_aborted(built: Callable[[str], str], start: Start) -> None:
    child = subprocess.Popen([built("sections")], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert child.stdout is not None
        if child.stdout.readline() != "ready\n":
            pytest.skip("this C library registers no rseq area")
        aborted = 0
        for _ in range(20):
            with seize(child.pid) as tracee:
                rseq = tracee.leader.rseq
                assert rseq is not None
                (section,) = struct.unpack("<Q", tracee.read(rseq.addr + 8, 8))
                if section:
                    begin, length, abort = struct.unpack("<QQQ", tracee.read(section + 8, 24))
                    assert not begin <= tracee.leader.regs.rip < begin + length
                    aborted += tracee.leader.regs.rip == abort
                tracee.syscall(SYS_GETPID)
        out, _ = child.communicate("end\n")
        assert int(out) >= aborted > 0
    finally:
        child.kill()
        child.wait()


@pytest.mark.parametrize(
    ("number", "kind"),
    [(signal.SIGINT, KeyboardInterrupt), (signal.SIGTERM, SystemExit), (0, ZeroDivisionError)],
)
def test_every_way_out_lets_go(start: Start, number: int, kind: type[BaseException]) -> None:
    child = python(start, "")
    sleeping(child.pid)
    handler = signal.getsignal(number) if number else None
    with pytest.raises(kind), seize(child.pid) as tracee:
        assert tracee.scratch
        if not number:
            raise ZeroDivisionError
        signal.raise_signal(number)
    assert Process(child.pid).status.tracer == 0
    sleeping(child.pid)
    assert handler == (signal.getsignal(number) if number else None)


def test_kill(start: Start) -> None:
    code = (
        "import threading, time\nfor i in range(5): threading.Thread(target=time.sleep, args=(1000,)).start()"
    )
    child = python(start, code)
    with seize(child.pid) as tracee:
        tracee.kill()
    assert not Process(child.pid).exists() or Process(child.pid).status.state == "Z"


def test_a_death_meanwhile_is_told(start: Start) -> None:
    child = python(start, "")
    with pytest.raises(ProcessError, match=f"process {child.pid} has ended"), seize(child.pid) as tracee:
        os.kill(child.pid, signal.SIGKILL)
        tracee.syscall(SYS_GETPID)


def test_who_cannot_be_seized(start: Start) -> None:
    child = python(start, "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()")
    thread = Process(child.pid).tasks()[1]
    zombie = start("true", ready=False)
    comes_to(zombie.pid, "Z")
    cases: list[tuple[int, type[RestorerError], str]] = [
        (0, ProcessError, "no process 0"),
        (1 << 30, ProcessError, "no process"),
        (os.getpid(), Refused, "restorer itself"),
        (os.getppid(), Refused, "parent of this command"),
        (thread, ProcessError, f"thread of process {child.pid}"),
        (zombie.pid, ProcessError, "zombie"),
    ]
    for pid, kind, words in cases:
        with pytest.raises(kind, match=words), seize(pid):
            pass


def test_another_tracer_is_named(start: Start) -> None:
    child = python(start, "")
    ours, theirs = os.pipe()
    other = os.fork()
    if other == 0:
        try:
            with seize(child.pid):
                os.write(theirs, b"x")
                signal.pause()
        finally:
            os._exit(0)
    os.read(ours, 1)
    try:
        with pytest.raises(ProcessError, match=f"traced by process {other}"), seize(child.pid):
            pass
    finally:
        os.kill(other, signal.SIGTERM)
        os.waitpid(other, 0)
    assert Process(child.pid).status.tracer == 0
