# SPDX-License-Identifier: Apache-2.0
"""Filters as real programs have them: an allow list made by libseccomp around a threaded service; and what is
said where filters cannot be suspended.
"""

from __future__ import annotations

import ctypes
import ctypes.util
import os
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restorer.state import seccomp
from restorer.tracee import seize
from tests.live.harness import Program, Restored, Restorer, kill_all, wait_until

# As container runtimes do: what is not named fails with EPERM. What a service needs is, and little that
# a restore does last.
SERVICE = """
import ctypes, ctypes.util, errno, http.server, os, threading
scmp = ctypes.CDLL(ctypes.util.find_library("seccomp"), use_errno=True)
scmp.seccomp_init.restype = ctypes.c_void_p
scmp.seccomp_init.argtypes = [ctypes.c_uint32]
scmp.seccomp_rule_add.argtypes = [ctypes.c_void_p, ctypes.c_uint32, ctypes.c_int, ctypes.c_uint]
scmp.seccomp_load.argtypes = [ctypes.c_void_p]
ALLOWED = '''
read write readv writev close fstat newfstatat lseek mmap mprotect munmap brk rt_sigaction
rt_sigprocmask ioctl poll ppoll select pselect6 epoll_wait epoll_ctl epoll_create1 socket accept4
accept bind listen getsockname getpeername setsockopt getsockopt sendto recvfrom sendmsg recvmsg
shutdown connect clone clone3 set_robust_list rseq futex exit exit_group getpid gettid openat
getdents64 madvise clock_gettime sched_yield getrandom fcntl pread64 sysinfo sched_getaffinity uname
tgkill clock_nanosleep nanosleep restart_syscall
'''.split()

class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        try:
            os.nice(0)
            told = "nice was allowed"
        except PermissionError:
            told = f"{sum(kept.values())} {threading.active_count() > 1}"
        body = told.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
    def log_message(self, *args): pass

kept = {n: n * n for n in range(20000)}
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
threading.Thread(target=threading.Event().wait, daemon=True).start()
filter = scmp.seccomp_init(0x50000 | errno.EPERM)
scmp.seccomp_attr_set(ctypes.c_void_p(filter), 4, 1)  # SCMP_FLTATR_CTL_TSYNC
for name in ALLOWED:
    number = scmp.seccomp_syscall_resolve_name(name.encode())
    if scmp.seccomp_rule_add(filter, 0x7FFF0000, number, 0): raise SystemExit(name)
if scmp.seccomp_load(filter): raise SystemExit("seccomp_load")
print(server.server_address[1], flush=True)
server.serve_forever()
"""
ANSWER = f"{sum(n * n for n in range(20000))} True"

# Runs the rest of the command line under a filter that allows everything.
UNDER_FILTER = """
import ctypes, os, struct, sys
code = ctypes.create_string_buffer(struct.pack("<HBBI", 6, 0, 0, 0x7FFF0000), 8)
table = ctypes.create_string_buffer(struct.pack("<HxxxxxxQ", 1, ctypes.addressof(code)), 16)
libc = ctypes.CDLL(None)
libc.prctl(38, 1, 0, 0, 0)
assert libc.prctl(22, 2, table) == 0
os.execv(sys.argv[1], sys.argv[1:])
"""


@pytest.fixture
def service(tmp_path: Path) -> Iterator[tuple[int, int]]:
    """PID and port of the service."""
    if ctypes.util.find_library("seccomp") is None:
        pytest.skip("libseccomp is not installed")
    told = tmp_path / "told"
    with told.open("wb") as out:
        child = subprocess.Popen(
            [sys.executable, "-c", SERVICE],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
    try:
        wait_until(
            lambda: told.read_text().endswith("\n") or child.poll() is not None, "the service to listen"
        )
        assert child.poll() is None, told.read_text()
        yield child.pid, int(told.read_text())
    finally:
        child.kill()
        child.wait()


def ask(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=20) as reply:
        return bytes(reply.read()).decode()


def filters(pid: int) -> list[seccomp.Seccomp]:
    with seize(pid) as tracee:
        return [seccomp.capture(thread) for thread in tracee.threads]


def test_service(restorer: Restorer, service: tuple[int, int]) -> None:
    pid, port = service
    assert ask(port) == ANSWER
    before = set(filters(pid))
    restorer.checkpoint(pid, "image", "-R")
    assert ask(port) == ANSWER
    restorer.checkpoint(pid, "image2")
    os.waitpid(pid, 0)
    for _ in range(2):
        restored = restorer.restore("image2")
        try:
            assert ask(port) == ANSWER
            restored.wait_loaded()
            # As a set: the thread that has just answered may not have ended yet.
            assert set(filters(restored.pid)) == before
            assert ask(port) == ANSWER
        finally:
            kill_all([restored.pid])


def test_flags_and_order(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("seccomp")
    before = filters(started.pid)
    assert any(one.log for state in before for one in state.filters)
    restorer.checkpoint(started.pid)
    started.reap()
    restored: Restored = restorer.restore()
    restored.wait_loaded()
    assert filters(restored.pid) == before
    kill_all([restored.pid])


def test_commands_under_a_filter(restorer: Restorer, program: Callable[[str], Program]) -> None:
    prefix = (sys.executable, "-c", UNDER_FILTER)
    started = program("seccomp")
    message = restorer.fails("checkpoint", started.pid, "image", prefix=prefix)
    assert f"thread {started.pid} runs under seccomp, which only CAP_SYS_ADMIN can suspend" in message
    restorer.checkpoint(started.pid)
    started.reap()
    message = restorer.fails("restore", "image", "-d", code=125, prefix=prefix)
    assert f"process {started.pid} had seccomp filters: to restore them needs CAP_SYS_ADMIN" in message
    assert not Path(f"/proc/{started.pid}").exists()
