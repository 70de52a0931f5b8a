# SPDX-License-Identifier: Apache-2.0
"""Words, tables and trees for people; JSON documents for programs. Nothing here reads anything."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from dataclasses import field
from datetime import UTC, datetime
from typing import Any, TextIO

from restorer.record import dataclass

__all__ = [
    "Node",
    "ProgressBar",
    "bytes_text",
    "command_text",
    "count_text",
    "document",
    "line_width",
    "ratio_text",
    "table",
    "time_text",
    "tree",
]

_STEP = 1000


def bytes_text(count: int) -> str:
    """A size in decimal units and three digits: 512 B, 31.2 MB, 1.07 GB."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        # 999.6 would be shown with three digits as 1e+03.
        if value < _STEP - 0.5:
            return f"{value:.3g} {unit}"
        value /= _STEP
    return f"{value:.3g} TB" if value < _STEP - 0.5 else f"{value:.0f} TB"


def count_text(count: int, noun: str) -> str:
    """1 chunk, 2 chunks."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def ratio_text(raw_bytes: int, stored_bytes: int) -> str:
    """How many times smaller: 6.8x; a dash where nothing is stored."""
    return f"{raw_bytes / stored_bytes:.1f}x" if stored_bytes else "-"


def time_text(created: float) -> str:
    """Seconds since the epoch as local time, to the second; an ISO 8601 text as it is read by people."""
    return datetime.fromtimestamp(created, UTC).astimezone().strftime("%Y-%m-%d %H:%M:%S")


def line_width(stream: TextIO | None = None) -> int:
    """Characters in a line of the terminal that stdout is; without one a line may be as long as it likes."""
    return shutil.get_terminal_size().columns if (stream or sys.stdout).isatty() else sys.maxsize


def command_text(argv: Sequence[str], limit: int = 40) -> str:
    """A command line in at most `limit` characters, without control characters."""
    text = " ".join(argv)
    text = "".join(char if char.isprintable() else "?" for char in text)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def table(headers: Sequence[str], rows: Sequence[Sequence[str]], right: Sequence[str] = ()) -> str:
    """Columns as wide as their widest cell, two spaces apart; those named in `right` are aligned right."""
    widths = [max(len(row[i]) for row in [headers, *rows]) for i in range(len(headers))]

    def line(cells: Sequence[str]) -> str:
        padded = (
            cell.rjust(width) if header in right else cell.ljust(width)
            for cell, width, header in zip(cells, widths, headers, strict=True)
        )
        return "  ".join(padded).rstrip()

    return "\n".join([line(headers), *(line(row) for row in rows)])


@dataclass
class Node:
    """A line of a tree and the lines below it."""

    text: str
    children: list[Node] = field(default_factory=list)

    def add(self, text: str) -> Node:
        child = Node(text)
        self.children.append(child)
        return child


def tree(node: Node, width: int = sys.maxsize) -> str:
    """The tree with lines drawn between a node and its children, each cut to `width` characters."""
    lines = [node.text, *_branches(node, "")]
    return "\n".join(line if len(line) <= width else f"{line[: width - 3]}..." for line in lines)


def _branches(node: Node, indent: str) -> list[str]:
    lines = []
    for number, child in enumerate(node.children):
        is_last = number == len(node.children) - 1
        lines.append(f"{indent}{'└── ' if is_last else '├── '}{child.text}")
        lines += _branches(child, indent + ("    " if is_last else "│   "))
    return lines


def document(command: str, fields: Mapping[str, Any]) -> str:
    """One JSON object in one line, its `schema` first: restorer.COMMAND/1."""
    return json.dumps({"schema": f"restorer.{command}/1", **fields})


class ProgressBar:
    """A bar on a terminal's stderr, redrawn in place; silent where stderr is no terminal."""

    WIDTH = 30

    def __init__(self, title: str, stream: TextIO | None = None) -> None:
        self._stream = sys.stderr if stream is None else stream
        self._title = title
        self._shows = self._stream.isatty()
        self._drawn = False

    def update(self, done: int, total: int) -> None:
        """`done` of `total`, in bytes."""
        if self._shows and total > 0:
            full = min(done, total) * self.WIDTH // total
            bar = "#" * full + "." * (self.WIDTH - full)
            self._stream.write(f"\r{self._title} [{bar}] {bytes_text(done)} of {bytes_text(total)}\x1b[K")
            self._stream.flush()
            self._drawn = True

    def clear(self) -> None:
        """Take the bar off the line it stands on."""
        if self._drawn:
            self._stream.write("\r\x1b[K")
            self._stream.flush()
            self._drawn = False
