# SPDX-License-Identifier: Apache-2.0
"""Eight C threads with mutexes, condition variables, TLS and vector registers, checking themselves."""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from images import AnswerError, Recipe, free_port


class Threads(Recipe):
    name: ClassVar[str] = "threads"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.failure = workdir / "failure"

    def start(self) -> subprocess.Popen[bytes]:
        program = self.workdir / "threads"
        source = Path(__file__).with_name("threads.c")
        if not program.exists():
            flags = ["-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-pthread"]
            subprocess.run([os.environ.get("CC", "cc"), *flags, "-o", program, source], check=True)
        self.port = free_port()
        return self.spawn(program, str(self.port), self.failure)

    def first_request(self, timeout_s: float = 30.0) -> None:
        self.counters(time.monotonic() + timeout_s)

    def check(self) -> None:
        """Every thread gets on, and none has found anything wrong."""
        deadline = time.monotonic() + 30
        before = self.counters(deadline)
        while not all(new > old for new, old in zip(self.counters(deadline), before, strict=True)):
            if time.monotonic() > deadline:
                raise AnswerError(f"threads stand still: {before}, {self.counters(deadline + 1)}")
            time.sleep(0.01)

    def counters(self, deadline: float) -> list[int]:
        """How far each thread has come; asked until somebody answers or `deadline` (monotonic) has passed."""
        while True:
            self._raise_failure()
            try:
                line = self._ask(max(deadline - time.monotonic(), 0.001))
                break
            except OSError as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"threads: no answer on port {self.port}") from error
            time.sleep(0.0002)
        word, *numbers = line.split()
        if word != "alive" or len(numbers) != 8:
            raise AnswerError(f"threads said {line!r}")
        return [int(number) for number in numbers]

    def _raise_failure(self) -> None:
        if self.failure.exists():
            raise AnswerError(self.failure.read_text().strip())

    def _ask(self, timeout_s: float) -> str:
        with socket.create_connection(("127.0.0.1", self.port), timeout=timeout_s) as connection:
            line = b""
            while block := connection.recv(4096):
                line += block
        if not line:
            raise ConnectionResetError("no line")
        return line.decode()


RECIPE = Threads
