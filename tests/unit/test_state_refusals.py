# SPDX-License-Identifier: Apache-2.0
"""What cannot be restored is refused by name, and the process runs on.

The targets are children of the test: ptrace of a child needs no privilege, pidfd_getfd neither.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import re
import resource
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restorer.errors import Refused
from restorer.procfs import Process
from restorer.state import (
    cwd,
    fdcapture,
    fdtable,
    namespaces,
    posix_timers,
    scheduling,
    seccomp,
    security,
    sharers,
    sysvsem,
    tables,
    unsupported,
    vmas,
)
from restorer.state.choices import Choices
from restorer.state.unixqueues import Message
from restorer.tracee import Tracee, seize
from tests.live.harness import wait_until

PRELUDE = "import fcntl, mmap, os, select, socket, sys, time, signal, ctypes, threading\n"
READY = "\nprint('ready', flush=True)\nsys.stdin.read()\n"
_IS_ROOT = os.geteuid() == 0

Start = Callable[[str], "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """A Python child that runs a few lines in `tmp_path` and says that it is ready."""
    started: list[subprocess.Popen[str]] = []

    def run(code: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", PRELUDE + code + READY]
        child = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=tmp_path,
        )
        started.append(child)
        assert child.stdout is not None
        assert child.stdout.readline() == "ready\n"
        return child

    yield run
    for child in started:
        child.kill()
        child.communicate()


def refusal(child: subprocess.Popen[str], check: Callable[[Tracee], object]) -> str:
    with pytest.raises(Refused) as caught, seize(child.pid) as tracee:
        check(tracee)
    out, _ = child.communicate("", timeout=20)
    assert (out, child.returncode) == ("", 0), "the process was disturbed"
    return str(caught.value)


def check_alone(tracee: Tracee) -> None:
    unsupported.check([tracee])


FDS = {
    "datagrams of a group": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(1, 15, 1)\n"
        "s.bind(('127.0.0.1', 0)); s.sendto(b'x', s.getsockname())",
        r"fd \d+: unread datagrams of a group.*--skip-in-flight",
    ),
    "datagrams for many": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(1, 6, 1); s.bind(('', 0))\n"
        "s.sendto(b'x', ('127.255.255.255', s.getsockname()[1]))",
        r"fd \d+: unread datagrams that were sent to many.*--skip-in-flight",
    ),
    "raw queue": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 253); s.sendto(b'x', ('127.0.0.1', 0))",
        r"fd \d+: unread datagrams of this kind.*--skip-in-flight",
    ),
    "corked datagram": (
        "s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); s.setsockopt(17, 1, 1)",
        r"fd \d+: UDP socket with half a datagram",
    ),
    "inotify events": (
        "c = ctypes.CDLL(None); c.inotify_add_watch(c.inotify_init(), b'.', 0x100); open('a', 'w')",
        r"fd \d+: inotify has 32 bytes of events that were not read",
    ),
    "inotify of a deleted file": (
        "c = ctypes.CDLL(None); os.mkdir('a'); d = os.open('a', os.O_RDONLY)\n"
        "c.inotify_add_watch(c.inotify_init(), b'a', 0x100); os.rmdir('a')",
        r"fd \d+: inotify watches inode \d+ of device \d+:\d+, to which no path",
    ),
    "shared inotify": (
        "ctypes.CDLL(None).inotify_init()\nif os.fork() == 0: sys.stdin.read(); os._exit(0)",
        r"fd \d+: inotify shared with process \d+",
    ),
    "pidfd": (
        "fd = os.pidfd_open(os.getppid())",
        r"fd \d+: pidfd of process \d+, which is not of the tree; close it first",
    ),
    "deleted": (
        "f = open('gone', 'w'); os.mkdir('other'); os.link('gone', 'other/kept'); os.unlink('gone')",
        r"fd \d+: .*/gone has been deleted",
    ),
    "name from a deleted folder": (
        "os.mkdir('d'); os.chdir('d')\n"
        "f = socket.socket(socket.AF_UNIX); f.bind('s'); os.unlink('s'); os.rmdir('../d')",
        r"fd \d+: unix socket s has a name from the working directory, which has been deleted",
    ),
    "folder deleted": (
        "os.mkfifo('gone'); f = os.open('gone', os.O_PATH); os.unlink('gone')",
        r"fd \d+: .*/gone has been deleted",
    ),
    "broken lease": (
        "signal.signal(signal.SIGIO, signal.SIG_IGN)\n"
        "f = open('a', 'w'); fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)\n"
        "try: os.open('a', os.O_RDONLY | os.O_NONBLOCK)\n"
        "except BlockingIOError: pass",
        r"fd \d+: a lease that is being broken on .*/a cannot",
    ),
    "mapped lease": (
        "f = open('a', 'w+'); f.truncate(1); m = mmap.mmap(f.fileno(), 1)\n"
        "fcntl.fcntl(f, fcntl.F_SETLEASE, fcntl.F_WRLCK)",
        r"fd \d+: a lease on .*/a, which is mapped too",
    ),
    "dnotify": (
        "os.mkdir('a'); d = os.open('a', os.O_RDONLY); fcntl.fcntl(d, fcntl.F_NOTIFY, 0x80000002)",
        r"fd \d+: .*/a is watched by dnotify",
    ),
    "shared flock": (
        "f = open('a', 'w'); fcntl.flock(f, fcntl.LOCK_EX)\nif os.fork() == 0: sys.stdin.read(); os._exit(0)",
        r"fd \d+: .*/a shared with process \d+",
    ),
    "procfs of another": (
        "f = open(f'/proc/{os.getppid()}/status')",
        r"fd \d+: /proc/\d+/status is of a process that is not of the tree",
    ),
    "procfs of an fd": (
        "f = open('/proc/self/fdinfo/0')",
        r"fd \d+: /proc/\d+/fdinfo/0 stands for a file or a mapping that will be another",
    ),
    "procfs of one that has ended": (
        "r, w = os.pipe(); p = os.fork()\nif p == 0: os.read(r, 1); os._exit(0)\n"
        "f = open(f'/proc/{p}/status'); os.write(w, b'x'); os.waitpid(p, 0)",
        r"fd \d+: /proc/\d+/status.* is of a process that is not of the tree|was of a process that has ended",
    ),
    "generic netlink": (
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)",
        r"fd \d+: netlink socket \(generic\) cannot",
    ),
    "netlink messages": (
        "s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2); s.bind((0, 0))\n"
        "t = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 2); t.sendto(b'x', s.getsockname())",
        r"fd \d+: netlink socket \(user\) with unread messages",
    ),
    "packet ring": (
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)\n"
        "s.setsockopt(263, 5, (4096).to_bytes(4, 'little') + bytes.fromhex('040000000008000008000000'))",
        r"fd \d+: packet socket with a ring buffer",
    ),
    "packet fanout": (
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(('lo', 0x88b5))\n"
        "s.setsockopt(263, 18, os.getpid() & 0xffff)",
        r"fd \d+: packet socket of a fanout group",
    ),
    "packets": (
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(('lo', 0x88b6))\n"
        "s.send(bytes(12) + b'\\x88\\xb6x')",
        r"fd \d+: packet socket with packets, or an error, that were not read.*--skip-in-flight",
    ),
    "old packet socket": (
        "s = socket.socket(socket.AF_PACKET, 10, 0)",
        r"fd \d+: SOCK_PACKET socket cannot",
    ),
    "shared message queue": (
        "c = ctypes.CDLL(None); c.mq_open(b'/restorer-refused', 0o102, 0o600, None)\n"
        "c.mq_unlink(b'/restorer-refused')\nif os.fork() == 0: sys.stdin.read(); os._exit(0)",
        r"fd \d+: message queue restorer-refused shared with process \d+",
    ),
    "mq_notify": (
        "c = ctypes.CDLL(None); q = c.mq_open(b'/restorer-told', 0o102, 0o600, None)\n"
        "c.mq_unlink(b'/restorer-told'); c.mq_notify(q, (ctypes.c_char * 64)())",
        r"fd \d+: process \d+ waits for messages in restorer-told \(mq_notify\)",
    ),
    "connection": (
        "l = socket.create_server(('127.0.0.1', 0)); c = socket.create_connection(l.getsockname())\n"
        "s, _ = l.accept()",
        r"fd \d+: TCP connection 127.0.0.1:\d+ to 127.0.0.1:\d+ cannot.*--tcp close",
    ),
    "fds in flight": (
        "a, b = socket.socketpair(); e = select.epoll(); socket.send_fds(a, [b'x'], [e.fileno()]); e.close()",
        r"in flight to fd \d+: anon_inode:\[eventpoll\] is in no process",
    ),
    "unix connection to another": (
        "l = socket.socket(socket.AF_UNIX); l.bind('s'); l.listen()\n"
        "if os.fork() == 0: s, _ = l.accept(); s.send(b'x'); sys.stdin.read(); os._exit(0)\n"
        "l.close(); c = socket.socket(socket.AF_UNIX); c.connect('s'); c.recv(1)",
        r"fd \d+: unix socket connected to s cannot.*--ext-unix",
    ),
    "unix pair with another": (
        "a, b = socket.socketpair()\n"
        "if os.fork() == 0: a.close(); b.send(b'x'); sys.stdin.read(); os._exit(0)\n"
        "b.close(); a.recv(1)",
        r"fd \d+: unix socket connected to process \d+ 'python.*' cannot.*without a name",
    ),
    "unix connection that waits with data": (
        "l = socket.socket(socket.AF_UNIX); l.bind('s'); l.listen()\n"
        "c = socket.socket(socket.AF_UNIX); c.connect('s'); c.send(b'early')",
        r"fd \d+: data for s waits in a connection that was not accepted.*--skip-in-flight",
    ),
    "unix connection from outside that waits": (
        "l = socket.socket(socket.AF_UNIX); l.bind('s'); l.listen(); a, b = os.pipe()\n"
        "if os.fork() == 0:\n"
        "  l.close(); c = socket.socket(socket.AF_UNIX); c.connect('s'); os.write(b, b'x'); os.close(a)\n"
        "  os.close(b); sys.stdin.read(); os._exit(0)\n"
        "os.read(a, 1); os.close(b); os.close(a)",
        r"fd \d+: 1 connections from outside to unix socket s wait to be accepted.*--skip-in-flight",
    ),
    "socket file": (
        "s = socket.socket(socket.AF_UNIX); s.bind('s'); os.unlink('s'); open('s', 'w')",
        r"fd \d+: s is not the file of this socket any more",
    ),
    "socket file far away": (
        "s = socket.socket(socket.AF_UNIX); s.bind('s')\n"
        "os.mkdir('d' * 100); os.rename('s', 'd' * 100 + '/s')",
        r"fd \d+: socket file s has (another name now, .*/s, by which nobody|been deleted or renamed, and)",
    ),
    "epoll of a closed fd": (
        "e = select.epoll(); r, w = os.pipe(); e.register(r); a, b = socket.socketpair()\n"
        "socket.send_fds(a, [b'x'], [r]); os.close(r)",
        r"fd \d+: epoll watches a file that was added as fd \d+",
    ),
    "shared pty master": (
        "m, s = os.openpty()\nif os.fork() == 0: os.close(s); sys.stdin.read(); os._exit(0)",
        r"fd \d+: terminal /dev/pts/\d+ is shared with process \d+",
    ),
    "shared pty slave": (
        "m, s = os.openpty()\nif os.fork() == 0: os.close(m); sys.stdin.read(); os._exit(0)",
        r"fd \d+: terminal /dev/pts/\d+ is shared with process \d+",
    ),
    "pty of another session": (
        "m, s = os.openpty(); a, b = os.pipe()\n"
        "if os.fork() == 0:\n"
        "  os.setsid(); fcntl.ioctl(s, 0x540E, 0); os.closerange(3, 10); os.close(1); sys.stdin.read()\n"
        "  os._exit(0)\n"
        "os.close(b); os.read(a, 1)",
        r"fd \d+: /dev/pts/\d+ is the controlling terminal of session \d+",
    ),
    "full pty": (
        "import tty; m, s = os.openpty(); tty.setraw(s); os.write(m, b'x' * 4000)\n"
        "while not select.select([s], [], [], 1)[0]: pass",
        r"fd \d+: more than 3500 bytes were typed into /dev/pts/\d+",
    ),
    "packet status": (
        "m, s = os.openpty(); fcntl.ioctl(m, 0x5420, b'\\1\\0\\0\\0'); fcntl.ioctl(s, 0x540B, 1)",
        r"fd \d+: a status of packet mode of /dev/pts/\d+ was not read",
    ),
    "signals to another": (
        "r, w = os.pipe(); fcntl.fcntl(r, fcntl.F_SETOWN, os.getppid())",
        r"fd \d+: signals of pipe:.* go to process \d+",
    ),
}


def capture_fds(tracee: Tracee) -> object:
    return fdcapture.capture([tracee])


@pytest.mark.parametrize("what", FDS)
def test_fds(start: Start, what: str) -> None:
    code, message = FDS[what]
    assert re.search(message, refusal(start(code), capture_fds))


def test_no_room_for_fds(start: Start) -> None:
    """A restore opens what it needs above the highest number: valgrind has its own at the limit."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    raised = f"resource.setrlimit(resource.RLIMIT_NOFILE, ({hard}, {hard}))"
    code = f"import resource; {raised}; os.dup2(0, {hard - 2})"

    def capture(tracee: Tracee) -> object:
        tables = fdcapture.capture([tracee])
        fdtable.check_room(tables, fdtable.first_free(tables))
        return tables

    said = refusal(start(code), capture)
    assert re.match(rf"fd {hard - 2} or near it is open, and a restore needs \d+ numbers above it", said)
    assert "ulimit -Hn" in said


# An expression that opens it, where this machine has it, and what the refusal says.
_SYSCALL = "ctypes.CDLL(None, use_errno=True).syscall"
KERNELS = {
    "memfd_secret": (f"{_SYSCALL}(447, 0)", "memfd_secret cannot be checkpointed: nobody else can read it"),
    "fanotify": (f"{_SYSCALL}(300, 0, 0)", "fanotify cannot be checkpointed; .*inotify can"),
    "userfaultfd": (f"{_SYSCALL}(323, 1)", "userfaultfd cannot be checkpointed; let the program load"),
    "perf event": (
        f"{_SYSCALL}(298, (ctypes.c_uint32 * 34)(1, 128, 0), 0, -1, -1, 0)",
        "perf event cannot be checkpointed; stop the profiler",
    ),
    "BPF map": (
        f"{_SYSCALL}(321, 0, (ctypes.c_uint32 * 18)(2, 4, 4, 1), 72)",
        "BPF map cannot be checkpointed; close it",
    ),
    "Landlock": (
        f"{_SYSCALL}(444, (ctypes.c_uint64 * 1)(1), ctypes.c_size_t(8), 0)",
        "Landlock ruleset cannot be checkpointed; close it",
    ),
    "tunnel": (
        "os.open('/dev/net/tun', os.O_RDWR)",
        "tunnel device /dev/net/tun 10:200 cannot be checkpointed; take the tunnel down",
    ),
    "FUSE": (
        "os.open('/dev/fuse', os.O_RDWR)",
        "FUSE connection /dev/fuse 10:229 cannot be checkpointed; unmount",
    ),
    "KVM": ("os.open('/dev/kvm', os.O_RDWR)", "KVM /dev/kvm 10:232 cannot be checkpointed; shut the"),
    "virtual machine": (
        "fcntl.ioctl(os.open('/dev/kvm', os.O_RDWR), 0xAE01)",
        "virtual machine cannot be checkpointed; shut the",
    ),
    "vhost": ("os.open('/dev/vhost-net', os.O_RDWR)", "vhost device /dev/vhost-net 10:238 cannot be"),
    "autofs": ("os.open('/dev/autofs', os.O_RDWR)", "autofs control /dev/autofs 10:235 cannot be"),
    "GPU": ("os.open('/dev/dri/renderD128', os.O_RDWR)", "GPU /dev/dri/renderD128 226:128 cannot be"),
    "nvidia": ("os.open('/dev/nvidiactl', os.O_RDWR)", "GPU /dev/nvidiactl 195:255 cannot be"),
}


@pytest.mark.parametrize("what", KERNELS)
def test_what_is_in_the_kernel(start: Start, what: str) -> None:
    opening, message = KERNELS[what]
    try:
        fd = eval(opening, {"ctypes": ctypes, "os": os, "fcntl": fcntl})
    except OSError as error:
        pytest.skip(f"{what}: {error.strerror}")
    if fd < 0:
        pytest.skip(f"{what}: {os.strerror(ctypes.get_errno())}")
    os.close(fd)
    assert re.search(rf"fd \d+: {message}", refusal(start(f"f = {opening}"), capture_fds))


def test_asynchronous_io(start: Start) -> None:
    child = start("c = ctypes.c_void_p(); assert ctypes.CDLL(None).syscall(206, 8, ctypes.byref(c)) == 0")
    text = refusal(child, vmas.capture)
    assert re.match(r"a context of asynchronous I/O \(io_setup\) cannot be.*; start it without: Maria", text)


SEM_UNDO = """
c = ctypes.CDLL(None); s = c.semget(0, 1, 0o1600)
assert s >= 0 and c.semop(s, ctypes.create_string_buffer(bytes([0, 0, 1, 0, 0, 0x10])), 1) == 0
"""


def test_semaphores_that_are_undone(start: Start) -> None:
    end = "import atexit; atexit.register(lambda: c.semctl(s, 0, 0))\n"
    text = refusal(start(SEM_UNDO + end), lambda tracee: sysvsem.check([tracee]))
    assert re.match(r"process \d+ has used System V semaphores with SEM_UNDO, or .*ipcs -s", text)
    with seize(start(SEM_UNDO + "c.semctl(s, 0, 0)").pid) as tracee:
        sysvsem.check([tracee])


def test_threads_beside_semaphores_of_others(start: Start) -> None:
    """A thread brings a list of SEM_UNDO with it, and nothing is in it."""
    end = "import atexit; atexit.register(lambda: c.semctl(s, 0, 0))\n"
    owner = start(SEM_UNDO + end)
    threaded = start("threading.Thread(target=signal.pause, daemon=True).start()")
    with seize(threaded.pid) as tracee:
        sysvsem.check([tracee])
    owner.communicate("", timeout=20)


def test_console(start: Start) -> None:
    flags = os.O_RDWR | os.O_NOCTTY | os.O_NONBLOCK
    try:
        os.close(os.open("/dev/console", flags))
    except OSError as error:
        pytest.skip(f"/dev/console: {error.strerror}")
    text = refusal(start(f"f = os.open('/dev/console', {flags})"), capture_fds)
    assert re.search(r"fd \d+: /dev/console is not restored", text)


def test_all_of_them_are_named(start: Start) -> None:
    text = refusal(
        start("a = os.pidfd_open(1); s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 16)"), capture_fds
    )
    assert re.search(r"fd \d+: pidfd .*; fd \d+: netlink ", text)


def test_pipe_to_another_process(start: Start) -> None:
    child = start("a, b = os.pipe(); os.write(1, b'')\nif os.fork() == 0: sys.stdin.read(); os._exit(0)")
    text = refusal(child, capture_fds)
    assert re.search(r"fd \d+: pipe shared with process \d+ 'python", text)


def test_reset_connections_are_allowed_on_demand(start: Start) -> None:
    child = start(FDS["connection"][0])
    with seize(child.pid) as tracee:
        (table,) = fdcapture.capture([tracee], Choices(tcp_close=True))
    states = [getattr(one.object, "state", "") for one in table.descriptions]
    assert sorted(filter(None, states)) == ["listening", "reset", "reset"]


def test_capture_takes_nothing_away(start: Start) -> None:
    child = start("r, w = os.pipe(); os.write(w, b'kept'); a, b = socket.socketpair(); a.send(b'kept too')")
    with seize(child.pid) as tracee:
        (first,), (second,) = fdcapture.capture([tracee]), fdcapture.capture([tracee])
    assert first == second
    assert [pipe.packets for pipe in first.pipes] == [(b"kept",)]
    assert (Message(b"kept too"),) in [getattr(one.object, "queue", ()) for one in first.descriptions]


def test_packet_statistics_are_not_read(start: Start) -> None:
    """Reading them begins them anew, and the program goes on with -R."""
    child = start(
        "s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0); s.bind(('lo', 0x88b7))\n"
        "s.send(bytes(12) + b'\\x88\\xb7x'); s.recv(99)\n"
        "import atexit; atexit.register(lambda: print(s.getsockopt(263, 6, 8)[0]))"
    )
    with seize(child.pid) as tracee:
        (table,) = fdcapture.capture([tracee])
    assert "packet" in [getattr(one.object, "kind", "") for one in table.descriptions]
    assert child.communicate("", timeout=20)[0] == "1\n"


def test_posix_timer_of_a_thread_clock(start: Start) -> None:
    code = (
        "import threading, time; threading.Thread(target=time.sleep, args=(1,)).start()\n"
        "t = ctypes.c_void_p(); ctypes.CDLL(None).timer_create(3, None, ctypes.byref(t))"
    )
    assert "counts the CPU time of a thread" in refusal(start(code), posix_timers.capture)


def test_shared_memory_of_two(start: Start) -> None:
    child = start("import mmap; m = mmap.mmap(-1, 9999)\nif os.fork() == 0: sys.stdin.read(); os._exit(0)")
    text = refusal(child, lambda tracee: sharers.check([tracee.pid], vmas.carried(vmas.capture(tracee))))
    assert re.search(r"shared memory is shared with process \d+ 'python", text)


IO_URING = """
c = ctypes.CDLL(None)
p = (ctypes.c_char * 120)()
fd = c.syscall(425, 1, p)
if fd >= 0:
    ring, sqes = mmap.mmap(fd, 4096), mmap.mmap(fd, 4096, offset=0x10000000)
    sqes[1] = 1 << 4  # IOSQE_ASYNC: a worker thread does it, and stays for 5 s
    ring[int.from_bytes(p.raw[44:48], 'little')] = 1
    assert c.syscall(426, fd, 1, 0, 0, None, 0) == 1
else:
    open('forbidden', 'w').close()
"""


def test_io_uring_with_a_thread_of_the_kernel(start: Start, tmp_path: Path) -> None:
    child = start(IO_URING)
    if (tmp_path / "forbidden").exists():
        pytest.skip("io_uring is not allowed here")
    # A worker takes its name itself, once it runs (io_wq_worker).
    tasks = Path(f"/proc/{child.pid}/task")
    wait_until(lambda: any(path.read_text().startswith("iou-wrk") for path in tasks.glob("*/comm")), "it")
    text = refusal(child, vmas.capture)
    assert re.match("io_uring cannot be checkpointed; start it without: uvicorn with --loop asyncio", text)


@pytest.mark.skipif(not _IS_ROOT, reason="filters are read by root")
@pytest.mark.parametrize("returns", ["(6, 0, 0, 0x7FC00000)", "(0x16, 0, 0, 0)"])
def test_seccomp_filter_that_may_ask_another_process(start: Start, returns: str) -> None:
    # The system call is number -1, which nobody makes; all others are allowed.
    child = start(
        "import struct; libc = ctypes.CDLL(None)\n"
        f"insns = [(0x20, 0, 0, 0), (0x15, 0, 1, 0xFFFFFFFF), {returns}, (6, 0, 0, 0x7FFF0000)]\n"
        "code = ctypes.create_string_buffer(b''.join(struct.pack('<HBBI', *one) for one in insns), 32)\n"
        "table = ctypes.create_string_buffer(struct.pack('<HxxxxxxQ', 4, ctypes.addressof(code)), 16)\n"
        "assert libc.prctl(38, 1, 0, 0, 0) == 0 and libc.prctl(22, 2, table) == 0"
    )
    text = refusal(child, lambda tracee: seccomp.capture(tracee.leader))
    assert "has a seccomp filter that asks another process" in text


def keyring(number: int) -> str:
    return f"assert ctypes.CDLL(None).syscall(250, 0, {number}, 1) > 0"


@pytest.mark.parametrize(("number", "kind"), [(-1, "thread"), (-2, "process")])
def test_keyrings(start: Start, number: int, kind: str) -> None:
    if ctypes.CDLL(None).syscall(250, 0, -3, 0) < 0:
        pytest.skip("this kernel, or its sandbox, has no keys")
    child = start(keyring(number))
    text = refusal(child, lambda tracee: security.check(tracee, tracee.process))
    assert f"has a {kind} keyring" in text


def test_security_label_of_another(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    child = start("pass")
    labels = {child.pid: "docker-default (enforce)"}
    monkeypatch.setattr(security, "label", lambda process, name: labels.get(process.pid, "unconfined"))
    text = refusal(child, lambda tracee: security.check(tracee, Process(os.getpid())))
    assert (
        "has the security label 'docker-default (enforce)' (current) where restore has 'unconfined'" in text
    )


def test_a_label_is_none_without_a_security_module() -> None:
    assert isinstance(security.label(Process(os.getpid()), "current"), str)


def test_one_that_traces_another(start: Start) -> None:
    child = start(
        "other = os.fork()\nif other == 0: sys.stdin.read(); os._exit(0)\n"
        "assert ctypes.CDLL(None).ptrace(0x4206, other, 0, 0) == 0"
    )
    assert re.search(r"it traces process \d+ 'python", refusal(child, check_alone))


def test_core_scheduling_cookie(start: Start, monkeypatch: pytest.MonkeyPatch) -> None:
    assert scheduling.core_cookie(os.getpid()) == 0
    monkeypatch.setattr(scheduling, "core_cookie", lambda tid: 0xFFFF8881)
    text = refusal(start("pass"), lambda tracee: scheduling.capture(tracee.leader))
    assert "has a core scheduling cookie" in text


@pytest.mark.skipif(not _IS_ROOT, reason="mount needs root")
def test_working_directory_of_a_lost_file_system(start: Start) -> None:
    child = start(
        "os.mkdir('m'); assert os.system('mount -t tmpfs none m') == 0; os.mkdir('m/d'); os.chdir('m/d')\n"
        "os.rmdir('../d'); assert os.system('umount -l ../../m') == 0"
    )
    assert re.search(
        r"working directory .*/d has been deleted, and so has all of its file system",
        refusal(child, lambda tracee: cwd.capture(tracee.process)),
    )


@pytest.mark.skipif(not _IS_ROOT, reason="unshare needs root")
def test_namespace_of_another(start: Start) -> None:
    child = start("f = open('/proc/self/ns/uts'); ctypes.CDLL(None).unshare(0x04000000)")
    text = refusal(child, capture_fds)
    assert re.search(r"fd \d+: uts:\[\d+\] is a namespace that process \d+ is not in", text)


@pytest.mark.skipif(not _IS_ROOT, reason="unshare needs root")
def test_other_namespaces(start: Start) -> None:
    child = start("ctypes.CDLL(None).unshare(0x04000000 | 0x08000000)")
    assert re.search(
        r"other namespaces than this command: IPC, UTS",
        refusal(child, lambda tracee: namespaces.check(tracee, tracee)),
    )


@pytest.mark.skipif(not _IS_ROOT, reason="unshare needs root")
def test_other_pid_namespace_for_children(start: Start) -> None:
    child = start("ctypes.CDLL(None).unshare(0x20000000)")
    text = refusal(child, lambda tracee: namespaces.check(tracee, tracee))
    assert text.endswith(
        "has another PID namespace for its children; "
        "checkpoint its child, the first process of that namespace, instead"
    )


def test_directories_of_one_thread_and_another_process(start: Start) -> None:
    code = (
        "c = ctypes.CDLL(None)\n"
        "def own():\n"
        "    c.unshare(0x200)\n"
        "    if c.syscall(56, 0x211, 0, 0, 0, 0) == 0: c.pause(); c._exit(0)\n"
        "    done.set(); signal.pause()\n"
        "done = threading.Event(); threading.Thread(target=own, daemon=True).start(); done.wait()"
    )
    child = start(code)
    (other,) = Process(child.pid).children()
    try:
        with seize(other) as second, pytest.raises(Refused) as caught, seize(child.pid) as first:
            tables.capture([first, second])
    finally:
        os.kill(other, signal.SIGKILL)
    found = rf"thread \d+ of process {child.pid} shares its working directory with process {other}, and not"
    assert re.search(found, str(caught.value))


DEAD_MAIN_THREAD = """
def last():
    print('ready', flush=True)
    sys.stdin.read()
    os._exit(0)

threading.Thread(target=last).start()
ctypes.CDLL(None).syscall(60, 0)
"""


def test_main_thread_that_has_ended(start: Start) -> None:
    child = start(DEAD_MAIN_THREAD)
    wait_until(lambda: Process(child.pid).thread(child.pid).status.state == "Z", "the end of its main thread")
    text = refusal(child, lambda tracee: None)
    assert re.search(r"its main thread has ended \(pthread_exit\).*; have it wait for them", text)


@pytest.mark.skipif(not _IS_ROOT, reason="unshare needs root")
def test_thread_with_its_own_descriptors(start: Start) -> None:
    code = (
        "def own(): ctypes.CDLL(None).unshare(0x400); done.set(); signal.pause()\n"
        "done = threading.Event(); threading.Thread(target=own, daemon=True).start(); done.wait()"
    )
    assert "does not share its file descriptors" in refusal(start(code), check_alone)
