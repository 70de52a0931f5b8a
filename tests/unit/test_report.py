# SPDX-License-Identifier: Apache-2.0
"""Words and tables."""

from __future__ import annotations

import io
import json

import pytest

from restorer import report


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0 B"),
        (999, "999 B"),
        (1000, "1 kB"),
        (31_200_000, "31.2 MB"),
        (999_600_000, "1 GB"),
        (1_073_741_824, "1.07 GB"),
        (5_000_000_000_000_000, "5000 TB"),
    ],
)
def test_bytes_text(count: int, text: str) -> None:
    assert report.bytes_text(count) == text


def test_count_and_ratio() -> None:
    assert [report.count_text(n, "chunk") for n in (0, 1, 2)] == ["0 chunks", "1 chunk", "2 chunks"]
    assert report.ratio_text(680, 100) == "6.8x"
    assert report.ratio_text(1, 0) == "-"


def test_a_command_is_cut_and_cannot_drive_the_terminal() -> None:
    assert report.command_text(["python3", "-m", "app"]) == "python3 -m app"
    assert report.command_text(["a" * 50], limit=10) == "aaaaaaa..."
    assert "\x1b" not in report.command_text(["\x1b[2J"])


def test_table_aligns_and_leaves_no_space_at_the_end() -> None:
    text = report.table(("NAME", "SIZE"), [("a", "1 B"), ("longer", "12 kB")], right=("SIZE",))
    assert text.splitlines() == ["NAME     SIZE", "a         1 B", "longer  12 kB"]


def test_an_empty_table_is_its_headers() -> None:
    assert report.table(("NAME", "PID"), []) == "NAME  PID"


def test_tree() -> None:
    root = report.Node("root")
    first = root.add("first")
    first.add("deep")
    root.add("last")
    assert report.tree(root).splitlines() == ["root", "├── first", "│   └── deep", "└── last"]


def test_tree_cut_to_a_line() -> None:
    root = report.Node("demo")
    root.add("/a/very/long/path")
    assert report.tree(root, 12) == "demo\n└── /a/ve..."


def test_document_names_its_schema_first() -> None:
    text = report.document("list", {"images": []})
    assert text == '{"schema": "restorer.list/1", "images": []}'
    assert json.loads(text)


class _Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_progress_bar_is_drawn_on_a_terminal_and_taken_away() -> None:
    stream = _Terminal()
    bar = report.ProgressBar("checkpoint a", stream)
    bar.update(50, 100)
    assert "[###############...............] 50 B of 100 B" in stream.getvalue()
    bar.clear()
    assert stream.getvalue().endswith("\r\x1b[K")


def test_a_progress_bar_is_silent_elsewhere() -> None:
    stream = io.StringIO()
    bar = report.ProgressBar("checkpoint a", stream)
    bar.update(50, 100)
    bar.clear()
    assert stream.getvalue() == ""
