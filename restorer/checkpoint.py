# SPDX-License-Identifier: Apache-2.0
"""The whole of `checkpoint`: freeze, describe, store, commit; and only then kill, or let run on."""

from __future__ import annotations

import time
from contextlib import ExitStack
from dataclasses import asdict
from pathlib import Path

from restorer import compile as compiler
from restorer import firewall as firewalls
from restorer import held, loading, memory
from restorer.firewall import Firewall
from restorer.frozen import Frozen, seize_tree
from restorer.record import dataclass
from restorer.state import fdcapture
from restorer.state.choices import Choices
from restorer.state.fdtable import Fds
from restorer.store import ImageWriter, firewall_of, open_store
from restorer.worker import Link, Progress, run_in_worker

__all__ = ["Request", "Result", "checkpoint"]


@dataclass(frozen=True)
class Request:
    """What to checkpoint and where to: `pid` as seen from here, `tcp` "refuse", "close" or "established";
    `ext_unix` and `skip_in_flight` as in Choices.
    """

    pid: int
    name: str
    store: Path
    leave_running: bool = False
    replace: bool = False
    tcp: str = "refuse"
    ext_unix: bool = False
    skip_in_flight: bool = False


@dataclass(frozen=True)
class Result:
    """What was stored. Sizes in bytes; `new_bytes` is what the store did not have before, compressed."""

    name: str
    pid: int
    processes: int
    threads: int
    memory_bytes: int
    stored_bytes: int
    new_bytes: int
    new_chunks: int
    reused_chunks: int
    frozen_ms: float
    total_ms: float


def checkpoint(request: Request, progress: Progress | None = None) -> Result:
    """Store the process as an image and kill it, or with `leave_running` let it run on.

    Works in a child process and waits for it (worker.py says why), so the caller must be single-threaded.
    Whatever is raised, RestorerError or Interrupted, the target runs on as it did, the store is as it was.
    """
    return Result(**run_in_worker(lambda link: asdict(_work(request, link)), progress))


def _work(request: Request, link: Link) -> Result:
    began = time.monotonic()
    with open_store(request.store, create=True) as store, ExitStack() as stack:
        # The store's one writer first: waiting for another checkpoint must not keep the target frozen.
        link.waiting(True)
        writer = stack.enter_context(store.writer(request.name, replace=request.replace))
        link.waiting(False)
        link.check()
        replaced = firewall_of(store, request.name)
        result = _store(request, link, writer, began)
        firewalls.remove(replaced)
        return result


def _store(request: Request, link: Link, writer: ImageWriter, began: float) -> Result:
    loading.finish(request.pid, link.check)
    # Who is to run on is not kept waiting for what is done with its memory.
    memory_held = held.Held(writer, _room() if request.leave_running else 0)
    with ExitStack() as freezing:
        firewall = freezing.enter_context(Firewall()) if request.tcp == "established" else None
        tree = freezing.enter_context(seize_tree(request.pid, link.check))
        captured, walked = _describe(request, link, tree, memory_held, firewall)
        processes, threads = len(tree.tracees), tree.threads
        if request.leave_running:
            freezing.close()
            thawed = time.monotonic()
        maps = memory_held.settle(link.check)
        summaries = [memory.summarize(writer.image_id, *one) for one in zip(walked, maps, strict=True)]
        blob = compiler.compile_image(captured, summaries)
        link.check()
        writer.commit(blob)
        if not request.leave_running:
            _end(request, tree, [state.fds for state in captured.processes], firewall)
            thawed = time.monotonic()
    return Result(
        name=request.name,
        pid=request.pid,
        processes=processes,
        threads=threads,
        memory_bytes=sum(one.raw_bytes for one in summaries),
        stored_bytes=sum(one.stored_bytes for one in summaries),
        new_bytes=sum(one.new_bytes for one in summaries),
        new_chunks=sum(one.new_chunks for one in summaries),
        reused_chunks=sum(one.reused_chunks for one in summaries),
        frozen_ms=round((thawed - tree.since) * 1e3, 3),
        total_ms=round((time.monotonic() - began) * 1e3, 3),
    )


def _end(request: Request, tree: Frozen, tables: list[Fds], firewall: Firewall | None) -> None:
    """Kills the target. The peers of its TCP connections see them reset, or nothing at all."""
    if request.tcp == "close":
        fdcapture.reset_connections(tree.tracees, tables)
    if firewall is not None:
        firewall.keep(f"TCP connections of image {request.name}")
        try:
            fdcapture.close_connections_quietly(tree.tracees, tables)
        except BaseException:
            firewalls.remove(firewall.table)
            raise
    tree.kill()


def _room() -> int:
    return held.spare_bytes(Path("/proc/self/cgroup").read_text())


def _describe(
    request: Request, link: Link, tree: Frozen, memory_held: held.Held, firewall: Firewall | None
) -> tuple[compiler.TreeState, list[memory.Walked]]:
    """All that is known of the tree, its memory being on the way to the writer."""
    link.check()
    choices = Choices(request.tcp == "close", firewall, request.ext_unix, request.skip_in_flight)
    captured = compiler.capture_tree(tree, choices)
    link.check()
    walked = []
    for index, (tracee, state) in enumerate(zip(tree.tracees, captured.processes, strict=True)):
        eager, carried = compiler.eager_ranges(state), compiler.carried_chunks(captured, index)
        walked.append(memory.capture(tracee, state.vmas, eager, memory_held, link.progress, carried))
        memory_held.end_map()
    return captured, walked
