# SPDX-License-Identifier: Apache-2.0
"""checkpoint, killed with -9 at any moment: the target runs on, the store is what it was."""

from __future__ import annotations

import json
import os
import random
import subprocess
import time
from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restorer, status, wait_until

KILLS = int(os.environ.get("RESTORER_KILLS", "15"))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["verify", "registers", "restart_epoll"])
def test_kill_checkpoint(restorer: Restorer, program: Callable[[str], Program], name: str) -> None:
    started = program(name)
    began = time.monotonic()
    restorer.checkpoint(started.pid, "first", "-R")
    duration_s = time.monotonic() - began
    chance = random.Random(name)
    for number in range(KILLS):
        command = restorer.command("checkpoint", started.pid, f"killed{number}", "-R")
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(chance.uniform(0, min(duration_s, 0.49)))
        process.kill()
        process.wait()
        wait_until(lambda: status(started.pid, "TracerPid") == "0", "the target to be let go")
        wait_until(lambda: status(started.pid, "State")[:1] in "RS", "the target to run on")
    check_store(restorer)
    restorer.checkpoint(started.pid, "last", "-R")
    started.go()
    assert started.result() == "ok\n"
    assert started.reap() == 0
    check_last_image(restorer, started)


def check_store(restorer: Restorer) -> None:
    listed = json.loads(restorer.ok("list", "--json"))
    names = [image["name"] for image in listed["images"]]
    assert "first" in names
    for name in names:
        restorer.ok("verify", name)


def check_last_image(restorer: Restorer, started: Program) -> None:
    started.reset()
    restored = restorer.restore("last")
    started.go()
    assert started.result(restored) == "ok\n"
