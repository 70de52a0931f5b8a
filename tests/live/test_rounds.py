# SPDX-License-Identifier: Apache-2.0
"""The self-checking threads, checkpointed and restored again and again; RESTORER_ROUNDS says how often."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from images.threads.recipe import Threads
from tests.live.harness import Restorer, kill_all

ROUNDS = int(os.environ.get("RESTORER_ROUNDS", "4"))
FILLS = ("background", "before")


@pytest.mark.slow
def test_rounds(restorer: Restorer, workdir: Path) -> None:
    with Threads(workdir) as recipe:
        recipe.start()
        recipe.wait_ready()
        recipe.check()
        pid = recipe.pid
        for number in range(ROUNDS):
            restorer.checkpoint(pid, f"round{number}")
            # A zombie keeps its PID, and whoever has lost its launcher is a child of ours.
            kill_all([pid])
            restored = restorer.restore(f"round{number}", "--fill", FILLS[number % 2])
            recipe.first_request()
            recipe.check()
            # Until then the pager shares its memory, which a checkpoint refuses.
            restored.wait_loaded()
            pid = restored.pid
            if number % 4 == 3:
                restorer.ok("rm", f"round{number - 1}")
                restorer.ok("gc")
        kill_all([pid])
