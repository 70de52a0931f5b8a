# SPDX-License-Identifier: Apache-2.0
"""What a restore with --record needed comes first in the next one; a damaged working set harms nobody."""

from __future__ import annotations

import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest

import images
from restorer import telemetry
from restorer.procfs import Process
from restorer.store import open_store
from tests.live.harness import Program, Restored, Restorer, kill_all, read_memory, wait_until


def recordings(restorer: Restorer) -> list[Path]:
    return list((restorer.store / "recordings").glob("[!.]*"))


def drop_cached(restorer: Restorer) -> None:
    """The store out of the page cache; where it lies in memory nothing happens."""
    with (restorer.store / "data.mdb").open("rb") as file:
        os.fsync(file.fileno())
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)


def optimize(restorer: Restorer, name: str = "image") -> dict[str, int]:
    answer: dict[str, int] = json.loads(restorer.ok("optimize", name, "--json"))
    return answer


def faults_to_first_reply(restorer: Restorer, recipe: images.Recipe, *arguments: str) -> int:
    restored = restorer.restore(recipe.name, *arguments)
    recipe.first_request()
    faults = telemetry.find(str(restored.pid)).counters["faults"]
    recipe.check()
    if "--record" in arguments:
        wait_until(lambda: bool(recordings(restorer)), "the recording")
    kill_all([restored.pid])
    return faults


@pytest.mark.parametrize("name", ["http_cache", "http_numpy"])
def test_second_restore(restorer: Restorer, workdir: Path, name: str) -> None:
    with images.load(name, workdir) as recipe:
        recipe.start()
        recipe.wait_ready()
        restorer.checkpoint(recipe.pid, name)
        recipe.stop()
        # Every fault that the reply needs: without the fill, which may be faster than the program.
        first = faults_to_first_reply(restorer, recipe, "--record", "--fill", "background")
        assert optimize(restorer, name)["recordings"] == 1
        drop_cached(restorer)
        second = faults_to_first_reply(restorer, recipe, "--fill", "none")
        assert second <= first * 0.05, f"{second} faults after {first}"
    restorer.ok("verify")


@pytest.fixture
def recorded(restorer: Restorer, program: Callable[[str], Program]) -> Callable[[], tuple[Program, Restored]]:
    """`verify`, all of whose memory is its working set, and how to restore it."""
    started = program("verify")
    restorer.checkpoint(started.pid)
    started.reap()
    first = restorer.restore("image", "--record", "--fill", "none")
    # Some of it is used at its start only, and where nothing else of a chunk is, the chunk would never come.
    for vma in Process(first.pid).maps():
        if vma.anonymous and vma.prot & mmap.PROT_READ:
            read_memory(first.pid, vma.start, vma.length)
    started.go()
    assert started.result(first) == "ok\n"
    first.wait_gone()
    kill_all([first.pid])
    wait_until(lambda: bool(recordings(restorer)), "the recording")
    assert optimize(restorer)["memory_bytes"] >= 16 << 20
    started.reset()

    def again() -> tuple[Program, Restored]:
        return started, restorer.restore("image", "--fill", "none")

    return again


def finish(started: Program, restored: Restored) -> None:
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()


def test_nothing_is_missing(recorded: Callable[[], tuple[Program, Restored]], restorer: Restorer) -> None:
    started, restored = recorded()
    restored.wait_loaded()
    finish(started, restored)
    assert recordings(restorer) == []


def test_damaged_blocks(recorded: Callable[[], tuple[Program, Restored]], restorer: Restorer) -> None:
    damage(restorer, -1000, 100)
    assert "working set" in restorer.run("verify").stdout
    finish(*recorded())


def test_damaged_index(recorded: Callable[[], tuple[Program, Restored]], restorer: Restorer) -> None:
    damage(restorer, 20, 60)
    finish(*recorded())
    optimize(restorer)


def damage(restorer: Restorer, at: int, count: int) -> None:
    with open_store(restorer.store) as store:
        entry = next(iter(store.snapshot.entries("hot")))
    with (restorer.store / "data.mdb").open("r+b") as file:
        file.seek(entry.offset + at % entry.length)
        file.write(b"\x55" * count)


def test_loaded_while_recording(restorer: Restorer, program: Callable[[str], Program]) -> None:
    """--record holds the fill back for a moment only."""
    started = program("verify")
    restorer.checkpoint(started.pid)
    started.reap()
    restored = restorer.restore("image", "--record")
    restored.wait_loaded()
    assert len(recordings(restorer)) == 1
    kill_all([restored.pid])


def test_a_store_that_cannot_be_written(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("verify")
    restorer.checkpoint(started.pid)
    started.reap()
    (restorer.store / "recordings").write_text("in the way")
    assert "--record" in restorer.fails("restore", "image", "-d", "--record", code=125)
