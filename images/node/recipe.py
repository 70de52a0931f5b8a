# SPDX-License-Identifier: Apache-2.0
"""Node with an HTTP server over RESTORER_NODE_MB megabytes of records (200), and a worker thread."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
import zlib
from pathlib import Path
from typing import ClassVar

from images import AnswerError, free_port
from images.installed import InstalledHttp, tool
from images.records import RECORDS_PER_MB, record, spread


class Node(InstalledHttp):
    name: ClassVar[str] = "node"
    needs: ClassVar[dict[str, str]] = {"node": "nodejs"}
    probe: ClassVar[str] = "/record/71"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.records = int(os.environ.get("RESTORER_NODE_MB", "200")) * RECORDS_PER_MB

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        script = Path(__file__).with_name("server.js")
        return self.spawn(tool("node"), "--expose-gc", script, str(self.port), str(self.records))

    def compare_probe(self, answer: bytes) -> None:
        _compare("record", 71, answer, record(71))

    def check(self) -> None:
        for step in range(50):
            number = spread(step, self.records)
            text = record(number)
            _compare("record", number, self.get(f"/record/{number}"), text)
            packed = bytes.fromhex(self.get(f"/packed/{number}").decode())
            _compare("packed", number, zlib.decompress(packed), text)
            _compare("hash", number, self.get(f"/hash/{number}"), hashlib.sha256(text.encode()).hexdigest())
        whole = hashlib.sha256()
        for number in range(self.records):
            whole.update(record(number).encode())
        _compare("sum", 0, self.get("/sum"), whole.hexdigest())
        self._check_timer()

    def _check_timer(self) -> None:
        before, deadline = int(self.get("/ticks")), time.monotonic() + 10
        while int(self.get("/ticks")) < before + 2:
            if time.monotonic() > deadline:
                raise AnswerError(f"node: the timer stands still at {before}")
            time.sleep(0.05)


def _compare(kind: str, number: int, answer: bytes, expected: str) -> None:
    if answer.decode() != expected:
        raise AnswerError(f"node: /{kind}/{number} is {answer[:80]!r}, not {expected[:80]!r}")


RECIPE = Node
