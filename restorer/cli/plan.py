# SPDX-License-Identifier: Apache-2.0
"""`restorer plan`."""

from __future__ import annotations

from restorer import report
from restorer.cli.options import JsonOption, NameArgument, StoreOption, store_path
from restorer.plan import plan_lines
from restorer.store import open_store


def command(name: NameArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Print the programs that a restore of NAME runs, one system call a line, as strace does."""
    with open_store(store_path(store)) as opened:
        blob = opened.load(name)
    lines = list(plan_lines(blob))
    if json:
        print(report.document("plan", {"name": name, "lines": lines}))
    else:
        print("\n".join(lines))
