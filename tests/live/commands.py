# SPDX-License-Identifier: Apache-2.0
"""Runs commands of restorer in forks of one process that has imported all of it.

Before a checkpoint of a tiny program begins, a Python that has just been started has taken four times as
long as the checkpoint will, and live tests take a thousand of them.

    python -m tests.live.commands FD

serves a socket (SOCK_SEQPACKET). A request is {"arguments", "cwd", "environ"} with two descriptors, stdout
and stderr; the answers are {"pid"} and {"code"}, as subprocess.Popen has it.
"""

from __future__ import annotations

import atexit
import functools
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOM_BYTES = 1 << 17


class Commands:
    """The client. One command at a time."""

    def __init__(self) -> None:
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            command = [sys.executable, "-m", "tests.live.commands", str(theirs.fileno())]
            self._server = subprocess.Popen(
                command,
                cwd=Path(__file__).resolve().parents[2],
                stdin=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
            )
        atexit.register(self.close)

    def close(self) -> None:
        """The server ends with the socket."""
        self._socket.close()
        self._server.wait()

    def run(self, arguments: list[str], timeout_s: float) -> subprocess.CompletedProcess[str]:
        """As subprocess.run(["restorer", *arguments]) would, with nothing to read on stdin."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            request = {"arguments": arguments, "cwd": os.getcwd(), "environ": dict(os.environ)}
            socket.send_fds(self._socket, [json.dumps(request).encode()], [out.fileno(), err.fileno()])
            pid = self._answer()["pid"]
            late = not select.select([self._socket], [], [], timeout_s)[0]
            if late:
                os.kill(pid, signal.SIGKILL)
            code = self._answer()["code"]
            out.seek(0)
            err.seek(0)
            said = (out.read().decode(), err.read().decode())
        if late:
            raise subprocess.TimeoutExpired(arguments, timeout_s, *said)
        return subprocess.CompletedProcess(arguments, code, *said)

    def _answer(self) -> Any:
        return json.loads(self._socket.recv(ROOM_BYTES))


@functools.cache
def commands() -> Commands:
    """Those of this process."""
    return Commands()


def serve(requests: socket.socket) -> dict[str, Any] | None:
    """Returns in a child for each request, with it; at the end with None."""
    while True:
        data, files, _, _ = socket.recv_fds(requests, ROOM_BYTES, 2)
        if not data:
            return None
        pid = os.fork()
        if pid == 0:
            requests.close()
            for file, number in zip(files, (1, 2), strict=True):
                os.dup2(file, number)
                os.close(file)
            request: dict[str, Any] = json.loads(data)
            return request
        for file in files:
            os.close(file)
        requests.send(json.dumps({"pid": pid}).encode())
        _, status = os.waitpid(pid, 0)
        requests.send(json.dumps({"code": os.waitstatus_to_exitcode(status)}).encode())


def main() -> None:
    from restorer import __main__ as entry
    from restorer.cli import app

    for name in app.COMMANDS:
        importlib.import_module(f"restorer.cli.{name}")
    gc.freeze()
    with socket.socket(fileno=int(sys.argv[1])) as requests:
        request = serve(requests)
    if request is not None:
        os.chdir(request["cwd"])
        os.environ.clear()
        os.environ.update(request["environ"])
        sys.argv[1:] = request["arguments"]
        try:
            entry.main()
        except SystemExit as end:
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(int(end.code or 0))  # to take the interpreter apart costs more than a `list`


if __name__ == "__main__":
    main()
