# SPDX-License-Identifier: Apache-2.0
"""Runs a job in a process of its own, so that killing the command never kills a process that holds a tracee.

A traced thread that is in the middle of an injected syscall when its tracer dies runs on with the wrong
registers, and nobody can put them back. So the command that users see, and kill, is a thin parent; the worker
is in another session, ignores the terminal, and finds out by the end of its socket that the parent has gone.
It looks between its steps, where everything can be undone: `Link.check`.
"""

from __future__ import annotations

import errno
import json
import os
import select
import signal
import socket
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any, NoReturn

from restorer.errors import RestorerError

__all__ = ["Interrupted", "Link", "Progress", "run_in_worker"]

Progress = Callable[[int, int], None]
_SHORTAGES = frozenset(
    {errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOSPC, errno.EDQUOT, errno.EAGAIN, errno.EIO}
)
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Interrupted(RestorerError):
    """A signal stopped the command; everything has been undone. The exit code is 128 + its number."""

    def __init__(self, number: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name}", "nothing was changed")
        self.exit_code = 128 + number


class _Stop(Exception):
    """The parent asked for an end, or has gone."""


class Link:
    """The worker's end of the socket to its parent. `send` and `check` never block for long."""

    def __init__(self, sock: socket.socket) -> None:
        self._socket = sock
        self._stop = False

    def check(self) -> None:
        """Leave the job, by an exception it must let pass, when the parent has asked for it or is gone."""
        if self._stop:
            raise _Stop
        try:
            self._socket.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            return
        except ConnectionResetError:
            pass  # the parent died with a message of ours unread
        raise _Stop

    def request_stop(self, _number: int, _frame: FrameType | None) -> None:
        """A signal handler: the next `check` ends the job."""
        self._stop = True

    def send(self, **message: Any) -> None:
        """One JSON object to the parent; a parent that has gone is met at the next `check`."""
        try:
            self._socket.sendall(json.dumps(message).encode() + b"\n")
        except (BrokenPipeError, ConnectionResetError):
            self._stop = True

    def waiting(self, is_waiting: bool) -> None:
        """Tell whether the job waits for something it cannot be called back from, nothing being held yet."""
        self.send(waiting=is_waiting)

    def progress(self, done: int, total: int) -> None:
        """Tell how far the job is, in units of the job's choice, and `check`."""
        self.send(done=done, total=total)
        self.check()


def run_in_worker(job: Callable[[Link], dict[str, Any]], progress: Progress | None = None) -> dict[str, Any]:
    """The result of `job`, a dict of JSON values, run in a forked process.

    Raises the job's RestorerError as one with the same cause, hint and exit code, and Interrupted after
    SIGINT, SIGTERM or SIGHUP, when the worker has undone what it did. The caller must have no other threads.
    """
    ours, theirs = socket.socketpair()
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        ours.close()
        _work(job, Link(theirs))
    theirs.close()
    with ours, _forwarding(ours) as received:
        result = _listen(ours, progress, received)
        if result is None and received and not _dead(pid):
            raise Interrupted(received[0])
    status = _reap(pid)
    if result is None:
        raise Interrupted(received[0]) if received else _death(status)
    return _outcome(result, received)


def _work(job: Callable[[Link], dict[str, Any]], link: Link) -> NoReturn:
    os.setsid()
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, link.request_stop)
    try:
        link.send(result=job(link))
    except _Stop:
        link.send(stopped=True)
    except RestorerError as error:
        link.send(cause=error.cause, hint=error.hint, code=error.exit_code)
    except BaseException as error:  # whatever it is, it must reach the user as one line
        if (shortage := _shortage(error)) is not None:
            link.send(cause=shortage, hint="make room, or raise the limit; nothing was changed", code=1)
            os._exit(0)
        if os.environ.get("RESTORER_DEBUG"):
            traceback.print_exc()
        link.send(cause=f"internal error: {type(error).__name__}: {error}", hint="", code=1)
    os._exit(0)


def _shortage(error: BaseException) -> str | None:
    """What the machine has too little of, when that is what the error says."""
    if isinstance(error, MemoryError):
        return "not enough memory"
    if isinstance(error, OSError) and error.errno in _SHORTAGES:
        what = os.strerror(error.errno).lower()
        return f"{what}: {error.filename}" if error.filename else what
    return None


@contextmanager
def _forwarding(sock: socket.socket) -> Iterator[list[int]]:
    received: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        received.append(number)
        try:
            sock.send(b"stop\n", socket.MSG_NOSIGNAL | socket.MSG_DONTWAIT)
        except OSError:
            received.append(number)  # the worker has ended already: its last words are on their way

    # What the caller ignores stays ignored: SIGHUP under nohup.
    wanted = [number for number in _SIGNALS if signal.getsignal(number) != signal.SIG_IGN]
    previous = {number: signal.signal(number, forward) for number in wanted}
    try:
        yield received
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)


def _listen(sock: socket.socket, progress: Progress | None, received: list[int]) -> dict[str, Any] | None:
    """The worker's last message; None when it has none, or when it cannot be waited for."""
    is_waiting = False
    buffer = b""
    while True:
        if is_waiting and received:
            return None
        if not select.select([sock], [], [], 0.1)[0]:
            continue
        block = sock.recv(1 << 16)
        if not block:
            return None
        *lines, buffer = (buffer + block).split(b"\n")
        for line in lines:
            message: dict[str, Any] = json.loads(line)
            if "total" in message and progress is not None:
                progress(message["done"], message["total"])
            elif "waiting" in message:
                is_waiting = message["waiting"]
            elif "total" not in message:
                return message


def _dead(pid: int) -> bool:
    """Whether the child has ended; it is not reaped."""
    return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None


def _reap(pid: int) -> int:
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


def _death(code: int) -> RestorerError:
    how = f"was killed by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
    return RestorerError(f"the worker process {how}", "nothing was stored; look at the target first")


def _outcome(message: dict[str, Any], received: list[int]) -> dict[str, Any]:
    if "result" in message:
        result: dict[str, Any] = message["result"]
        return result
    if "cause" in message:
        error = RestorerError(message["cause"], message["hint"])
        error.exit_code = message["code"]
        raise error
    raise Interrupted(received[0] if received else signal.SIGTERM)
