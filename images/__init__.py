# SPDX-License-Identifier: Apache-2.0
"""Recipes: real programs with a check, for the demo, the tests and the benchmarks alike.

    with images.load("http_cache", workdir) as recipe:
        recipe.start()
        recipe.wait_ready()
        recipe.check()          # raises AnswerError when the program's own answer is wrong

What the right answers are is computed here from a seed; the program is never asked for them beforehand.
"""

from __future__ import annotations

import abc
import importlib
import os
import socket
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Self

__all__ = [
    "NAMES",
    "PROGRAMS",
    "SERVICES",
    "AnswerError",
    "HttpRecipe",
    "Recipe",
    "free_port",
    "http_get",
    "load",
]

NAMES = ("http_cache", "http_numpy", "threads", "sqlite")
# Those of images/installed.py: services, and what is restored in the foreground.
SERVICES = ("memcached", "node", "java", "redis", "nginx", "postgres", "pool")
FOREGROUND = ("make",)
PROGRAMS = (*SERVICES, *FOREGROUND)


class AnswerError(AssertionError):
    """The program answered, and the answer is wrong."""


class Recipe(abc.ABC):
    """A program that can be started, waited for and asked.

    `check` and `first_request` work on the program as started and on what was restored from its image:
    for a restored copy, set `port` (services) or call `attach` (programs driven through a pipe) first.
    """

    name: ClassVar[str]
    foreground: ClassVar[bool] = False  # restored in the foreground: stdin and stdout are its channel
    ready_timeout_s: ClassVar[float] = 180.0

    def __init__(self, workdir: Path) -> None:
        self.workdir = workdir
        self.port = 0
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def pid(self) -> int:
        """PID of the program as started."""
        if self.process is None:
            raise RuntimeError(f"{self.name} has not been started")
        return self.process.pid

    @abc.abstractmethod
    def start(self) -> subprocess.Popen[bytes]:
        """Start the program in a session of its own; it is not ready yet."""

    @abc.abstractmethod
    def first_request(self, timeout_s: float = 30.0) -> None:
        """Ask one small thing, as often as it takes to be answered, and compare the answer."""

    @abc.abstractmethod
    def check(self) -> None:
        """Ask about all of the program's state. AnswerError when an answer is wrong."""

    def wait_ready(self) -> None:
        """Return once the program is fully set up. TimeoutError after `ready_timeout_s`."""
        self.first_request(self.ready_timeout_s)

    def attach(self, process: subprocess.Popen[bytes]) -> None:
        """From now on talk to this process, a `restorer restore` in the foreground."""
        self.process = process

    def stop(self) -> None:
        """Kill and reap the program as started; harmless when it has gone."""
        if self.process is None:
            return
        self.process.kill()
        self.process.wait()
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:
                    pass  # bytes the dead program never read
        self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def spawn(
        self, *command: str | Path, env: dict[str, str] | None = None, piped: bool = False
    ) -> subprocess.Popen[bytes]:
        """Start `command` in the work folder, stdin and stdout leading to us if `piped`, else nowhere."""
        channel = subprocess.PIPE if piped else subprocess.DEVNULL
        self.process = subprocess.Popen(
            [os.fspath(part) for part in command],
            cwd=self.workdir,
            start_new_session=True,
            stdin=channel,
            stdout=channel,
            stderr=subprocess.DEVNULL,
            env={**os.environ, **(env or {})},
        )
        return self.process


class HttpRecipe(Recipe):
    """A service that listens on 127.0.0.1:`port` and speaks HTTP/1.0 (one request a connection)."""

    probe: ClassVar[str]  # the path that first_request asks for

    def spawn_module(self, module: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start one of our own modules with the interpreter this runs in."""
        root = os.fspath(Path(__file__).resolve().parent.parent)
        return self.spawn(sys.executable, "-m", module, *arguments, env={"PYTHONPATH": root})

    def get(self, path: str, timeout_s: float = 60.0) -> bytes:
        return http_get(self.port, path, timeout_s)

    def first_request(self, timeout_s: float = 30.0) -> None:
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                answer = self.get(self.probe, max(deadline - time.monotonic(), 0.001))
                break
            except (ConnectionError, TimeoutError) as error:
                self._give_up_if_dead(deadline, error)
            time.sleep(0.0002)
        self.compare_probe(answer)

    def _give_up_if_dead(self, deadline: float, error: OSError) -> None:
        if time.monotonic() > deadline:
            raise TimeoutError(f"{self.name}: no answer on port {self.port}") from error

    @abc.abstractmethod
    def compare_probe(self, answer: bytes) -> None:
        """AnswerError when `answer` is not the right one to `probe`."""


def http_get(port: int, path: str, timeout_s: float) -> bytes:
    """The body of a 200 answer; AnswerError for another status or a cut body, OSError without an answer.

    http.client is not used: it would be most of what a benchmark of the first reply measures.
    """
    with socket.create_connection(("127.0.0.1", port), timeout=timeout_s) as connection:
        connection.sendall(f"GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n".encode())
        answer = b""
        while block := connection.recv(1 << 16):
            answer += block
    if not answer:
        raise ConnectionResetError(f"port {port} closed the connection without an answer")
    head, _, body = answer.partition(b"\r\n\r\n")
    status = head.partition(b"\r\n")[0]
    if b" 200 " not in status + b" ":
        raise AnswerError(f"GET {path}: {status.decode(errors='replace')}")
    return body


def free_port() -> int:
    """A TCP port of 127.0.0.1 that nobody listens on at this moment.

    Taken below the range the kernel gives to connections, so that none of them takes it meanwhile.
    """
    low = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    first = min(20000, low - 1000)
    for _ in range(200):
        port = first + int.from_bytes(os.urandom(4), "little") % (low - first)
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        return port
    raise OSError("no free TCP port found")


def load(name: str, workdir: Path) -> Recipe:
    """The recipe `name` with its files in `workdir`, which exists. KeyError for an unknown name."""
    if name not in (*NAMES, *PROGRAMS):
        raise KeyError(name)
    recipe = importlib.import_module(f"images.{name}.recipe").RECIPE(workdir)
    assert isinstance(recipe, Recipe)
    return recipe
