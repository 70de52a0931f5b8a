# SPDX-License-Identifier: Apache-2.0
"""Every program of tests/programs comes back as it was: `pytest -k timers` runs the one about timers."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from restorer.probe import takes_ports_in_time_wait
from tests.live.harness import CHECKPOINT_OPTIONS, HUGE_PAGES, PROGRAMS, Program, Restored, Restorer

# `stopped` has to be woken; `verify` is for tests that damage the store; `clone_vm` and `vfork` are refused
# (test_trees.py); `hugetlb_gigantic` takes seconds (test_hugetlb.py); the others have peers.
STEMS = sorted(
    {path.stem for path in PROGRAMS.glob("*.c")}
    - {
        "clone_vm",
        "hugetlb_gigantic",
        "stopped",
        "tcp_connecting",
        "tcp_outside",
        "unix_outside",
        "verify",
        "vfork",
    }
)
# What they need of the machine, not of its processes alone.
ALONE = {
    "hugetlb_sysv": ("hugetlb", "sysv"),
    "netlink": ("links",),
    "packet": ("links",),
    "sysvipc": ("sysv",),
    "sysvshm": ("sysv",),
    "tcp_inside": ("firewall",),
} | {name: ("hugetlb",) for name in HUGE_PAGES if name != "hugetlb_sysv"}
# What they need of the kernel.
LACKING = set() if takes_ports_in_time_wait() else {"tcp_timewait"}


def marks(stem: str) -> list[pytest.MarkDecorator]:
    skip = [pytest.mark.skip(reason="`restorer check` says what is missing")] if stem in LACKING else []
    return [*map(pytest.mark.alone, ALONE.get(stem, ())), *skip]


NAMES = [pytest.param(stem, marks=marks(stem)) for stem in STEMS]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("fill", ["background", "none"])
def test_same_pid(roundtrip: Callable[..., Restored], name: str, fill: str) -> None:
    roundtrip(name, "--fill", fill)


@pytest.mark.parametrize("name", NAMES)
def test_pid_namespace(roundtrip: Callable[..., Restored], name: str) -> None:
    roundtrip(name, "--pid", "ns", "--fill", "before")


@pytest.mark.parametrize("name", NAMES)
def test_original_goes_on(restorer: Restorer, program: Callable[[str], Program], name: str) -> None:
    started = program(name)
    restorer.checkpoint(started.pid, "image", "-R", *CHECKPOINT_OPTIONS.get(name, ()))
    started.go()
    assert started.result() == "ok\n"
    assert started.reap() == 0
