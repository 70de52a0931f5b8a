# SPDX-License-Identifier: Apache-2.0
"""What live tests are made of: the command line under test, tiny programs, processes that never stay behind.

A test process makes itself a child subreaper: whatever a restore leaves running becomes its descendant, so
that `descendants` sees it and `kill_all` ends it, by pidfd, whoever started it.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import json
import os
import select
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from tests.live.commands import commands

ROOT = Path(__file__).resolve().parents[2]
BIN = Path(os.environ.get("RESTORER_BIN", ROOT / ".venv" / "bin"))
PROGRAMS = ROOT / "tests" / "programs"

# What the programs of tests/programs need to be checkpointed.
CHECKPOINT_OPTIONS = {"tcp_inside": ("--tcp", "established")}
# How many huge pages of hugetlbfs they need, of which size in KiB. alone("hugetlb") keeps them off each
# other's.
HUGE_PAGES = {
    "hugetlb": (16, 2048),
    "hugetlb_files": (7, 2048),
    "hugetlb_gigantic": (1, 1048576),
    "hugetlb_sysv": (3, 2048),
}
POLL_S = 0.005
READY_TIMEOUT_S = 60.0
WORKDIR_PREFIX = "restorer-test-"
_PR_SET_CHILD_SUBREAPER = 36
_SYS_KCMP = 312
_KCMP_VM = 1
_MNT_DETACH = 2
_CLONE_NEWNS, _CLONE_NEWIPC = 0x20000, 0x8000000
_MS_REC, _MS_PRIVATE = 0x4000, 1 << 18
# Forks into a PID by clone3, and ends with the child.
_OCCUPY = """
import ctypes, os, signal, struct, sys
pid = ctypes.c_int(int(sys.argv[1]))
args = struct.pack("<11Q", 0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, ctypes.addressof(pid), 1, 0)
made = ctypes.PyDLL(None).syscall(435, args, len(args))
if made == 0:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)
    signal.pause()
if made > 0:
    os.write(1, b"taken")
    os.waitpid(made, 0)
"""
_SCRIPT = f"""#!{sys.executable} -IS
import ctypes, os, socket, sys, time
os.chdir(sys.argv[1])
LINES
open("ready", "w").close()
while not os.path.exists("go"):
    time.sleep(0.01)
open("draft", "w").write(finish() + "\\n")
os.rename("draft", "result")
"""
_libc = ctypes.CDLL(None, use_errno=True)


def every_fault() -> tuple[int, int] | None:
    """RESTORER_FAULTS, as the first fault to try, from 1 on, and how far it is to the next: "all", or "3/40",
    the third of forty parts. None when some are enough.
    """
    wanted = os.environ.get("RESTORER_FAULTS", "")
    if not wanted:
        return None
    first, _, parts = wanted.replace("all", "1/1").partition("/")
    return int(first), int(parts)


def become_subreaper() -> None:
    """Orphans below this process become its children from now on."""
    if _libc.prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0):
        raise OSError(ctypes.get_errno(), "PR_SET_CHILD_SUBREAPER")


def leave_others() -> None:
    """What this process and its children mount, or make of System V and POSIX IPC, is seen by nobody else
    from now on, and they see nothing of others. A checkpoint refuses a copy in a mount namespace of its own
    once other mounts have come; and a test tells by what there is whether a restore has left something.
    """
    if os.geteuid() == 0 and (
        _libc.unshare(_CLONE_NEWNS | _CLONE_NEWIPC)
        or _libc.mount(None, b"/", None, _MS_REC | _MS_PRIVATE, None)
    ):
        raise OSError(ctypes.get_errno(), "namespaces for the tests")


def wait_until(condition: Callable[[], bool], what: str, timeout_s: float = 20.0) -> None:
    """Polls until `condition()`; AssertionError naming `what` after `timeout_s`."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, f"waited {timeout_s:g} s for {what}"
        time.sleep(POLL_S)


def children(pid: int) -> list[int]:
    """PIDs of the children of `pid`, zombies included; none when it has gone."""
    found: list[int] = []
    with suppress(FileNotFoundError, ProcessLookupError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            with suppress(FileNotFoundError, ProcessLookupError):
                found += [int(word) for word in (task / "children").read_text().split()]
    return found


def descendants(pid: int) -> list[int]:
    """PIDs of all processes below `pid`."""
    found = children(pid)
    for child in list(found):
        found += descendants(child)
    return found


def status(pid: int, field: str) -> str:
    """One field of /proc/PID/status, "" when the process has gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/status").read_text().splitlines():
            if line.startswith(field + ":"):
                return line.partition(":")[2].strip()
    return ""


def is_running(pid: int) -> bool:
    """Whether `pid` is there and no zombie."""
    return status(pid, "State")[:1] not in ("", "Z", "X")


def parent(pid: int) -> int:
    return int(status(pid, "PPid") or 0)


def sharers(pid: int) -> list[int]:
    """Our descendants, other than `pid`, that share its address space: pager and keeper, while they last."""
    return [
        other
        for other in descendants(os.getpid())
        if other != pid and _libc.syscall(_SYS_KCMP, pid, other, _KCMP_VM, 0, 0) == 0
    ]


def pagers(pid: int) -> list[int]:
    return [other for other in sharers(pid) if _name(other) == "restorer-pager"]


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().rstrip()
    except OSError:
        return ""


def read_memory(pid: int, addr: int, count: int) -> bytes:
    """By process_vm_readv(2), which waits for missing pages, as /proc/PID/mem does not."""
    content = ctypes.create_string_buffer(count)
    here, there = struct.pack("QQ", ctypes.addressof(content), count), struct.pack("QQ", addr, count)
    assert _libc.process_vm_readv(pid, here, 1, there, 1, 0) == count
    return content.raw


def kill_all(pids: list[int]) -> None:
    """SIGKILL to each and wait until all have gone; children are reaped.

    All are killed first: the init of a PID namespace ends only when its processes have been reaped, by us.
    """
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not still_running(pids), f"the end of {pids}", 20.0)


def still_running(pids: list[int]) -> list[int]:
    """Those of `pids` that have not ended; children that have are reaped."""
    return [pid for pid in pids if _still_there(pid)]


def _still_there(pid: int) -> bool:
    with suppress(ChildProcessError):
        return os.waitpid(pid, os.WNOHANG) == (0, 0)
    # A launcher reaps its child, or leaves it to us when it goes.
    return is_running(pid) or status(parent(pid), "Name") == "restorer-launch"


def kill_all_but(spared: set[int]) -> None:
    """Ends and reaps all our descendants but those; whom they leave to us when they end, too."""
    while left := [pid for pid in descendants(os.getpid()) if pid not in spared]:
        kill_all(left)


@contextmanager
def occupied(pid: int) -> Iterator[None]:
    """Some process has this PID, which must be free.

    By set_tid, clone3(2): writing ns_last_pid would lead whoever forks meanwhile to the PIDs after it, which
    other tests are about to restore.
    """
    command = [sys.executable, "-I", "-S", "-c", _OCCUPY, str(pid)]
    with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None and parent.stdout.read(5) == b"taken", f"PID {pid} is not free"
        try:
            yield
        finally:
            os.kill(pid, signal.SIGKILL)


@dataclass(frozen=True)
class Restored:
    """A tree that `restore -d` has brought back."""

    pid: int
    resume_ms: float
    pidfd: int

    @property
    def launcher(self) -> int:
        """PID of the launcher, while it is the parent."""
        return parent(self.pid)

    def wait_gone(self, timeout_s: float = 20.0) -> None:
        assert select.select([self.pidfd], [], [], timeout_s)[0], f"restored process {self.pid} still runs"

    def wait_loaded(self, timeout_s: float = 60.0) -> None:
        """Until nothing is missing any more and the launcher has left."""
        wait_until(lambda: self.launcher == os.getpid(), "all memory to be loaded", timeout_s)

    @property
    def gone(self) -> bool:
        return bool(select.select([self.pidfd], [], [], 0)[0])


class Restorer:
    """The command line under test, with one store. `installed`: each command by the installed script."""

    def __init__(self, store: Path, *, installed: bool = "RESTORER_BIN" in os.environ) -> None:
        self.store = store
        self.installed = installed

    def command(self, verb: str, *arguments: object, store: Path | None = None) -> list[str]:
        return [str(BIN / "restorer"), verb, *map(str, arguments), "--store", str(store or self.store)]

    def run(
        self,
        verb: str,
        *arguments: object,
        timeout_s: float = 120.0,
        store: Path | None = None,
        prefix: tuple[str, ...] = (),
    ) -> subprocess.CompletedProcess[str]:
        """The finished command, whatever its exit code; no traceback in what it says."""
        command = [*prefix, *self.command(verb, *arguments, store=store)]
        if self.installed or prefix or verb == "restore":
            done = subprocess.run(
                command,
                timeout=timeout_s,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
        else:
            done = commands().run(command[1:], timeout_s)
        assert "Traceback" not in done.stderr, done.stderr
        return done

    def ok(self, verb: str, *arguments: object, timeout_s: float = 120.0) -> str:
        """stdout of a command that has to succeed."""
        done = self.run(verb, *arguments, timeout_s=timeout_s)
        assert done.returncode == 0, f"{verb} exited with {done.returncode}: {done.stderr}{done.stdout}"
        return done.stdout

    def fails(
        self,
        verb: str,
        *arguments: object,
        code: int = 1,
        store: Path | None = None,
        prefix: tuple[str, ...] = (),
    ) -> str:
        """The one-line message of a command that has to fail with `code`."""
        done = self.run(verb, *arguments, store=store, prefix=prefix)
        assert done.returncode == code, f"{verb} exited with {done.returncode}: {done.stderr}{done.stdout}"
        message = done.stderr.strip()
        assert message and "\n" not in message, f"not one line: {done.stderr!r}"
        return message

    def checkpoint(self, pid: int, name: str = "image", *arguments: object) -> None:
        self.ok("checkpoint", pid, name, *arguments)

    def take(self, started: Program) -> Program:
        """The program, in the store as `image`, and killed."""
        self.checkpoint(started.pid)
        started.reap()
        return started

    def restore(self, name: str = "image", *arguments: object) -> Restored:
        """A tree restored in the background; it lives on until somebody ends it."""
        # A file, not a pipe: who restores must not hold our pipe open for as long as the tree lives.
        report = json.loads(self.ok("restore", name, "-d", "--json", *arguments))
        return Restored(report["pid"], report["resume_ms"], os.pidfd_open(report["pid"]))

    @contextmanager
    def foreground(
        self, name: str, *arguments: object, **streams: object
    ) -> Iterator[subprocess.Popen[bytes]]:
        """A restore in the foreground, killed at the end if it still runs."""
        command = self.command("restore", name, *arguments)
        process = subprocess.Popen(command, start_new_session=True, **streams)  # type: ignore[call-overload]
        try:
            yield process
        finally:
            process.kill()
            process.wait()


class Program:
    """One of tests/programs: sets state up, waits for `go`, looks whether the state is still what it was."""

    def __init__(self, name: str, executable: Path, workdir: Path) -> None:
        self.name = name
        self.executable = executable
        self.workdir = workdir
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    def start(self) -> None:
        """Runs until it is ready. Its stdio is /dev/null."""
        self.process = subprocess.Popen(
            [self.executable, self.workdir],
            start_new_session=True,
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        ready = self.workdir / "ready"
        # Long, since restorer has no part in it: the kernel clears a page of 1 GiB, which takes 20 s on a
        # machine that has other work to do and whose host has to find the memory.
        wait_until(lambda: ready.exists() or self.ended, f"{self.name} to be ready", READY_TIMEOUT_S)
        assert ready.exists(), f"{self.name} ended before it was ready: {self.outcome()}"

    @property
    def ended(self) -> bool:
        return self.process is not None and self.process.poll() is not None

    def outcome(self) -> str:
        """What it has found, "" when it has not looked yet."""
        result = self.workdir / "result"
        return result.read_text() if result.exists() else ""

    def go(self) -> None:
        (self.workdir / "go").touch()

    def result(self, restored: Restored | None = None, timeout_s: float = 30.0) -> str:
        """What it found; fails when it (or its restored copy) dies without a word."""

        def over() -> bool:
            return (restored.gone if restored else self.ended) or self.outcome().endswith("\n")

        wait_until(over, f"{self.name} to look at its state", timeout_s)
        return self.outcome()

    def reset(self) -> None:
        """Takes `go` and `result` away, for another restore of the same image."""
        for name in ("go", "result"):
            (self.workdir / name).unlink(missing_ok=True)

    def reap(self) -> int:
        """The exit code of the program as started (-N after signal N). Its children, orphans then, are
        reaped too.
        """
        assert self.process is not None
        code = self.process.wait(20)
        for pid in children(os.getpid()):
            if status(pid, "Name") == self.name[:15] and status(pid, "State").startswith("Z"):
                os.waitpid(pid, 0)
        return code


def script(folder: Path, lines: str) -> Program:
    """A program in Python, not started yet: `lines` run in its folder and define `finish`, which gives what
    it has found.
    """
    folder.mkdir()
    path = folder / "script"
    path.write_text(_SCRIPT.replace("LINES", lines))
    path.chmod(0o755)
    return Program("script", path, folder)


def ipc_objects(folder: Path) -> list[tuple[str, int]]:
    """The System V objects, ("shm", 5), of a program that has listed them in `folder`/ipc; POSIX queues,
    ("mq", 5), and shared memory, ("file", 5), have their number in their name.
    """
    listed = folder / "ipc"
    lines = listed.read_text().splitlines() if listed.exists() else []
    return [(kind, int(number)) for kind, number in map(str.split, lines)]


def mqueue_name(number: int) -> bytes:
    return b"/restorer-test-%d" % number


def shm_file(number: int) -> Path:
    return Path(f"/dev/shm/restorer-test-{number}")


def ipc_exists(kind: str, number: int) -> bool:
    if kind == "mq":
        fd = int(_libc.mq_open(mqueue_name(number), os.O_RDONLY | os.O_CLOEXEC))
        if fd >= 0:
            os.close(fd)
        return fd >= 0
    rows = Path(f"/proc/sysvipc/{kind}").read_text().splitlines()[1:]
    return number in (int(row.split()[1]) for row in rows)


def remove_ipc(folder: Path) -> None:
    """Removes those of `ipc_objects` that are there; a segment may go by itself with the last who has it."""
    for kind, number in ipc_objects(folder):
        if kind == "mq":
            _libc.mq_unlink(mqueue_name(number))
        elif kind == "file":
            shm_file(number).unlink(missing_ok=True)
        elif ipc_exists(kind, number):
            option = {"shm": "-m", "sem": "-s", "msg": "-q"}[kind]
            subprocess.run(["ipcrm", option, str(number)], check=False, capture_output=True)


class HugePages:
    """Huge pages of hugetlbfs that are there for a test, beside those that the machine has anyway."""

    def __init__(self, size_kib: int = 2048) -> None:
        self._folder = Path(f"/sys/kernel/mm/hugepages/hugepages-{size_kib}kB")
        self._before = self._number("nr_hugepages")

    def _number(self, name: str) -> int:
        return int((self._folder / name).read_text())

    def add(self, pages: int) -> bool:
        """So many more than before the test; whether the machine has them."""
        (self._folder / "nr_hugepages").write_text(f"{self._before + pages}\n")
        return self._number("nr_hugepages") >= self._before + pages

    @property
    def free(self) -> int:
        """How many nobody has or has reserved."""
        return self._number("free_hugepages") - self._number("resv_hugepages")

    @property
    def used(self) -> int:
        """How many somebody has, or has reserved."""
        return self._number("nr_hugepages") - self.free


@contextmanager
def huge_pages(pages: int, size_kib: int = 2048) -> Iterator[HugePages]:
    """A pool that is larger by `pages` meanwhile. Raises OSError where the machine has none to give."""
    pool = HugePages(size_kib)
    try:
        if not pool.add(pages):
            raise OSError(errno.ENOMEM, f"no room for {pages} huge pages of {size_kib} KiB")
        yield pool
    finally:
        pool.add(0)


@functools.cache
def build(program: str) -> Path:
    """The executable of tests/programs/PROGRAM.c, made if older than its source."""
    command = ["make", "--no-print-directory", "-s", "-C", str(PROGRAMS), f"build/{program}"]
    # Two test processes (pytest-xdist) must not link the same file at once.
    done = subprocess.run(
        ["flock", str(PROGRAMS / "Makefile"), *command], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return PROGRAMS / "build" / program


def mounts() -> set[str]:
    """All of this process's namespace (`leave_others`), but for those inside of work folders."""
    lines = Path("/proc/self/mountinfo").read_text().splitlines()
    return {line for line in lines if f"/{WORKDIR_PREFIX}" not in line}


def unmount_below(folder: Path) -> None:
    """What programs have mounted in their work folder, and could not unmount: a restore with --pid ns has
    mounts of its own.
    """
    for line in reversed(Path("/proc/self/mountinfo").read_text().splitlines()):
        point = line.split()[4]
        if point.startswith(f"{folder}/"):
            _libc.umount2(point.encode(), _MNT_DETACH)


def missing_requirement() -> str:
    """Why live tests cannot run here, "" when they can."""
    if sys.platform != "linux" or os.uname().machine != "x86_64":
        return "live tests need x86-64 Linux"
    if os.geteuid() != 0:
        return "live tests need root"
    for name in ("restorer", "restorer-launch"):
        if not (BIN / name).exists():
            return f"{BIN / name} is missing: make build"
    done = subprocess.run([BIN / "restorer", "check"], capture_output=True, text=True, check=False)
    if done.returncode:
        return "restorer check: " + (done.stdout + done.stderr).strip().replace("\n", "; ")
    return ""
