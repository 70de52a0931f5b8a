# SPDX-License-Identifier: Apache-2.0
"""Recipes of programs that Debian packages: taken under load, and with the files that they write.

    with images.load("redis", workdir) as recipe:
        recipe.start()
        recipe.wait_ready()
        with recipe.busy():                                # its clients are at work
            checkpoint(recipe.pid, *recipe.options)
        recipe.keep()
        for _ in range(2):
            recipe.put_back()                              # the copy before has written to them
            restore()
            recipe.check()

`make test-images` installs what they need; without it, `missing` names the packages.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from types import TracebackType
from typing import ClassVar, Protocol, Self

from images import AnswerError, HttpRecipe, Recipe
from images.session import descendants, kill

__all__ = [
    "Clients",
    "Idle",
    "Installed",
    "InstalledHttp",
    "KeptAlive",
    "Lines",
    "Load",
    "find_tool",
    "tool",
]

# Where Debian puts what only root, or only its own wrappers, are meant to run.
_FOLDERS = ("/usr/sbin", "/sbin", "/usr/lib/postgresql/15/bin")
_RETRY_S = 0.001
_ANSWERS_EACH = 10
_BUSY_TIMEOUT_S = 60.0


def find_tool(command: str) -> str | None:
    """Where `command` is, None when it is not installed."""
    return shutil.which(command, path=os.pathsep.join((os.environ.get("PATH", os.defpath), *_FOLDERS)))


def tool(command: str) -> str:
    """Where `command` is. FileNotFoundError when it is not installed."""
    path = find_tool(command)
    if path is None:
        raise FileNotFoundError(f"{command} is not installed")
    return path


class Load(Protocol):
    """Clients that are at work."""

    def go_on(self) -> None:
        """Returns once they have got more answers. TimeoutError when they do not."""

    def errors(self) -> str:
        """What has befallen their connections so far, "" when nothing has; they may end by it."""


class Idle:
    """No clients."""

    def go_on(self) -> None:
        return

    def errors(self) -> str:
        return ""


class Installed(Recipe):
    """A program of Debian. `needs` are commands and the packages that bring them."""

    needs: ClassVar[dict[str, str]]
    options: ClassVar[tuple[str, ...]] = ()  # of the checkpoint
    processes: ClassVar[int] = 1  # at the least, when it is taken
    end_signal: ClassVar[int] = 15  # ends it in good order

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self._copies: list[tuple[Path, Path]] = []

    @classmethod
    def missing(cls) -> list[str]:
        """The packages to install first."""
        return sorted({package for command, package in cls.needs.items() if find_tool(command) is None})

    def busy(self) -> AbstractContextManager[Load]:
        """While this is entered clients are at work, and they are when it has been. What they find wrong is
        raised at the end.
        """
        return nullcontext(Idle())

    def save(self) -> None:
        """Before a cold start is measured: writes to disk what such a program reads when it starts."""

    def kept(self) -> list[Path]:
        """Files and folders that the program writes to, which must be as they were when it is restored."""
        return []

    def keep(self) -> None:
        """Copies what `kept` names; the program has been ended, so that it is of the checkpoint's moment."""
        self._copies = [(path, self.workdir / f"kept-{number}") for number, path in enumerate(self.kept())]
        for path, copy in self._copies:
            _copy(path, copy)

    def put_back(self) -> None:
        """Puts all that back, and takes away what has come since."""
        for path, copy in self._copies:
            _copy(copy, path)

    def ask(self, command: str, *arguments: str, timeout_s: float = 60.0) -> str:
        """What a client prints, stripped. ConnectionError with its words when it fails."""
        done = subprocess.run(
            [tool(command), *arguments],
            cwd=self.workdir,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout_s,
            check=False,
        )
        if done.returncode:
            raise ConnectionError(f"{command}: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout.strip()

    def until_answered(self, ask: Callable[[], None], timeout_s: float) -> None:
        """Ask until somebody answers. TimeoutError with the last error when nobody does."""
        deadline = time.monotonic() + timeout_s
        while True:
            try:
                ask()
                return
            except (OSError, EOFError) as error:
                if time.monotonic() > deadline:
                    raise TimeoutError(f"{self.name}: no answer: {error}") from error
            time.sleep(_RETRY_S)

    def stop(self) -> None:
        """Kill and reap the program as started, and all below it; harmless when they have gone."""
        below = [] if self.process is None else descendants(self.process.pid)
        super().stop()
        for pid in below:
            kill(pid)


class InstalledHttp(Installed, HttpRecipe):
    """A web server, asked by four clients while it is taken, each over one connection."""

    options = ("--tcp", "close")

    def busy(self) -> AbstractContextManager[Load]:
        return Clients(self._client)

    def _client(self) -> Callable[[], None]:
        server = KeptAlive(self.port)
        return lambda: self.compare_probe(server.get(self.probe))


class Clients:
    """Threads that ask without a pause: each connects by `connect()`, which gives the question to ask, and
    connects anew when the connection has gone. AnswerError at the end if one got a wrong answer.
    """

    def __init__(self, connect: Callable[[], Callable[[], None]], count: int = 4) -> None:
        self._connect = connect
        self._stop = threading.Event()
        self._answers = [0] * count
        self._wrong: list[AnswerError] = []
        self._errors: list[str] = []
        self._threads = [threading.Thread(target=self._run, args=(number,)) for number in range(count)]

    def errors(self) -> str:
        """Of connections that ended, or were not taken."""
        return "; ".join(self._errors)

    def go_on(self) -> None:
        before, deadline = list(self._answers), time.monotonic() + _BUSY_TIMEOUT_S
        while min(self._answers_since(before)) < _ANSWERS_EACH and not self._wrong:
            if time.monotonic() > deadline:
                raise TimeoutError(f"clients have got only {self._answers_since(before)} more answers")
            time.sleep(_RETRY_S)

    def _answers_since(self, before: list[int]) -> list[int]:
        return [now - then for now, then in zip(self._answers, before, strict=True)]

    def __enter__(self) -> Self:
        for thread in self._threads:
            thread.start()
        try:
            self.go_on()
        except TimeoutError:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()
        if self._wrong and error is None:
            raise self._wrong[0]

    def _end(self) -> None:
        self._stop.set()
        for thread in self._threads:
            thread.join()

    def _run(self, number: int) -> None:
        while not self._stop.is_set():
            try:
                question = self._connect()
                while not self._stop.is_set():
                    question()
                    self._answers[number] += 1
            except AnswerError as error:
                self._wrong.append(error)
                return
            except (OSError, EOFError) as error:
                self._errors.append(str(error))
                self._stop.wait(_RETRY_S)


class Lines:
    """A connection that is spoken to in lines; patient for as long as a checkpoint and a restore take."""

    def __init__(self, port: int, timeout_s: float = 60.0) -> None:
        self._socket = socket.create_connection(("127.0.0.1", port), timeout=timeout_s)
        self._file = self._socket.makefile("rb")

    def send(self, data: bytes) -> None:
        self._socket.sendall(data)

    def line(self) -> bytes:
        """The next line without its end. EOFError when the connection ends before it does."""
        line = self._file.readline()
        if not line.endswith(b"\r\n"):
            raise EOFError("the connection has been closed")
        return line[:-2]

    def block(self, length: int) -> bytes:
        """The next `length` bytes and the line end after them, which is left out."""
        return self.take(length + 2)[:-2]

    def take(self, length: int) -> bytes:
        """The next `length` bytes. EOFError when the connection ends before."""
        data = self._file.read(length)
        if len(data) != length:
            raise EOFError("the connection has been closed")
        return data

    def close(self) -> None:
        self._file.close()
        self._socket.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class KeptAlive(Lines):
    """An HTTP/1.1 connection for any number of requests."""

    def get(self, path: str) -> bytes:
        """The body of a 200 answer. AnswerError for another status, EOFError when the connection ends."""
        self.send(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, length = self.line(), 0
        while head := self.line():
            name, _, value = head.partition(b":")
            length = int(value) if name.lower() == b"content-length" else length
        if b" 200" not in status:
            raise AnswerError(f"GET {path}: {status.decode(errors='replace')}")
        return self.take(length)


def _copy(source: Path, target: Path) -> None:
    """`target` becomes what `source` is: owners, modes and times included, nothing else being in it."""
    if target.is_dir():
        shutil.rmtree(target)
    else:
        target.unlink(missing_ok=True)
    subprocess.run(["cp", "-a", "--reflink=auto", source, target], check=True)
