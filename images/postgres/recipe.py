# SPDX-License-Identifier: Apache-2.0
"""PostgreSQL under pgbench: postmaster, its workers and a backend for each client, and shared memory."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import ClassVar

from images import AnswerError, free_port
from images.installed import Installed, Load, tool

_CLIENTS = 4
_UNPRIVILEGED = ("setpriv", "--reuid", "postgres", "--regid", "postgres", "--clear-groups")
# What a transaction of pgbench adds to an account, it adds to a teller, a branch and the history too.
_SUMS = """SELECT (SELECT sum(abalance) FROM pgbench_accounts), (SELECT sum(tbalance) FROM pgbench_tellers),
(SELECT sum(bbalance) FROM pgbench_branches), (SELECT coalesce(sum(delta), 0) FROM pgbench_history),
(SELECT count(*) FROM pgbench_history)"""
_PARALLEL = (
    "SET max_parallel_workers_per_gather = 2; SET parallel_setup_cost = 0; SET parallel_tuple_cost = 0; "
    "SET min_parallel_table_scan_size = 0; "
)


class Postgres(Installed):
    name: ClassVar[str] = "postgres"
    needs: ClassVar[dict[str, str]] = {
        "postgres": "postgresql",
        "psql": "postgresql",
        "pgbench": "postgresql",
        "setpriv": "util-linux",
    }
    options: ClassVar[tuple[str, ...]] = ("--tcp", "close")
    processes: ClassVar[int] = 6 + _CLIENTS
    end_signal: ClassVar[int] = signal.SIGINT  # "fast shutdown"

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.scale = int(os.environ.get("RESTORER_PGBENCH_SCALE", "10"))
        self.data = workdir / "data"
        self._made = False

    def start(self) -> subprocess.Popen[bytes]:
        self.port = free_port()
        if not self.data.exists():
            self.data.mkdir(mode=0o700)
            shutil.chown(self.data, "postgres", "postgres")
            self._as_postgres("initdb", "-D", os.fspath(self.data), "-A", "trust", "--no-sync")
        server: list[str | Path] = [
            tool("postgres"),
            "-D",
            self.data,
            "-p",
            str(self.port),
            "-k",
            self.data,
            "-h",
            "127.0.0.1",
        ]
        return self.spawn(*_UNPRIVILEGED, *server, "-c", "shared_buffers=256MB")

    def wait_ready(self) -> None:
        self.until_answered(lambda: self._compare("SELECT 6 * 7", "42"), self.ready_timeout_s)
        if not self._made:
            self._as_postgres("pgbench", *self._address(), "-q", "-i", "-s", str(self.scale), "postgres")
            self._made = True
        self.first_request()

    def first_request(self, timeout_s: float = 30.0) -> None:
        question = "SELECT count(*), sum(bid) FROM pgbench_accounts WHERE aid <= 1000"
        self.until_answered(lambda: self._compare(question, "1000|1000"), timeout_s)

    def kept(self) -> list[Path]:
        """The cluster, and the shared memory that it has under a name: a clean end deletes it."""
        return [self.data, *Path("/dev/shm").glob("PostgreSQL.*")]

    def check(self) -> None:
        """What was committed is there, and so is what is written now; workers in parallel find it."""
        rows = str(100_000 * self.scale)
        self._compare("SELECT count(*), count(DISTINCT aid) FROM pgbench_accounts", f"{rows}|{rows}")
        done = self._transactions()
        self._as_postgres("pgbench", *self._address(), "-n", "-c", str(_CLIENTS), "-t", "50", "postgres")
        if self._transactions() != done + _CLIENTS * 50:
            raise AnswerError(
                f"postgres: {_CLIENTS * 50} transactions after {done} are not all in the history"
            )
        self._compare(_PARALLEL + "SELECT count(*) FROM pgbench_accounts", rows)
        self._sql("CHECKPOINT")
        self._sql("VACUUM ANALYZE pgbench_history")

    @contextmanager
    def busy(self) -> Iterator[Load]:
        """pgbench's clients write without a pause."""
        done = self._transactions()
        command = ["pgbench", *self._address(), "-n", "-c", str(_CLIENTS), "-T", "300", "postgres"]
        complaints = self.workdir / "pgbench.log"
        with (
            complaints.open("wb") as log,
            subprocess.Popen(
                [*_UNPRIVILEGED, tool(command[0]), *command[1:]],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=log,
            ) as load,
        ):
            try:
                self._wait_more(done)
                yield _Pgbench(load, complaints, lambda: self._wait_more(self._transactions()))
            finally:
                load.kill()

    def _wait_more(self, done: int) -> None:
        deadline = time.monotonic() + 60
        while self._transactions() < done + 100:
            if time.monotonic() > deadline:
                raise TimeoutError("pgbench gets nothing done")
            time.sleep(0.05)

    def _transactions(self) -> int:
        """How many pgbench has done. AnswerError when one of them is there by half."""
        accounts, tellers, branches, history, count = map(int, self._sql(_SUMS).split("|"))
        if not accounts == tellers == branches == history:
            raise AnswerError(f"postgres: sums are {accounts}, {tellers}, {branches}, {history}")
        return count

    def _compare(self, statement: str, answer: str) -> None:
        found = self._sql(statement)
        if found != answer:
            raise AnswerError(f"postgres: {statement} gave {found!r}, not {answer!r}")

    def _sql(self, statement: str) -> str:
        return self._as_postgres("psql", *self._address(), "-qtAX", "-d", "postgres", "-c", statement)

    def _address(self) -> tuple[str, ...]:
        return "-h", "127.0.0.1", "-p", str(self.port)

    def _as_postgres(self, command: str, *arguments: str) -> str:
        return self.ask(_UNPRIVILEGED[0], *_UNPRIVILEGED[1:], tool(command), *arguments)


class _Pgbench:
    """pgbench as it runs."""

    def __init__(
        self, process: subprocess.Popen[bytes], complaints: Path, wait_more: Callable[[], None]
    ) -> None:
        self._process, self._complaints, self._wait_more = process, complaints, wait_more

    def go_on(self) -> None:
        self._wait_more()

    def errors(self) -> str:
        """It says which of its clients were aborted, and ends when all are."""
        ended = "pgbench has ended; " if self._process.poll() is not None else ""
        return ended + self._complaints.read_text()


RECIPE = Postgres
