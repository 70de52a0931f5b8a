# SPDX-License-Identifier: Apache-2.0
"""What /proc says about one process, parsed and typed.

    process = Process(1234)
    process.status.uids, process.vmas(), process.fds()

Every call reads anew. All of them raise ProcessError once the process has ended, and PrivilegeError where
the kernel does not let us look.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property

from restorer.errors import PrivilegeError, ProcessError
from restorer.maps import parse_maps
from restorer.model import Vma
from restorer.record import dataclass

__all__ = ["INFINITY", "LIMITS", "PF_KTHREAD", "Ids", "Process", "Stat", "Status"]

INFINITY = (1 << 64) - 1
"""RLIM_INFINITY, and a stat field or fault address that is not there."""

PF_KTHREAD = 0x00200000
"""include/linux/sched.h: in `Stat.flags` of a kernel thread."""

LIMITS = (
    "Max cpu time",
    "Max file size",
    "Max data size",
    "Max stack size",
    "Max core file size",
    "Max resident set",
    "Max processes",
    "Max open files",
    "Max locked memory",
    "Max address space",
    "Max file locks",
    "Max pending signals",
    "Max msgqueue size",
    "Max nice priority",
    "Max realtime priority",
    "Max realtime timeout",
)
"""The rows of /proc/PID/limits; a row's index is the RLIMIT_* number."""


@dataclass(frozen=True)
class Ids:
    """User or group ids of a task."""

    real: int
    effective: int
    saved: int
    fs: int


@dataclass(frozen=True)
class Status:
    """/proc/PID/status. `fields` has every line as text; masks are u64 with bit N-1 for signal N."""

    fields: dict[str, str]

    def number(self, key: str, default: int | None = None) -> int:
        """A decimal field. Raises KeyError when the kernel does not show it and no default is given."""
        if default is not None and key not in self.fields:
            return default
        return int(self.fields[key].split()[0])

    def mask(self, key: str) -> int:
        """A hexadecimal field."""
        return int(self.fields[key], 16)

    def _ids(self, key: str) -> Ids:
        return Ids(*(int(word) for word in self.fields[key].split()))

    @property
    def name(self) -> str:
        """The task's name, with the kernel's escapes of newline and backslash."""
        return self.fields["Name"]

    @property
    def state(self) -> str:
        """One letter: R, S, D, T, t, Z, X, I."""
        return self.fields["State"][0]

    @property
    def tgid(self) -> int:
        """The process a task belongs to."""
        return self.number("Tgid")

    @property
    def ppid(self) -> int:
        """The parent; 0 when it lives outside our PID namespace."""
        return self.number("PPid")

    @property
    def tracer(self) -> int:
        """The process that traces this one, or 0."""
        return self.number("TracerPid")

    @property
    def uids(self) -> Ids:
        """User ids."""
        return self._ids("Uid")

    @property
    def gids(self) -> Ids:
        """Group ids."""
        return self._ids("Gid")

    @property
    def groups(self) -> list[int]:
        """Supplementary groups."""
        return [int(word) for word in self.fields["Groups"].split()]

    @property
    def nspid(self) -> int:
        """The id of the task in its innermost PID namespace."""
        return int(self.fields.get("NSpid", self.fields["Pid"]).split()[-1])

    @property
    def caps(self) -> dict[str, int]:
        """Capability masks: inheritable, permitted, effective, bounding, ambient."""
        keys = {
            "inheritable": "Inh",
            "permitted": "Prm",
            "effective": "Eff",
            "bounding": "Bnd",
            "ambient": "Amb",
        }
        return {name: self.mask("Cap" + key) for name, key in keys.items()}

    @property
    def no_new_privs(self) -> bool:
        """PR_SET_NO_NEW_PRIVS."""
        return self.number("NoNewPrivs", 0) != 0

    @property
    def seccomp(self) -> int:
        """0 none, 1 strict, 2 filter."""
        return self.number("Seccomp", 0)

    @property
    def threads(self) -> int:
        """Number of threads."""
        return self.number("Threads")

    @property
    def umask(self) -> int:
        """The file mode creation mask."""
        return int(self.fields["Umask"], 8)

    @property
    def core_dumping(self) -> bool:
        """The process is writing a core dump."""
        return self.number("CoreDumping", 0) != 0

    @property
    def sig_blocked(self) -> int:
        """Blocked right now: inside ppoll and its like, the temporary mask."""
        return self.mask("SigBlk")

    @property
    def sig_caught(self) -> int:
        """Signals with a handler."""
        return self.mask("SigCgt")

    @property
    def sig_pending(self) -> int:
        """Pending for this thread."""
        return self.mask("SigPnd")

    @property
    def sig_shared_pending(self) -> int:
        """Pending for the process."""
        return self.mask("ShdPnd")


_STAT = (
    "state ppid pgrp session tty_nr tpgid flags minflt cminflt majflt cmajflt utime stime cutime cstime "
    "priority nice num_threads itrealvalue starttime vsize rss rsslim start_code end_code start_stack "
    "kstkesp kstkeip signal blocked sigignore sigcatch wchan nswap cnswap exit_signal processor rt_priority "
    "policy delayacct_blkio_ticks guest_time cguest_time start_data end_data start_brk arg_start arg_end "
    "env_start env_end exit_code"
)
_STAT_NAMES = _STAT.split()


@dataclass(frozen=True)
class Stat:
    """/proc/PID/stat by the names of proc(5). Addresses are 0 for who may not ptrace the process."""

    comm: str
    state: str
    fields: dict[str, int]

    def __getattr__(self, name: str) -> int:
        try:
            return self.fields[name]
        except KeyError:
            raise AttributeError(name) from None


@dataclass(frozen=True)
class Process:
    """One process or, with `tid`, one of its threads, by its id in our PID namespace."""

    pid: int
    tid: int = 0

    def thread(self, tid: int) -> Process:
        """The same calls for one thread: its own status, stat, comm, children, ..."""
        return Process(self.pid, tid)

    @cached_property
    def folder(self) -> str:
        """/proc/PID, or /proc/PID/task/TID."""
        return f"/proc/{self.pid}/task/{self.tid}" if self.tid else f"/proc/{self.pid}"

    @contextmanager
    def worded(self) -> Iterator[None]:
        """Inside the block, what open(2) and its kin say of a file in /proc becomes a RestorerError."""
        try:
            yield
        except (FileNotFoundError, ProcessLookupError):
            raise ProcessError(self._ended()) from None
        except PermissionError as error:
            raise PrivilegeError(
                f"{error.filename or self.folder} may not be read", "run as root, or with CAP_SYS_PTRACE"
            ) from None

    def _ended(self) -> str:
        return (
            f"thread {self.tid} of process {self.pid} has ended"
            if self.tid
            else f"process {self.pid} has ended"
        )

    def read(self, name: str) -> bytes:
        """The bytes of one file of the folder."""
        with self.worded(), open(f"{self.folder}/{name}", "rb", buffering=0) as file:
            # Unbuffered: some of these files are built anew for each read, and a large read is torn least.
            parts = []
            while part := file.read(1 << 20):
                parts.append(part)
            return b"".join(parts)

    def text(self, name: str) -> str:
        """One file of the folder, bytes that are no UTF-8 kept as os.fsdecode does."""
        return os.fsdecode(self.read(name))

    def link(self, name: str) -> str:
        """Where a symbolic link of the folder leads: "exe", "fd/3", "ns/net"."""
        with self.worded():
            return os.readlink(f"{self.folder}/{name}")

    def stat_of(self, name: str) -> os.stat_result:
        """stat(2) of what a link of the folder leads to, deleted files included."""
        with self.worded():
            return os.stat(f"{self.folder}/{name}")

    def _numbers(self, name: str) -> list[int]:
        with self.worded():
            return sorted(int(entry) for entry in os.listdir(f"{self.folder}/{name}"))

    def exists(self) -> bool:
        """Whether there is such a process, zombies included."""
        return os.path.isdir(self.folder)

    @property
    def status(self) -> Status:
        """/proc/PID/status, parsed."""
        # Split at newlines alone: a name may hold what str.splitlines takes for an end of line.
        pairs = (line.partition(":") for line in self.text("status").split("\n"))
        fields = {key: value.strip() for key, _, value in pairs}
        if "State" not in fields:
            raise ProcessError(self._ended())
        return Status(fields)

    @property
    def stat(self) -> Stat:
        """/proc/PID/stat, parsed. A name may hold spaces and parentheses: the last one ends it."""
        head, _, tail = self.text("stat").rpartition(")")
        words = tail.split()
        if not words:
            raise ProcessError(self._ended())
        numbers = {name: int(word) for name, word in zip(_STAT_NAMES[1:], words[1:], strict=False)}
        return Stat(head.partition("(")[2], words[0], numbers)

    def vmas(self) -> list[Vma]:
        """/proc/PID/smaps, with VmFlags: all mappings by address, [vsyscall] included."""
        return parse_maps(self.read("smaps"), self._map_file)

    def maps(self) -> list[Vma]:
        """/proc/PID/maps: quicker, `flags` are empty."""
        return parse_maps(self.read("maps"), self._map_file)

    def _map_file(self, start: int, end: int) -> str:
        return self.link(f"map_files/{start:x}-{end:x}")

    def limits(self) -> list[tuple[int, int]]:
        """(soft, hard) of each RLIMIT_*, by its number; INFINITY for unlimited."""
        rows = self.text("limits").split("\n")[1:]
        by_name = {
            name: row[len(name) :].split()[:2] for row in rows for name in LIMITS if row.startswith(name)
        }
        return [(_limit(by_name[name][0]), _limit(by_name[name][1])) for name in LIMITS]

    def auxv(self) -> list[tuple[int, int]]:
        """The auxiliary vector as (type, value), AT_NULL included."""
        data = self.read("auxv")
        return list(struct.iter_unpack("<QQ", data[: len(data) // 16 * 16]))

    def fds(self) -> list[int]:
        """Numbers of the open fds, ascending."""
        return self._numbers("fd")

    def fdinfo(self, fd: int) -> dict[str, str]:
        """/proc/PID/fdinfo/FD; the values of a key that comes more than once are joined by newlines."""
        result: dict[str, str] = {}
        for line in filter(None, self.text(f"fdinfo/{fd}").split("\n")):
            key, _, value = line.partition(":")
            key, value = key.strip(), value.strip()
            result[key] = f"{result[key]}\n{value}" if key in result else value
        return result

    def ns(self, kind: str) -> int:
        """The inode that names a namespace: "pid", "net", "mnt", ..."""
        return int(self.link(f"ns/{kind}").partition("[")[2].rstrip("]"))

    def tasks(self) -> list[int]:
        """Thread ids, ascending."""
        return self._numbers("task")

    def children(self) -> list[int]:
        """Children of the process, of whichever thread; of that thread alone for a thread."""
        if self.tid:
            return [int(word) for word in self.text("children").split()]
        return sorted(child for tid in self.tasks() for child in self.thread(tid).children())

    def comm(self, tid: int = 0) -> str:
        """The name of the process, or of one of its threads, exactly."""
        text = self.text(f"task/{tid}/comm" if tid else "comm")
        return text.removesuffix("\n")

    def cmdline(self) -> list[str]:
        """The arguments."""
        return [os.fsdecode(word) for word in _strings(self.read("cmdline"))]

    def environ(self) -> list[str]:
        """The environment the program was started with, "NAME=value" each."""
        return [os.fsdecode(word) for word in _strings(self.read("environ"))]

    def exe(self) -> str:
        """The path of the program's file."""
        return self.link("exe")

    def cwd(self) -> str:
        """The working directory."""
        return self.link("cwd")

    def root(self) -> str:
        """The root directory."""
        return self.link("root")

    def timers(self) -> str:
        """POSIX timers as the kernel prints them; "" for none."""
        return self.text("timers")

    def personality(self) -> int:
        """personality(2)."""
        return int(self.text("personality"), 16)

    def oom_score_adj(self) -> int:
        """-1000 to 1000."""
        return int(self.text("oom_score_adj"))

    def coredump_filter(self) -> int:
        """Which memory a core dump holds, core(5)."""
        return int(self.text("coredump_filter") or "0", 16)

    def io(self) -> dict[str, int]:
        """I/O counters, in bytes and calls."""
        pairs = (line.split(": ") for line in self.text("io").split("\n") if line)
        return {key: int(value) for key, value in pairs}


def _limit(word: str) -> int:
    return INFINITY if word == "unlimited" else int(word)


def _strings(data: bytes) -> list[bytes]:
    return data.removesuffix(b"\0").split(b"\0") if data else []
