# SPDX-License-Identifier: Apache-2.0
"""memcached with RESTORER_MEMCACHED_MB megabytes of items (200), asked in its text protocol."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable
from contextlib import AbstractContextManager
from pathlib import Path
from typing import ClassVar

from images import AnswerError, free_port
from images.installed import Clients, Installed, Lines, Load, tool
from images.records import RECORD_BYTES, RECORDS_PER_MB, record, spread

_BATCH = 200


class Memcached(Installed):
    name: ClassVar[str] = "memcached"
    needs: ClassVar[dict[str, str]] = {"memcached": "memcached"}
    options: ClassVar[tuple[str, ...]] = ("--tcp", "close")

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.megabytes = int(os.environ.get("RESTORER_MEMCACHED_MB", "200"))
        self.items = self.megabytes * RECORDS_PER_MB

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        limit = str(self.megabytes * 2)
        return self.spawn(
            tool("memcached"), "-u", "root", "-l", "127.0.0.1", "-p", str(self.port), "-U", "0", "-m", limit
        )

    def wait_ready(self) -> None:
        self.until_answered(self._fill, self.ready_timeout_s)
        self.first_request()

    def first_request(self, timeout_s: float = 30.0) -> None:
        self.until_answered(self._first, timeout_s)

    def check(self) -> None:
        with Lines(self.port) as server:
            for step in range(500):
                _compare(server, spread(step, self.items))
            _expect(server, b"incr visits 1", str(self._visits(server) + 1).encode())
            if self._stat(server, b"curr_items") != self.items + 1:
                raise AnswerError(f"memcached has {self._stat(server, b'curr_items')} items")

    def busy(self) -> AbstractContextManager[Load]:
        return Clients(self._client)

    def _client(self) -> Callable[[], None]:
        server, step = Lines(self.port), int.from_bytes(os.urandom(4), "little")

        def question() -> None:
            nonlocal step
            step += 1
            _compare(server, spread(step, self.items))

        return question

    def _first(self) -> None:
        with Lines(self.port, 1.0) as server:
            _compare(server, 71)

    def _fill(self) -> None:
        with Lines(self.port, 60.0) as server:
            for first in range(0, self.items, _BATCH):
                numbers = range(first, min(first + _BATCH, self.items))
                lines = (f"set record-{n} 0 0 {RECORD_BYTES} noreply\r\n{record(n)}\r\n" for n in numbers)
                server.send("".join(lines).encode())
            _expect(server, b"set visits 0 0 1\r\n0", b"STORED")

    def _visits(self, server: Lines) -> int:
        return int(_get(server, b"visits"))

    def _stat(self, server: Lines, name: bytes) -> int:
        server.send(b"stats\r\n")
        found = {}
        while (line := server.line()) != b"END":
            _, key, value = line.split(b" ", 2)
            found[key] = value
        return int(found[name])


def _get(server: Lines, key: bytes) -> bytes:
    server.send(b"get " + key + b"\r\n")
    head = server.line()
    if not head.startswith(b"VALUE " + key):
        raise AnswerError(f"memcached: get {key.decode()} gave {head!r}")
    value = server.block(int(head.split()[3]))
    if server.line() != b"END":
        raise AnswerError(f"memcached: get {key.decode()} does not end")
    return value


def _compare(server: Lines, number: int) -> None:
    if _get(server, f"record-{number}".encode()) != record(number).encode():
        raise AnswerError(f"memcached: record-{number} is wrong")


def _expect(server: Lines, request: bytes, answer: bytes) -> None:
    server.send(request + b"\r\n")
    line = server.line()
    if line != answer:
        raise AnswerError(f"memcached: {request[:60]!r} gave {line!r}, not {answer!r}")


RECIPE = Memcached
