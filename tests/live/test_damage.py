# SPDX-License-Identifier: Apache-2.0
"""A damaged store gives an error, or SIGBUS at the page that is lost; never wrong bytes."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.harness import Program, Restored, Restorer, build, kill_all

WINDOW = 1 << 16
ZSTD_MAGIC = b"\x28\xb5\x2f\xfd"


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Program]:
    """`verify`, stored in a folder of its own."""
    folder = tmp_path_factory.mktemp("damage")
    program = Program("verify", build("verify"), folder)
    program.start()
    Restorer(folder / "store").checkpoint(program.pid)
    program.reap()
    yield program


@pytest.fixture
def copy(original: Program, restorer: Restorer) -> Path:
    """data.mdb of a copy of the store, to be damaged."""
    original.reset()
    shutil.copytree(original.workdir / "store", restorer.store)
    return restorer.store / "data.mdb"


def outcome(restorer: Restorer, original: Program, fill: str) -> str:
    """error (said in one line), died (without a result), or ok; anything else fails."""
    done = restorer.run("restore", "image", "-d", "--json", "--fill", fill)
    if done.returncode:
        assert done.returncode == 125 and len(done.stderr.strip().splitlines()) == 1, done.stderr
        return "error"
    pid = json.loads(done.stdout)["pid"]
    try:
        restored = Restored(pid, 0, os.pidfd_open(pid))
    except ProcessLookupError:
        return "died"
    original.go()
    said = original.result(restored)
    kill_all([pid])
    assert said in ("", "ok\n"), said
    return "ok" if said else "died"


def flip(path: Path, offset: int) -> None:
    with path.open("r+b") as file:
        file.seek(offset)
        byte = file.read(1)[0]
        file.seek(offset)
        file.write(bytes([byte ^ 0x40]))


@pytest.mark.parametrize("seed", range(10))
@pytest.mark.parametrize("fill", ["background", "none", "before"])
def test_one_byte(copy: Path, restorer: Restorer, original: Program, seed: int, fill: str) -> None:
    flip(copy, random.Random(seed).randrange(copy.stat().st_size))
    outcome(restorer, original, fill)


@pytest.mark.parametrize("fill", ["background", "none", "before"])
def test_a_byte_in_every_chunk(copy: Path, restorer: Restorer, original: Program, fill: str) -> None:
    for offset in range(2 * WINDOW, copy.stat().st_size, WINDOW // 2):
        flip(copy, offset)
    assert outcome(restorer, original, fill) in ("error", "died")
    assert restorer.run("verify", "image").returncode == 1


@pytest.mark.parametrize("kept", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_truncated(copy: Path, restorer: Restorer, original: Program, kept: float) -> None:
    os.truncate(copy, int(copy.stat().st_size * kept))
    assert outcome(restorer, original, "background") in ("error", "died")


def test_truncated_while_loading(copy: Path, restorer: Restorer, original: Program) -> None:
    restored = restorer.restore("image", "--fill", "none")
    os.truncate(copy, copy.stat().st_size // 2)
    original.go()
    assert original.result(restored) == ""
    restored.wait_gone()


def test_removed_while_loading(copy: Path, restorer: Restorer, original: Program) -> None:
    restored = restorer.restore("image", "--fill", "none")
    shutil.rmtree(restorer.store)
    original.go()
    assert original.result(restored) == "ok\n"


def test_removed(copy: Path, restorer: Restorer, original: Program) -> None:
    copy.unlink()
    assert str(restorer.store) in restorer.fails("restore", "image", "-d", code=125)


def test_healthy(copy: Path, restorer: Restorer, original: Program, request: pytest.FixtureRequest) -> None:
    assert outcome(restorer, original, "none") == "ok"
    restorer.ok("verify", "image")


def test_verify_finds_every_flip(copy: Path, restorer: Restorer, program: Callable[[str], Program]) -> None:
    # Inside the frames of chunks: what lies between a frame and the end of its last page belongs to nobody.
    frames = [found.start() for found in re.finditer(re.escape(ZSTD_MAGIC), copy.read_bytes())]
    chance = random.Random(1)
    for frame in chance.sample(frames[len(frames) // 4 : 3 * len(frames) // 4], 5):
        offset = frame + chance.randrange(len(ZSTD_MAGIC), 2000)
        flip(copy, offset)
        done = restorer.run("verify", "image")
        assert done.returncode == 1 and "damage" in done.stdout + done.stderr
        flip(copy, offset)
    restorer.ok("verify", "image")
