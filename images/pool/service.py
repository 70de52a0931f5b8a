# SPDX-License-Identifier: Apache-2.0
"""service.py PORT RECORDS: asyncio answers HTTP, processes of multiprocessing work on memory they share.

GET /record/N reads the shared memory, /sum (SHA-256 of all) is done by the pool in parts, /jobs tells how
many parts the pool has done so far, /echo/TEXT goes through the pipes of a `cat`, /ticks is a timer's.
SIGTERM ends it in good order.
"""

from __future__ import annotations

import asyncio
import hashlib
import multiprocessing
import signal
import sys
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from multiprocessing.shared_memory import SharedMemory
from multiprocessing.sharedctypes import Synchronized

from images.records import RECORD_BYTES, record

WORKERS = 3
PARTS = 12


class Worker:
    """What the functions of a worker process work on; set once, when it begins."""

    memory: SharedMemory
    table: memoryview
    jobs: Synchronized[int]


def _adopt(name: str, jobs: Synchronized[int]) -> None:
    Worker.memory = SharedMemory(name)
    Worker.table, Worker.jobs = _view(Worker.memory), jobs


def _view(memory: SharedMemory) -> memoryview:
    assert memory.buf is not None
    return memory.buf


def _fill(first: int, end: int) -> str:
    text = "".join(map(record, range(first, end)))
    Worker.table[first * RECORD_BYTES : end * RECORD_BYTES] = text.encode()
    return ""


def _digest(first: int, end: int) -> str:
    with Worker.jobs.get_lock():
        Worker.jobs.value += 1
    return hashlib.sha256(Worker.table[first * RECORD_BYTES : end * RECORD_BYTES]).hexdigest()


class Service:
    """What the answers are made of."""

    def __init__(self, records: int) -> None:
        self.records = records
        self.memory = SharedMemory(create=True, size=records * RECORD_BYTES)
        self.jobs: Synchronized[int] = multiprocessing.Value("q", 0)
        self.ticks = 0
        self.one_at_a_time = asyncio.Lock()
        self.pool = ProcessPoolExecutor(WORKERS, initializer=_adopt, initargs=(self.memory.name, self.jobs))

    async def run(self, port: int) -> None:
        """Answers until SIGTERM."""
        over = asyncio.Event()
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, over.set)
        await self._each_part(_fill)
        self.cat = await asyncio.create_subprocess_exec(
            "cat", stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE
        )
        ticking = asyncio.create_task(self._tick())
        async with await asyncio.start_server(self._serve, "127.0.0.1", port):
            await over.wait()
        ticking.cancel()
        await self._end()

    async def _end(self) -> None:
        assert self.cat.stdin is not None
        self.cat.stdin.close()
        await self.cat.wait()
        self.pool.shutdown()
        self.memory.close()
        self.memory.unlink()

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(0.1)
            self.ticks += 1

    async def _each_part(self, function: Callable[[int, int], str]) -> list[str]:
        loop, size = asyncio.get_running_loop(), -(-self.records // PARTS)
        parts = [(first, min(first + size, self.records)) for first in range(0, self.records, size)]
        jobs = [loop.run_in_executor(self.pool, function, *part) for part in parts]
        return list(await asyncio.gather(*jobs))

    async def _echo(self, text: str) -> str:
        assert self.cat.stdin is not None and self.cat.stdout is not None
        async with self.one_at_a_time:
            self.cat.stdin.write(text.encode() + b"\n")
            return (await self.cat.stdout.readline()).decode().rstrip("\n")

    async def _answer(self, kind: str, word: str) -> str:
        match kind:
            case "record":
                first = int(word) * RECORD_BYTES
                return bytes(_view(self.memory)[first : first + RECORD_BYTES]).decode()
            case "sum":
                return "\n".join(await self._each_part(_digest))
            case "jobs":
                return str(self.jobs.value)
            case "echo":
                return await self._echo(word)
            case "ticks":
                return str(self.ticks)
        raise ValueError(kind)

    async def _serve_one(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        """Whether the client may ask once more."""
        head = await reader.readuntil(b"\r\n\r\n")
        _, kind, word = [*head.split()[1].decode().split("/"), ""][:3]
        body = (await self._answer(kind, word)).encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        await writer.drain()
        return b" HTTP/1.1\r\n" in head

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._serve_one(reader, writer):
                continue
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client has gone
        finally:
            writer.close()


async def _main() -> None:
    await Service(int(sys.argv[2])).run(int(sys.argv[1]))


if __name__ == "__main__":
    asyncio.run(_main())
