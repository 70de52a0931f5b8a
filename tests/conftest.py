# SPDX-License-Identifier: Apache-2.0
"""Fixtures of the live tests. On a machine that cannot run them they are skipped; with CI=true they fail."""

from __future__ import annotations

import fcntl
import functools
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NoReturn

import pytest

from tests.live import harness
from tests.live.commands import commands
from tests.live.harness import CHECKPOINT_OPTIONS, HugePages, Program, Restored, Restorer

LIVE = Path(__file__).parent / "live"
SMALL_HUGE_KIB = 2048


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "live: restores real processes; needs root and userfaultfd")
    config.addinivalue_line("markers", "slow: takes more than ten seconds")
    config.addinivalue_line("markers", "alone(WHAT): no other test that is alone with WHAT runs meanwhile")
    harness.become_subreaper()
    harness.leave_others()
    # A shell without job control starts what it puts in the background with SIGINT ignored, and nohup
    # ignores SIGHUP: tests that send these, and the programs they start, must not depend on that.
    for number in (signal.SIGHUP, signal.SIGQUIT, signal.SIGTERM):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # pytest-xdist looks for its marks in the same hook
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if LIVE in item.path.parents:
            item.add_marker(pytest.mark.live)
        if mark := item.get_closest_marker("alone"):
            item.add_marker(pytest.mark.xdist_group(mark.args[0]))


def pytest_collection_finish(session: pytest.Session) -> None:
    """Groups must be groups: pytest 9.2 silently ignores the suffix of IDs by which pytest-xdist 3.8 makes
    them, and two workers then wait for each other's `alone`.
    """
    if getattr(session.config.option, "loadgroup", False):
        for item in session.items:
            if item.get_closest_marker("xdist_group") and "@" not in item.nodeid:
                raise pytest.UsageError(
                    "pytest-xdist does not keep groups together with this version of pytest"
                )


@pytest.fixture(autouse=True)
def alone(request: pytest.FixtureRequest) -> Iterator[None]:
    """What a test shares with the whole machine is its own, for as long as other tests run by this rule:
    those of another worker, and of another `make test`.
    """
    with ExitStack() as held:
        for what in sorted({mark.args[0] for mark in request.node.iter_markers("alone")}):
            lock = held.enter_context(Path(tempfile.gettempdir(), f"restorer-test-{what}.lock").open("w"))
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@functools.cache
def _missing() -> str:
    return harness.missing_requirement()


@pytest.fixture(autouse=True)
def requirements(request: pytest.FixtureRequest, alone: None) -> None:
    if request.node.get_closest_marker("live") is not None:
        if _missing():
            _not_here(_missing())
        commands()  # whatever a test starts comes after this process


def _not_here(reason: str) -> NoReturn:
    if os.environ.get("CI") == "true":
        pytest.fail(reason)
    pytest.skip(reason)


@pytest.fixture(autouse=True)
def nothing_left(request: pytest.FixtureRequest, requirements: None) -> Iterator[None]:
    """No process and no mount outlives a test; what does is ended, and the test fails."""
    if request.node.get_closest_marker("live") is None:
        yield
        return
    processes, mounts = set(harness.descendants(os.getpid())), harness.mounts()
    yield
    left = [pid for pid in harness.descendants(os.getpid()) if pid not in processes]
    # What a test has ended takes its launcher, and the init of its namespace, along.
    with suppress(AssertionError):
        harness.wait_until(lambda: not harness.still_running(left), "what ends by itself", 5.0)
    running = {pid: harness.status(pid, "Name") for pid in left if harness.is_running(pid)}
    harness.kill_all_but(processes)
    assert not running, f"left behind: {running}"
    assert harness.mounts() == mounts


@pytest.fixture
def cleanup(nothing_left: None, huge_pages: object) -> Iterator[None]:
    """Ends every process that was started since, restored ones and their launchers included."""
    before = set(harness.descendants(os.getpid()))
    yield
    harness.kill_all_but(before)


@pytest.fixture
def workdir(request: pytest.FixtureRequest) -> Iterator[Path]:
    """A folder in memory, where there is room; kept when the test fails."""
    base = "/dev/shm" if shutil.disk_usage("/dev/shm").free > 2 << 30 else None
    path = Path(tempfile.mkdtemp(prefix=harness.WORKDIR_PREFIX, dir=base))
    path.chmod(0o755)  # for programs that give up their powers
    failed = request.session.testsfailed
    yield path
    harness.unmount_below(path)
    if request.session.testsfailed == failed:
        shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def store(workdir: Path) -> Path:
    return workdir / "store"


@pytest.fixture
def restorer(store: Path, cleanup: None) -> Restorer:
    return Restorer(store)


@pytest.fixture
def not_here() -> Callable[[str], NoReturn]:
    """`not_here(reason)`: this machine cannot run the test."""
    return _not_here


@pytest.fixture
def huge_pages(nothing_left: None) -> Iterator[Callable[..., HugePages]]:
    """`huge_pages(16)`: so many huge pages of hugetlbfs are there for the test (`harness.huge_pages`), and
    gone when `cleanup` has ended who uses them.
    """
    with ExitStack() as pools:

        def add(pages: int, size_kib: int = SMALL_HUGE_KIB) -> HugePages:
            pool = HugePages(size_kib)
            if size_kib > SMALL_HUGE_KIB:
                # To make one the kernel moves what other programs have there, and keeps them waiting while
                # other tests freeze them: only those that are there are used.
                if pool.free < pages:
                    pytest.skip(f"needs {pages} free huge pages of {size_kib} KiB: raise nr_hugepages")
                return pool
            try:
                return pools.enter_context(harness.huge_pages(pages, size_kib))
            except OSError as error:
                _not_here(f"huge pages: {error.strerror}")

        yield add


@pytest.fixture
def program(
    workdir: Path, cleanup: None, huge_pages: Callable[..., HugePages]
) -> Iterator[Callable[[str], Program]]:
    """`program("timers")`: that one, started and ready. Objects of IPC that it tells of in its folder are
    gone afterwards.
    """
    folders = []

    def start(name: str) -> Program:
        folder = workdir / f"{name}-{len(list(workdir.iterdir()))}"
        folder.mkdir()
        folders.append(folder)
        if name in harness.HUGE_PAGES:
            huge_pages(*harness.HUGE_PAGES[name])
        started = Program(name, harness.build(name), folder)
        started.start()
        return started

    yield start
    for folder in folders:
        harness.remove_ipc(folder)


@pytest.fixture
def stored(request: pytest.FixtureRequest, restorer: Restorer, program: Callable[[str], Program]) -> Program:
    """The PROGRAM of the module, in the store as `image`, killed."""
    return restorer.take(program(request.module.PROGRAM))


@pytest.fixture
def roundtrip(restorer: Restorer, program: Callable[[str], Program]) -> Callable[..., Restored]:
    """`roundtrip("timers", "--fill", "none")`: started, checkpointed, gone, restored (these arguments are for
    restore), and content with what it finds. Gives what was restored."""

    def run(name: str, *arguments: object) -> Restored:
        started = program(name)
        restorer.checkpoint(started.pid, name, *CHECKPOINT_OPTIONS.get(name, ()))
        assert started.reap() == -9
        restored = restorer.restore(name, *arguments)
        started.go()
        assert started.result(restored) == "ok\n"
        restored.wait_gone()
        return restored

    return run
