# SPDX-License-Identifier: Apache-2.0
"""Somebody at a terminal: types, reads what is printed, resizes the window, closes it."""

from __future__ import annotations

import fcntl
import os
import re
import select
import struct
import subprocess
import termios
import time
from types import TracebackType
from typing import Self

SUSPEND, END_OF_FILE, INTERRUPT = "\x1a", "\x04", "\x03"
_TIMEOUT_S = 30.0
_COLOURS_AND_MOVES = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]|\x1b[=>]|\x1b\][^\x07]*\x07|[\x0e\x0f\r]")


class Terminal:
    """A pseudoterminal and what has been printed on it since it was last asked for."""

    def __init__(self, rows: int = 24, columns: int = 80) -> None:
        self._master, self._slave = os.openpty()
        self.name = os.ttyname(self._slave)
        self.resize(rows, columns)
        self._text = ""
        self.processes: list[subprocess.Popen[bytes]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        for fd in (self._master, self._slave):
            if fd >= 0:
                os.close(fd)

    def run(self, *command: object, **environment: str) -> subprocess.Popen[bytes]:
        """A session of its own on this terminal, which is its controlling one."""
        process = subprocess.Popen(
            [str(word) for word in command],
            stdin=self._slave,
            stdout=self._slave,
            stderr=self._slave,
            start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # noqa: PLW1509 - no threads here
            env={**os.environ, "TERM": "xterm", "HISTFILE": "/dev/null", **environment},
        )
        self.processes.append(process)
        return process

    def shell(self, prompt: str) -> subprocess.Popen[bytes]:
        """An interactive bash that says `prompt`."""
        process = self.run("/bin/bash", "--norc", "--noprofile", "-i", PS1=prompt)
        self.until(prompt)
        return process

    def resize(self, rows: int, columns: int) -> None:
        fcntl.ioctl(self._master, termios.TIOCSWINSZ, struct.pack("4H", rows, columns, 0, 0))

    def modes(self) -> list[object]:
        return termios.tcgetattr(self._slave)

    @property
    def is_raw(self) -> bool:
        """Whether keys come as they are typed, not by the line."""
        return not termios.tcgetattr(self._slave)[3] & termios.ICANON

    @property
    def foreground(self) -> int:
        """The process group that has the terminal."""
        return os.tcgetpgrp(self._master)

    def close(self) -> None:
        """The window is gone."""
        os.close(self._slave)
        os.close(self._master)
        self._master = self._slave = -1

    def type(self, text: str) -> None:
        os.write(self._master, text.encode())

    def until(self, marker: str, timeout_s: float = _TIMEOUT_S) -> str:
        """What is printed up to `marker`, and takes both away."""
        deadline = time.monotonic() + timeout_s
        while marker not in self._text:
            if not select.select([self._master], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise AssertionError(f"waited for {marker!r}, saw {self._text!r}")
            self._text += _COLOURS_AND_MOVES.sub("", os.read(self._master, 1 << 16).decode())
        before, _, self._text = self._text.partition(marker)
        return before

    def ask(self, command: str, prompt: str) -> list[str]:
        """The lines that a shell prints in answer to a command, runs of blanks as one."""
        self.type(f"{command}\n")
        lines = self.until(prompt).split("\n")[1:]
        return [" ".join(line.split()) for line in lines if line.strip()]
