# SPDX-License-Identifier: Apache-2.0
"""Java with the JDK's own HTTP server over RESTORER_JAVA_MB megabytes of records (200)."""

from __future__ import annotations

import getpass
import hashlib
import os
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from images import AnswerError, free_port
from images.installed import InstalledHttp, tool
from images.records import RECORDS_PER_MB, record, spread


class Java(InstalledHttp):
    name: ClassVar[str] = "java"
    needs: ClassVar[dict[str, str]] = {"java": "default-jre-headless", "javac": "default-jdk-headless"}
    probe: ClassVar[str] = "/record/71"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.records = int(os.environ.get("RESTORER_JAVA_MB", "200")) * RECORDS_PER_MB

    def start(self) -> subprocess.Popen[bytes]:
        if not (self.workdir / "Server.class").exists():
            source = Path(__file__).with_name("Server.java")
            subprocess.run([tool("javac"), "-d", self.workdir, source], check=True)
        self.port = free_port()
        process = self.spawn(
            tool("java"), "-Xmx1g", "-cp", self.workdir, "Server", str(self.port), str(self.records)
        )
        self._counters = Path("/tmp", f"hsperfdata_{getpass.getuser()}", str(process.pid))
        return process

    def kept(self) -> list[Path]:
        """The counters that jps and jstat look at: the JVM maps this file, and deletes it at its end."""
        return [self._counters]

    def compare_probe(self, answer: bytes) -> None:
        self._compare("record", 71, answer, record(71))

    def check(self) -> None:
        for step in range(100):
            number = spread(step, self.records)
            self._compare("record", number, self.get(f"/record/{number}"), record(number))
        whole = hashlib.sha256()
        for number in range(self.records):
            whole.update(record(number).encode())
        for kind in ("sum", "collect", "sum"):
            self._compare(kind, 0, self.get(f"/{kind}"), whole.hexdigest())
        self._check_timer()

    def _check_timer(self) -> None:
        before, deadline = int(self.get("/ticks")), time.monotonic() + 10
        while int(self.get("/ticks")) < before + 2:
            if time.monotonic() > deadline:
                raise AnswerError(f"java: the timer stands still at {before}")
            time.sleep(0.05)

    def _compare(self, kind: str, number: int, answer: bytes, expected: str) -> None:
        if answer.decode() != expected:
            raise AnswerError(f"java: /{kind}/{number} is {answer[:80]!r}, not {expected[:80]!r}")


RECIPE = Java
