# SPDX-License-Identifier: Apache-2.0
"""A store and what was restored from it, for the demo and the benchmarks: nothing is left behind."""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from images import Recipe

__all__ = ["Restored", "Session", "anonymous_bytes", "descendants", "disk_bytes", "kill"]

_PR_SET_CHILD_SUBREAPER = 36
_KILL_TIMEOUT_S = 30.0
_REPLY_TIMEOUT_S = 10.0
RESTORER = Path(sys.executable).with_name("restorer")


class Restored:
    """A restore that has been started with -d; the process itself once `wait` has returned."""

    def __init__(self, process: subprocess.Popen[str], stats: Path) -> None:
        self._process = process
        self._stats = stats
        self.pid = 0
        self.resume_ms = 0.0

    def wait(self) -> None:
        """Until the restorer has printed the PID. RuntimeError with its message when it failed."""
        out, error = self._process.communicate(timeout=120)
        if self._process.returncode != 0:
            raise RuntimeError(error.strip() or f"restorer restore ended with {self._process.returncode}")
        answer = json.loads(out)
        self.pid, self.resume_ms = answer["pid"], answer["resume_ms"]

    def first_reply(self, recipe: Recipe) -> None:
        """Ask until the right answer comes, the restore being under way; its error where it has failed."""
        try:
            recipe.first_request(_REPLY_TIMEOUT_S)
        except TimeoutError:
            self.wait()
            raise

    def event(self, name: str) -> dict[str, Any] | None:
        """The launcher's record of an event, "resumed" or "loaded"; None before it has happened."""
        lines = self._stats.read_text().splitlines() if self._stats.exists() else []
        return next((event for event in map(json.loads, lines) if event["event"] == name), None)

    def wait_loaded(self, timeout_s: float = 120.0) -> dict[str, Any]:
        """The record of "loaded", waited for. TimeoutError when it does not come."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            event = self.event("loaded")
            if event is not None:
                return event
            time.sleep(0.005)
        raise TimeoutError(f"process {self.pid} is not loaded after {timeout_s:.0f} s")

    def wait_left(self, timeout_s: float = 30.0) -> None:
        """Until the launcher has left the process to us, a subreaper, and has been reaped."""
        deadline = time.monotonic() + timeout_s
        while _parent(self.pid) != os.getpid():
            if time.monotonic() > deadline:
                raise TimeoutError(
                    f"the launcher of process {self.pid} is still there after {timeout_s:.0f} s"
                )
            time.sleep(0.001)
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass

    def kill(self) -> None:
        """Kill the restored process and all below it, and wait until they have gone."""
        if self.pid:
            for pid in (self.pid, *descendants(self.pid)):
                kill(pid)
            self.pid = 0


class Session:
    """A store in `folder`; leaving the block kills everything that was restored from it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.store = folder / "store"
        self._restored: list[Restored] = []

    def __enter__(self) -> Self:
        # What was restored with -d outlives its launcher: adopted here, `kill` frees its PID at once.
        ctypes.CDLL(None).prctl(_PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for restored in self._restored:
            restored.kill()

    def run(self, *arguments: str) -> dict[str, Any]:
        """The JSON that a command prints. RuntimeError with its message when it fails."""
        command = [str(RESTORER), *arguments, "--json", "--store", str(self.store)]
        done = subprocess.run(command, capture_output=True, text=True, check=False, stdin=subprocess.DEVNULL)
        if done.returncode != 0:
            raise RuntimeError(done.stderr.strip() or f"{' '.join(arguments)} ended with {done.returncode}")
        answer: dict[str, Any] = json.loads(done.stdout)
        return answer

    def checkpoint(self, pid: int, name: str, *options: str) -> dict[str, Any]:
        """The checkpoint's JSON."""
        return self.run("checkpoint", str(pid), name, *options)

    def reap(self, name: str) -> None:
        """Wait until the processes of an image, which the checkpoint has killed, have left their PIDs."""
        births = self.run("show", name)["manifest"]["births"]["processes"]
        for task in (task for one in births for task in (one, *one["zombies"])):
            _wait_gone(task["session"]["pid"])

    def restore(self, name: str, *options: str) -> Restored:
        """Start `restorer restore -d`; do not wait for it."""
        stats = self.folder / f"stats-{len(self._restored)}.jsonl"
        command = [str(RESTORER), "restore", name, "-d", "--json", "--stats", str(stats)]
        process = subprocess.Popen(
            [*command, "--store", str(self.store), *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self._restored.append(Restored(process, stats))
        return self._restored[-1]


def kill(pid: int) -> None:
    """SIGKILL by pidfd, and wait until the PID is free; harmless when it is. TimeoutError after 30 s."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        select.select([pidfd], [], [], _KILL_TIMEOUT_S)
    except ProcessLookupError:
        pass
    finally:
        os.close(pidfd)
    _wait_gone(pid)


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", encoding="ascii") as stat:
        return int(stat.read().rpartition(")")[2].split()[1])


def _wait_gone(pid: int) -> None:
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while os.path.exists(f"/proc/{pid}"):
        try:
            os.waitpid(pid, os.WNOHANG)
        except ChildProcessError:
            time.sleep(0.001)  # its launcher reaps it
        if time.monotonic() > deadline:
            raise TimeoutError(f"process {pid} has been killed, and nobody reaps it")


def descendants(pid: int) -> list[int]:
    """PIDs of all processes below `pid`, zombies included; none when it has gone."""
    found: list[int] = []
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/children", encoding="ascii") as children:
                found += [int(word) for word in children.read().split()]
    except (FileNotFoundError, ProcessLookupError):
        pass  # it ends at this moment, and its children are another's
    return found + [below for child in found for below in descendants(child)]


def anonymous_bytes(pid: int) -> int:
    """Anonymous memory of the process that is in place, private pages of files included."""
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as rollup:
        return sum(int(line.split()[1]) * 1024 for line in rollup if line.startswith("Anonymous:"))


def disk_bytes(folder: Path) -> int:
    """What the files of a folder take on disk: blocks, not lengths."""
    return sum(entry.stat().st_blocks * 512 for entry in folder.rglob("*") if entry.is_file())
