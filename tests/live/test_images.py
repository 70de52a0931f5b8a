# SPDX-License-Identifier: Apache-2.0
"""Programs of Debian (images/): taken under load, restored twice from one image, asked by their own clients.

What is not installed is skipped by name; `make test-images` installs all of them and runs this.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

import images
from images.installed import Installed
from tests.live.harness import Restored, Restorer, descendants, still_running, wait_until

ROUNDS = 2


@pytest.fixture
def recipe(request: pytest.FixtureRequest, workdir: Path, cleanup: None) -> Iterator[Installed]:
    """The recipe named by the parameter, its program started and its first answers right."""
    recipe = images.load(request.param, workdir)
    assert isinstance(recipe, Installed)
    if missing := recipe.missing():
        reason = f"not installed: {' '.join(missing)}; make test-images"
        pytest.fail(reason) if os.environ.get("RESTORER_IMAGES") == "all" else pytest.skip(reason)
    with recipe:
        recipe.start()
        recipe.wait_ready()
        yield recipe


def take_busy(recipe: Installed, restorer: Restorer) -> None:
    """Checkpoints it while clients are at work, whose connections end."""
    with recipe.busy():
        take(recipe, restorer, *recipe.options)


def take(recipe: Installed, restorer: Restorer, *options: str) -> None:
    """Checkpoints it; its processes have ended and been reaped."""
    restorer.checkpoint(recipe.pid, recipe.name, *options)
    births = json.loads(restorer.ok("show", recipe.name, "--json"))["manifest"]["births"]["processes"]
    assert len(births) >= recipe.processes
    taken = [task["session"]["pid"] for one in births for task in (one, *one["zombies"])]
    wait_until(lambda: not still_running(taken), "the processes that were taken to end")
    recipe.keep()


def end(recipe: Installed, restored: Restored) -> None:
    """It ends in good order, and nothing of it stays."""
    everybody = [restored.pid, *descendants(restored.pid)]
    os.kill(restored.pid, recipe.end_signal)
    wait_until(lambda: not still_running(everybody), f"{recipe.name} to end by {recipe.end_signal}", 30)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", images.SERVICES, indirect=True)
def test_service_taken_under_load(recipe: Installed, restorer: Restorer) -> None:
    recipe.check()
    take_busy(recipe, restorer)
    for _ in range(ROUNDS):
        recipe.put_back()
        restored = restorer.restore(recipe.name)
        recipe.first_request()
        recipe.check()
        restored.wait_loaded()
        recipe.check()
        end(recipe, restored)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", images.PROGRAMS, indirect=True)
def test_original_and_its_clients_notice_nothing(recipe: Installed, restorer: Restorer) -> None:
    with recipe.busy() as load:
        for _ in range(3):
            restorer.checkpoint(recipe.pid, recipe.name, "-R", "--replace", *recipe.options)
        assert load.errors() == ""
    recipe.check()


@pytest.mark.slow
@pytest.mark.xdist_group("firewall")
@pytest.mark.parametrize("recipe", images.SERVICES, indirect=True)
def test_clients_go_on_over_their_connections(recipe: Installed, restorer: Restorer) -> None:
    with recipe.busy() as load:
        take(recipe, restorer, "--tcp", "established")
        restored = restorer.restore(recipe.name)
        load.go_on()
        restored.wait_loaded()
        load.go_on()
        assert load.errors() == ""
    recipe.check()
    end(recipe, restored)
    recipe.put_back()
    restored = restorer.restore(recipe.name)
    recipe.first_request()
    recipe.check()
    end(recipe, restored)


@pytest.mark.slow
@pytest.mark.parametrize("recipe", images.FOREGROUND, indirect=True)
def test_foreground_goes_on(recipe: Installed, restorer: Restorer) -> None:
    take_busy(recipe, restorer)
    for _ in range(ROUNDS):
        recipe.put_back()
        with restorer.foreground(recipe.name, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            recipe.attach(process)
            recipe.first_request()
            recipe.check()


@pytest.mark.slow
@pytest.mark.parametrize("recipe", ["memcached", "node", "java"], indirect=True)
def test_copies_side_by_side(recipe: Installed, restorer: Restorer) -> None:
    take_busy(recipe, restorer)
    taken, ports = recipe.port, []
    for _ in range(ROUNDS):
        ports.append(images.free_port())
        restorer.restore(recipe.name, "--pid", "ns", "-p", f"{ports[-1]}:{taken}")
    for recipe.port in (*ports, *ports):
        recipe.first_request()
        recipe.check()
