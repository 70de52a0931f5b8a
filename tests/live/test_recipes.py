# SPDX-License-Identifier: Apache-2.0
"""The real programs of images/: one image each, restored in every way, and its answers compared."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

import images
from images import Recipe
from restorer.store import open_store
from restorer.store_format import DATABASES
from tests.live.harness import Restorer, descendants, kill_all, status

FILLS = ["background", "none", "before"]
MODES = ["same", "ns"]


# A group each: the tests of one recipe run in one worker, so that it is set up once.
@pytest.fixture(
    scope="module", params=[pytest.param(name, marks=pytest.mark.xdist_group(name)) for name in images.NAMES]
)
def taken(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Recipe, Restorer]]:
    """A recipe whose program has been checkpointed and is gone, and who can restore it."""
    folder = tmp_path_factory.mktemp(request.param)
    restorer = Restorer(folder / "store", installed=True)
    with images.load(request.param, folder) as recipe:
        recipe.start()
        recipe.wait_ready()
        resident = int(status(recipe.pid, "RssAnon").split()[0]) * 1024
        restorer.checkpoint(recipe.pid, recipe.name, "-R")
        before = used_bytes(restorer)
        if recipe.name == "http_cache":
            assert before <= resident / 5, "the image is more than a fifth of the memory"
        recipe.first_request()
        restorer.checkpoint(recipe.pid, "again")
        if recipe.name == "http_cache":
            assert used_bytes(restorer) - before <= 0.05 * before, "a second image adds more than 5 %"
        assert recipe.process is not None and recipe.process.wait(20) == -9
        yield recipe, restorer


def used_bytes(restorer: Restorer) -> int:
    """What the store takes, without the pages of its file that are free for the next image."""
    with open_store(restorer.store) as store, store.env.begin() as txn:
        databases = [store.env.open_db(name.encode(), txn=txn, create=False) for name in DATABASES]
        stats = [store.env.stat(), *(txn.stat(db) for db in databases)]
    pages = sum(stat["branch_pages"] + stat["leaf_pages"] + stat["overflow_pages"] for stat in stats)
    return pages * stats[0]["psize"]


@pytest.mark.slow
@pytest.mark.parametrize("fill", FILLS)
@pytest.mark.parametrize("mode", MODES)
def test_answers_are_right(taken: tuple[Recipe, Restorer], cleanup: None, fill: str, mode: str) -> None:
    recipe, restorer = taken
    if recipe.foreground:
        with restorer.foreground(
            "again", "--fill", fill, "--pid", mode, stdin=subprocess.PIPE, stdout=subprocess.PIPE
        ) as process:
            recipe.attach(process)
            recipe.first_request()
            recipe.check()
        return
    port, recipe.port = recipe.port, images.free_port()
    try:
        restored = restorer.restore("again", "--fill", fill, "--pid", mode, "-p", f"{recipe.port}:{port}")
        recipe.first_request()
        recipe.check()
        if fill == "background":
            restored.wait_loaded()
            recipe.check()
        kill_all([restored.pid, *descendants(restored.pid)])
    finally:
        recipe.port = port
