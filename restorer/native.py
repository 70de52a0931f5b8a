# SPDX-License-Identifier: Apache-2.0
"""The tracer's C functions, the structures of wire.h, and the one place where their errors get words.

    err = new_error()
    check(lib.tr_interrupt(tid, err), err)

`lib.WR_OP_SYSCALL` and the like are the constants of wire.h.
"""

from __future__ import annotations

import errno
import os
import signal
from typing import Any

from restorer.errors import FeatureError, PrivilegeError, ProcessError, RestorerError

try:
    from restorer._native import ffi as _ffi
    from restorer._native import lib as _lib
except ImportError as error:
    raise FeatureError(
        f"restorer's native part is not built ({error})", "run `make build`, or `pip install .` again"
    ) from None

__all__ = [
    "check",
    "ffi",
    "kcmp",
    "lib",
    "new_error",
    "offset_of",
    "pidfd_getfd",
    "pidfd_open",
    "pidfd_send_signal",
    "share_memory",
    "size_of",
]

ffi: Any = _ffi
lib: Any = _lib

_KCMP_VM = 1


def new_error() -> Any:
    """A `struct tr_error *` for a call of the tracer; `check` reads it."""
    return ffi.new("struct tr_error *")


def check(rc: int, err: Any) -> int:
    """Returns `rc`, or raises the RestorerError that fits `err` when it is negative."""
    if rc < 0:
        raise _translate(int(err.code), ffi.string(err.call).decode(), int(err.object))
    return rc


def _translate(code: int, call: str, target: int) -> RestorerError:
    # `object` is a thread's id or an address: the call tells which.
    is_address = call in _ON_ADDRESSES
    where = f"{target:#x}" if is_address else f"thread {target}"
    reason = os.strerror(code)
    if code == errno.ESRCH:
        return ProcessError("the process has ended" if is_address else f"process {target} has ended")
    if code in (errno.EPERM, errno.EACCES):
        return PrivilegeError(f"{call} on {where}: {reason}", "run as root, or with CAP_SYS_PTRACE")
    if code == errno.ENOSYS:
        return FeatureError(f"this kernel has no {call}", "`restorer check` says what else it lacks")
    return RestorerError(f"{call} on {where}: {reason}")


_ON_ADDRESSES = frozenset(
    {"process_vm_readv", "process_vm_writev", "read of /proc/PID/mem", "write of /proc/PID/mem"}
)


def size_of(name: str) -> int:
    """Bytes of a C type, `size_of("struct wr_op")`."""
    return int(ffi.sizeof(name))


def offset_of(name: str, *fields: str | int) -> int:
    """Offset in bytes of a field, `offset_of("struct wr_op", "args", 2)`."""
    return int(ffi.offsetof(name, *fields))


def kcmp(pid1: int, pid2: int, kind: int, idx1: int, idx2: int) -> int:
    """kcmp(2): 0 when both tasks share the object, 1 or 2 for an order between unequal ones.

    Raises OSError: EBADF for an fd that is not open, ESRCH for a task that has gone.
    """
    return _os_result(lib.tr_kcmp(pid1, pid2, kind, idx1, idx2))


def share_memory(one: int, other: int) -> bool:
    """Whether two tasks have one address space; not so for those that have gone or may not be looked into."""
    try:
        return kcmp(one, other, _KCMP_VM, 0, 0) == 0
    except (ProcessLookupError, PermissionError):
        return False


def pidfd_open(pid: int) -> int:
    """A pidfd, close-on-exec; the caller closes it. Raises ProcessError if there is no such process."""
    try:
        return os.pidfd_open(pid, 0)
    except ProcessLookupError:
        raise ProcessError(f"process {pid} has ended") from None


def pidfd_getfd(pidfd: int, fd: int) -> int:
    """A close-on-exec duplicate of another process's `fd`; the caller closes it. Raises OSError."""
    return _os_result(lib.tr_pidfd_getfd(pidfd, fd))


def pidfd_send_signal(pidfd: int, number: int) -> None:
    """Sends a signal to the process of a pidfd. Raises OSError: ProcessLookupError once it has gone."""
    signal.pidfd_send_signal(pidfd, number)


def _os_result(result: int) -> int:
    if result < 0:
        raise OSError(-result, os.strerror(-result))
    return result
