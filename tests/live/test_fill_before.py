# SPDX-License-Identifier: Apache-2.0
"""With all memory in place before resume, nothing of the restore stays behind a program that sleeps."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

from tests.live.harness import Program, Restorer

# The pager looks at its fds once a second when nothing happens, and at the launcher's word more often.
LEAVES_WITHIN_MS = 300


def test_pager_leaves_at_once(restorer: Restorer, program: Callable[[str], Program], workdir: Path) -> None:
    started = program("restart_pause")
    restorer.checkpoint(started.pid, "image")
    started.reap()
    stats = workdir / "stats"
    restored = restorer.restore("image", "--fill", "before", "--stats", stats)
    restored.wait_loaded()
    resumed, loaded = map(json.loads, stats.read_text().splitlines())
    assert loaded["loaded_ms"] - resumed["resume_ms"] < LEAVES_WITHIN_MS
    started.go()
    assert started.result(restored) == "ok\n"
    restored.wait_gone()
