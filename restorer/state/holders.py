# SPDX-License-Identifier: Apache-2.0
"""Who else holds what the target has open: one walk over the fds of every other process."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Collection

from restorer.record import dataclass


@dataclass(frozen=True)
class Holder:
    """An fd of another process."""

    pid: int
    name: str
    fd: int

    def __str__(self) -> str:
        return f"process {self.pid} '{self.name}'"


def find(
    pids: Collection[int],
    wanted: frozenset[str],
    known: frozenset[tuple[int, int]] = frozenset(),
) -> dict[str, list[Holder]]:
    """The fds of all processes but `pids` whose link is one of `wanted`, and which are not `known` by (pid,
    fd).

    Processes that end meanwhile, or that we may not look into, are passed over. Call it while this process
    holds no duplicates of the target's fds, or it finds itself.
    """
    found: dict[str, list[Holder]] = defaultdict(list)
    if not wanted:
        return found
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) not in pids:
            for fd, link in links(int(entry)):
                if link in wanted and (int(entry), fd) not in known:
                    found[link].append(Holder(int(entry), name(int(entry)), fd))
    return found


def links(pid: int) -> list[tuple[int, str]]:
    """(number, link) of each fd; none of a process that has ended or that we may not look into."""
    result: list[tuple[int, str]] = []
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except OSError:
        return result
    for number in numbers:
        try:
            result.append((int(number), os.readlink(f"/proc/{pid}/fd/{number}")))
        except OSError:
            continue
    return result


def name(pid: int) -> str:
    """The name of a process, "?" when it has ended."""
    try:
        with open(f"/proc/{pid}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"
