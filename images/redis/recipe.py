# SPDX-License-Identifier: Apache-2.0
"""redis-server with RESTORER_REDIS_MB megabytes of keys (500), while clients ask and it saves."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from images import AnswerError, free_port
from images.installed import Clients, Installed, Lines, Load, tool
from images.records import RECORD_BYTES, RECORDS_PER_MB, record, spread

_BATCH = 200


class Redis(Installed):
    name: ClassVar[str] = "redis"
    needs: ClassVar[dict[str, str]] = {
        "redis-server": "redis-server",
        "redis-cli": "redis-tools",
        "redis-check-rdb": "redis-tools",
    }
    options: ClassVar[tuple[str, ...]] = ("--tcp", "close")
    processes: ClassVar[int] = 2  # who saves is a child

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.keys = int(os.environ.get("RESTORER_REDIS_MB", "500")) * RECORDS_PER_MB
        self.data = workdir / "data"

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        self.data.mkdir(exist_ok=True)
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", os.fspath(self.data)]
        return self.spawn(tool("redis-server"), *arguments, "--save", "", "--daemonize", "no")

    def kept(self) -> list[Path]:
        return [self.data]

    def wait_ready(self) -> None:
        if not (self.data / "dump.rdb").exists():
            self.until_answered(self._fill, self.ready_timeout_s)
        self.first_request(self.ready_timeout_s)

    def save(self) -> None:
        self._cli("SAVE")

    def first_request(self, timeout_s: float = 30.0) -> None:
        self.until_answered(self._first, timeout_s)

    def check(self) -> None:
        """All by redis-cli; and the save that was going on ends well, and has everything in it."""
        for step in range(20):
            number = spread(step, self.keys)
            if self._cli("GET", f"record-{number}") != record(number):
                raise AnswerError(f"redis: record-{number} is wrong")
        if int(self._cli("DBSIZE")) != self.keys:
            raise AnswerError(f"redis has {self._cli('DBSIZE')} keys, not {self.keys}")
        self._check_all()
        self._check_saved()

    @contextmanager
    def busy(self) -> Iterator[Load]:
        with Clients(self._client) as clients:
            self._cli("BGSAVE")
            if "rdb_bgsave_in_progress:1" not in self._cli("INFO", "persistence"):
                raise AnswerError("redis: the save is over before the checkpoint begins")
            yield clients

    def _check_all(self) -> None:
        """Every key, by connections of our own: a process a key would take for ever."""
        with Lines(self.port, 60.0) as server:
            for first in range(0, self.keys, _BATCH):
                numbers = range(first, min(first + _BATCH, self.keys))
                server.send("".join(f"GET record-{number}\r\n" for number in numbers).encode())
                for number in numbers:
                    _compare(server, number)

    def _check_saved(self) -> None:
        deadline = time.monotonic() + 120
        while "rdb_bgsave_in_progress:1" in (said := self._cli("INFO", "persistence")):
            if time.monotonic() > deadline:
                raise AnswerError("redis: the save does not end")
            time.sleep(0.05)
        if "rdb_last_bgsave_status:ok" not in said:
            raise AnswerError(f"redis: the save failed: {said}")
        file = self.data / "dump.rdb"
        if file.exists():
            told = self.ask("redis-check-rdb", os.fspath(file))
            if f"{self.keys} keys read" not in told:
                raise AnswerError(f"redis: its save is damaged: {told}")

    def _cli(self, *arguments: str) -> str:
        return self.ask("redis-cli", "-p", str(self.port), *arguments)

    def _client(self) -> Callable[[], None]:
        server, step = Lines(self.port), int.from_bytes(os.urandom(4), "little")

        def question() -> None:
            nonlocal step
            step += 1
            number = spread(step, self.keys)
            server.send(f"GET record-{number}\r\n".encode())
            _compare(server, number)

        return question

    def _first(self) -> None:
        with Lines(self.port, 1.0) as server:
            server.send(b"GET record-71\r\n")
            _compare(server, 71)

    def _fill(self) -> None:
        with Lines(self.port, 60.0) as server:
            for first in range(0, self.keys, _BATCH):
                numbers = range(first, min(first + _BATCH, self.keys))
                server.send("".join(f"SET record-{n} {record(n)}\r\n" for n in numbers).encode())
                for number in numbers:
                    if server.line() != b"+OK":
                        raise AnswerError(f"redis: SET record-{number} failed")


def _compare(server: Lines, number: int) -> None:
    head = server.line()
    if head.startswith(b"-LOADING"):
        raise EOFError("redis is reading its dump")
    if head != f"${RECORD_BYTES}".encode() or server.block(RECORD_BYTES) != record(number).encode():
        raise AnswerError(f"redis: GET record-{number} gave {head!r} and something wrong")


RECIPE = Redis
