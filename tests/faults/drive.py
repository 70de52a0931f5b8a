# SPDX-License-Identifier: Apache-2.0
"""Checkpoints one process again and again, each time with one call of the worker gone wrong.

    LD_PRELOAD=faults.so python -m tests.faults.drive STORE PID DEED VALUE CALL[:STRIDE[:FIRST]]...

For each CALL: once undisturbed, to count the calls, then with the first of them going wrong, the second,
and so on (from the FIRST on every STRIDE-th). One JSON object a line: call, at, of, error ("" when an image
was made), wrong (what is not as it was), spared (nothing was done, since the kernel would have had the target
notice it).
"""

from __future__ import annotations

import ctypes
import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from restorer.checkpoint import Request, checkpoint
from restorer.errors import RestorerError
from restorer.store import open_store

DEEDS = {"fail": 1, "kill-before": 2, "kill-after": 3, "signal": 4}
_NR_PPOLL = "271"
_NR_EPOLL_WAIT = "232"
LET_GO_S = 5.0
_library = ctypes.CDLL(None)


def plan(call: str, at: int, deed: int = 0, value: int = 0, waiting: int = 0) -> None:
    """The worker's `at`-th call of it goes wrong; 0 for none. `waiting`: who is in a call that is never
    restarted.
    """
    _library.fault_plan(call.encode(), ctypes.c_uint64(at), deed, value, waiting)


def seen() -> int:
    """How often the call of the last plan has been made."""
    return int(ctypes.c_uint64(_library.fault_seen()).value)


def tree(pid: int) -> list[int]:
    found = [pid]
    for task in Path(f"/proc/{pid}/task").iterdir():
        for child in (task / "children").read_text().split():
            found += tree(int(child))
    return found


def held(pid: int) -> str:
    """Which thread of the tree is traced, or stopped."""
    for one in tree(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            fields = dict(line.split(":\t", 1) for line in (task / "status").read_text().splitlines())
            if fields["TracerPid"] != "0" or fields["State"][0] in "tT":
                return f"thread {task.name} is {fields['State']}, traced by {fields['TracerPid']}"
    return ""


def look(pid: int, masks: dict[str, str]) -> str:
    """What is not as it was, or does not become so at once: who is still held, or has another signal mask."""
    deadline = time.monotonic() + LET_GO_S
    while True:
        found = held(pid)
        now = signal_masks(pid)
        if not found and any(masks.get(task, mask) != mask for task, mask in now.items()):
            found = f"signal masks: {masks} are {now}"
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.002)


def signal_masks(pid: int) -> dict[str, str]:
    """The masks of all threads but those which are, or may be, in ppoll(2): there it is another meanwhile."""
    found = {}
    for one in tree(pid):
        for task in Path(f"/proc/{one}/task").iterdir():
            before, lines, after = ((task / name).read_text() for name in ("syscall", "status", "syscall"))
            if any(call.split()[0] in ("running", _NR_PPOLL) for call in (before, after)):
                continue
            found[task.name] = next(
                line.split()[1] for line in lines.splitlines() if line.startswith("SigBlk")
            )
    return found


def waiting_thread(pid: int) -> int:
    """The thread that waits in epoll_wait(2), 0 if none does."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    found = [task.name for task in tasks if (task / "syscall").read_text().split()[0] == _NR_EPOLL_WAIT]
    return int(found[0]) if found else 0


def names(store: Path) -> list[str]:
    with open_store(store) as opened:
        return sorted(opened.refs())


def attempt(store: Path, pid: int) -> str:
    """The error of one checkpoint, "" for none; a checkpoint that failed has left no image."""
    try:
        checkpoint(Request(pid, "attempt", store, leave_running=True))
    except RestorerError as error:
        return str(error)
    return ""


def forget(store: Path) -> None:
    with open_store(store) as opened:
        opened.remove("attempt")


def run(
    store: Path, pid: int, deed: str, value: int, call: str, stride: int = 1, first: int = 1
) -> Iterator[dict[str, object]]:
    masks = signal_masks(pid)
    plan(call, 0)
    assert (error := attempt(store, pid)) == "", error
    forget(store)
    total, waiting = seen(), waiting_thread(pid)
    for at in range(first, total + 1, stride):
        plan(call, at, DEEDS[deed], value, waiting)
        error = attempt(store, pid)
        spared = bool(_library.fault_spared())
        plan("", 0)
        wrong = look(pid, masks)
        if (names(store) == ["attempt"]) != (error == ""):
            wrong = f"{wrong}; images {names(store)}"
        if error == "" or names(store):
            forget(store)
        yield {"call": call, "at": at, "of": total, "error": error, "wrong": wrong, "spared": spared}
        if wrong:
            return


def main() -> None:
    store, pid, deed, value = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
    os.environ.pop("LD_PRELOAD", None)
    for word in sys.argv[5:]:
        call, *numbers = word.split(":")
        for result in run(store, pid, deed, value, call, *map(int, numbers)):
            print(json.dumps(result), flush=True)


if __name__ == "__main__":
    main()
