# SPDX-License-Identifier: Apache-2.0
"""Who else holds what the target has open: one walk over the fds of every other process."""

from __future__ import annotations

import os
from collections import defaultdict
from dataclasses import dataclass


@dataclass(frozen=True)
class Holder:
    """An fd of another process."""

    pid: int
    name: str
    fd: int

    def __str__(self) -> str:
        return f"process {self.pid} '{self.name}'"


def find(pid: int, links: frozenset[str]) -> dict[str, list[Holder]]:
    """The fds of all processes but `pid` whose link is one of `links`.

    Processes that end meanwhile, or that we may not look into, are passed over. Call it while this process
    holds no duplicates of the target's fds, or it finds itself.
    """
    found: dict[str, list[Holder]] = defaultdict(list)
    if not links:
        return found
    for entry in os.listdir("/proc"):
        if entry.isdigit() and int(entry) != pid:
            for fd, link in _links(entry):
                if link in links:
                    found[link].append(Holder(int(entry), _name(entry), fd))
    return found


def _links(entry: str) -> list[tuple[int, str]]:
    result: list[tuple[int, str]] = []
    try:
        numbers = os.listdir(f"/proc/{entry}/fd")
    except OSError:
        return result
    for number in numbers:
        try:
            result.append((int(number), os.readlink(f"/proc/{entry}/fd/{number}")))
        except OSError:
            continue
    return result


def _name(entry: str) -> str:
    try:
        with open(f"/proc/{entry}/comm", encoding="utf-8", errors="replace") as file:
            return file.read().rstrip("\n")
    except OSError:
        return "?"
