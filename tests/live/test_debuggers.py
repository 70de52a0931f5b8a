# SPDX-License-Identifier: Apache-2.0
"""Who looks from outside while memory is missing: gdb, strace, a core dump. None is given a wrong byte that
it is not told of, and the program goes on.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import struct
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.live.harness import Program, Restored, Restorer, is_running, read_memory, wait_until

PAGE = 4096
AREA_PAGES = 8192
UNTOUCHED = (3, 5)  # of every eight pages of memory_fill
_U64 = (1 << 64) - 1


def needs(tool: str) -> pytest.MarkDecorator:
    return pytest.mark.skipif(shutil.which(tool) is None, reason=f"needs {tool}")


def mix(z: int) -> int:
    """memory_mix of tests/programs/memory.h."""
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9 & _U64
    z = (z ^ (z >> 27)) * 0x94D049BB133111EB & _U64
    return z ^ (z >> 31)


def page_words(number: int, count: int = 512) -> list[int]:
    """What `verify` has written to page `number`."""
    return [0 if number % 8 in UNTOUCHED else mix(1 + number * 512 + word) for word in range(count)]


def area_of(pid: int) -> int:
    """Where the 32 MB of `verify` begin; the kernel may have joined them with a neighbour below."""
    for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
        start, end = (int(word, 16) for word in line.split()[0].split("-"))
        if end - start >= AREA_PAGES * PAGE and len(line.split()) == 5 and " rw-p " in line:
            return end - AREA_PAGES * PAGE if end - start < AREA_PAGES * PAGE + (1 << 20) else start
    raise AssertionError("no mapping of 32 MB")


@pytest.fixture
def lazy(restorer: Restorer, program: Callable[[str], Program]) -> tuple[Program, Restored, int]:
    """`verify` without its memory, and where that is."""
    started = program("verify")
    area = area_of(started.pid)
    check_area(started.pid, area)
    restorer.checkpoint(started.pid)
    started.reap()
    return started, restorer.restore("image", "--fill", "none"), area


def check_area(pid: int, area: int) -> None:
    with Path(f"/proc/{pid}/mem").open("rb", buffering=0) as memory:
        memory.seek(area + 17 * PAGE)
        assert struct.unpack("<4Q", memory.read(32)) == tuple(page_words(17, 4))


def gdb(pid: int, *commands: str) -> str:
    options = [word for command in commands for word in ("-ex", command)]
    done = subprocess.run(
        ["gdb", "-nx", "-batch", "-p", str(pid), *options],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.stdout + done.stderr


def seen_by_gdb(said: str, area: int) -> dict[int, int]:
    """Page -> word, of what `x/1gx` has shown."""
    shown = re.findall(r"^0x([0-9a-f]+)(?: <[^>]*>)?:\s+0x([0-9a-f]+)$", said, re.M)
    return {(int(at, 16) - area) // PAGE: int(word, 16) for at, word in shown}


@needs("gdb")
def test_gdb_sees_what_is_right_or_nothing(lazy: tuple[Program, Restored, int]) -> None:
    started, restored, area = lazy
    pages = [64 * i + i % 7 for i in range(100)]
    asked = ["bt", "info registers rip"] + [f"x/1gx {area + page * PAGE}" for page in pages]
    said = gdb(restored.pid, *asked)
    seen = seen_by_gdb(said, area)
    assert {page: word for page, word in seen.items() if word != page_words(page, 1)[0]} == {}
    assert len(seen) < len(pages), "nothing was missing"
    assert "Cannot access memory at address" in said
    assert re.search(r"^#0 ", said, re.M), said
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()


@needs("gdb")
def test_gdb_while_threads_wait_for_pages(restorer: Restorer, program: Callable[[str], Program]) -> None:
    started = program("during_arrival")
    restorer.checkpoint(started.pid)
    started.reap()
    restored = restorer.restore("image", "--fill", "none")
    started.go()
    for _ in range(3):
        if not is_running(restored.pid):
            break
        said = gdb(restored.pid, "thread apply all bt 2")
        assert "#0 " in said or not is_running(restored.pid), said
    assert started.result(restored) == "ok\n"
    restored.wait_gone()


@needs("strace")
def test_strace(lazy: tuple[Program, Restored, int], workdir: Path) -> None:
    started, restored, _ = lazy
    trace = workdir / "trace"
    strace = subprocess.Popen(
        ["strace", "-f", "-o", trace, "-p", str(restored.pid)],
        stderr=subprocess.DEVNULL,
        stdin=subprocess.DEVNULL,
    )
    wait_until(lambda: trace.exists() and "nanosleep" in trace.read_text(), "strace to see a call")
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()
    assert strace.wait(20) == 0
    assert "exited with 0" in trace.read_text()


def core_words(data: bytes, addr: int, count: int) -> list[int] | None:
    """What a core dump has at `addr`; None where it has nothing."""
    offset, size, number = struct.unpack_from("<Q14xHH", data, 32)
    for i in range(number):
        kind, _, at, start, _, stored, _, _ = struct.unpack_from("<IIQQQQQQ", data, offset + i * size)
        if kind == 1 and start <= addr and addr + 8 * count <= start + stored:
            return list(struct.unpack_from(f"<{count}Q", data, at + addr - start))
    return None


@pytest.mark.skipif(
    Path("/proc/sys/kernel/core_pattern").read_text().strip() != "core", reason="core dumps go elsewhere"
)
def test_core_dump_is_told(restorer: Restorer, program: Callable[[str], Program]) -> None:
    """The kernel leaves missing pages out (PF_DUMPCORE in handle_userfault): what it has is right."""
    started = program("verify")
    area = area_of(started.pid)
    limit = resource.prlimit(started.pid, resource.RLIMIT_CORE)[1]
    if limit == 0:
        pytest.skip("core dumps are not allowed")
    resource.prlimit(started.pid, resource.RLIMIT_CORE, (limit, limit))
    restorer.checkpoint(started.pid)
    started.reap()
    with restorer.foreground(
        "image", "--fill", "none", stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    ) as launcher:
        wait_until(
            lambda: is_running(started.pid) and os.readlink(f"/proc/{started.pid}/exe").endswith("verify"),
            "it",
        )
        time.sleep(0.3)
        brought = peek(started.pid, area + 4000 * PAGE)
        os.kill(started.pid, signal.SIGSEGV)
        assert launcher.wait(30) == 128 + signal.SIGSEGV
        assert launcher.stderr is not None
        said = launcher.stderr.read().decode()
    assert brought == page_words(4000, 1)[0]
    assert re.search(r"core dump.* process \d+ .*missing.* zeroes", said), said
    core = next(path for path in started.workdir.iterdir() if path.name.startswith("core")).read_bytes()
    assert core_words(core, area + 4000 * PAGE, 512) == page_words(4000)
    pages = [core_words(core, area + page * PAGE, 512) for page in range(0, AREA_PAGES, 64)]
    wrong = [i * 64 for i, words in enumerate(pages) if words not in (None, [0] * 512, page_words(i * 64))]
    assert wrong == []
    assert [0] * 512 in pages or None in pages, "nothing was missing"


def peek(pid: int, addr: int) -> int:
    return int.from_bytes(read_memory(pid, addr, 8), "little")
