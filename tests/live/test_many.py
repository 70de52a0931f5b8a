# SPDX-License-Identifier: Apache-2.0
"""Many copies of one service side by side, each in a PID namespace and on a port of its own."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from images import free_port
from images.http_cache.recipe import HttpCache
from tests.live.harness import Restored, Restorer, is_running

COPIES = int(os.environ.get("RESTORER_COPIES", "50"))
MEGABYTES = os.environ.get("RESTORER_COPIES_MB", "40")


@pytest.mark.slow
def test_many(restorer: Restorer, workdir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTORER_CACHE_MB", MEGABYTES)
    with HttpCache(workdir) as recipe:
        recipe.start()
        recipe.wait_ready()
        restorer.checkpoint(recipe.pid)
        old = recipe.port

        def restore(port: int) -> tuple[int, Restored]:
            return port, restorer.restore("image", "--pid", "ns", "-p", f"{port}:{old}")

        ports: set[int] = set()
        while len(ports) < COPIES:
            ports.add(free_port())
        with ThreadPoolExecutor(8) as pool:
            copies = list(pool.map(restore, ports))
        assert len({restored.pid for _, restored in copies}) == COPIES
        for port, _ in copies:
            recipe.port = port
            recipe.check()
        for _, restored in copies:
            restored.wait_loaded()
            assert is_running(restored.pid)
