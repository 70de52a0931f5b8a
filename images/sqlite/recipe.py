# SPDX-License-Identifier: Apache-2.0
"""sqlite3 with a database in memory, RESTORER_SQLITE_MB megabytes large (200), driven through a pipe."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from images import AnswerError, Recipe

ROWS_PER_MB = 8000

# Every column is a function of the key, written once in SQL here and once in Python in `row`.
_SETUP = """
PRAGMA journal_mode = OFF;
CREATE TABLE parcel (id INTEGER PRIMARY KEY, code TEXT, weight INTEGER, price REAL, route TEXT, remark TEXT);
WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < {rows})
INSERT INTO parcel SELECT i, printf('PX-%06d', i * 7919 % 999983), i * 104729 % 31013,
    (i * 1299709 % 40009) / 8.0,
    printf('depot %d to depot %d', i * 31 % 997, i * 37 % 991),
    printf('held at door %d until week %d, signed by customer %d',
        i * 17 % 89, i * 13 % 53, i * 15485863 % 1000003)
    FROM n;
CREATE INDEX parcel_code ON parcel (code);
"""


def row(number: int) -> str:
    """What sqlite3 prints for row `number`, as a list."""
    i = number
    return "|".join(
        (
            str(i),
            f"PX-{i * 7919 % 999983:06d}",
            str(i * 104729 % 31013),
            str(i * 1299709 % 40009 / 8.0),
            f"depot {i * 31 % 997} to depot {i * 37 % 991}",
            f"held at door {i * 17 % 89} until week {i * 13 % 53}, "
            f"signed by customer {i * 15485863 % 1000003}",
        )
    )


class Sqlite(Recipe):
    name: ClassVar[str] = "sqlite"
    foreground: ClassVar[bool] = True

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.rows = int(os.environ.get("RESTORER_SQLITE_MB", "200")) * ROWS_PER_MB
        self.asked = 0

    def start(self) -> subprocess.Popen[bytes]:
        process = self.spawn(
            "/usr/bin/sqlite3", "-batch", ":memory:", piped=True, env={"HOME": os.fspath(self.workdir)}
        )
        self._send(_SETUP.format(rows=self.rows))
        return process

    def first_request(self, timeout_s: float = 30.0) -> None:
        self._expect("SELECT 6 * 7, count(*) FROM parcel WHERE id < 100;", ["42|99"], timeout_s)

    def check(self) -> None:
        for step in range(40):
            number = 1 + step * 104_729 % self.rows
            self._expect(f"SELECT * FROM parcel WHERE id = {number};", [row(number)])
            code = f"PX-{number * 7919 % 999983:06d}"
            same = [i for i in range(number % 999_983 or 999_983, self.rows + 1, 999_983)]
            self._expect(f"SELECT id FROM parcel WHERE code = '{code}' ORDER BY id;", [str(i) for i in same])
        numbers = range(1, self.rows + 1)
        weight = sum(i * 104729 % 31013 for i in numbers)
        eighths = sum(i * 1299709 % 40009 for i in numbers)
        self._expect(
            "SELECT count(*), sum(weight), printf('%.3f', sum(price)) FROM parcel;",
            [f"{self.rows}|{weight}|{eighths / 8:.3f}"],
        )
        self._expect("PRAGMA integrity_check;", ["ok"])

    def _send(self, text: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def _expect(self, query: str, lines: list[str], timeout_s: float = 60.0) -> None:
        """AnswerError unless `query` prints these lines; a marker after them shows where they end."""
        self.asked += 1
        marker = f"end of answer {self.asked}"
        self._send(f"{query}\n.print {marker}\n")
        answer = self._read_until(marker, timeout_s)
        if answer != lines:
            raise AnswerError(f"{query} gave {answer}, not {lines}")

    def _read_until(self, marker: str, timeout_s: float) -> list[str]:
        assert self.process is not None and self.process.stdout is not None
        output, text = self.process.stdout.fileno(), ""
        deadline = time.monotonic() + timeout_s
        while not text.endswith(marker + "\n"):
            if not select.select([output], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"sqlite3 said only {text[-200:]!r}")
            block = os.read(output, 1 << 16)
            if not block:
                raise ConnectionResetError(f"sqlite3 has gone after {text[-200:]!r}")
            text += block.decode()
        return [line for line in text.splitlines()[:-1] if line != "off"]


RECIPE = Sqlite
