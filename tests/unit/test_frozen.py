# SPDX-License-Identifier: Apache-2.0
"""A tree that is held stands still, all of it, or it is not held at all."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import pytest

from restorer.errors import ProcessError
from restorer.frozen import seize_tree
from restorer.procfs import Process

SOURCE = Path(__file__).parent / "tracee" / "chain.c"


@pytest.mark.parametrize("microseconds", [5000, 20000])
def test_a_chain_of_forks_is_held_or_not(tmp_path: Path, microseconds: int) -> None:
    """Each process lives for a moment: who is found dead may have left another behind."""
    chain = tmp_path / "chain"
    subprocess.run(["gcc", "-O2", "-Wall", "-Wextra", "-Werror", "-o", chain, SOURCE], check=True)
    with subprocess.Popen([chain, str(microseconds)], stdout=subprocess.PIPE) as child:
        try:
            assert child.stdout is not None and child.stdout.read(6) == b"ready\n"
            for _ in range(2):
                _hold(child.pid)
        finally:
            child.kill()  # and with it the chain ends


def _hold(pid: int) -> None:
    try:
        with seize_tree(pid) as frozen:
            everybody = sorted([*frozen.pids[1:], *frozen.zombies])
            time.sleep(0.1)
            assert sorted(child for one in frozen.pids for child in Process(one).children()) == everybody
    except ProcessError as error:
        assert "faster than they can be held" in str(error)
    assert Process(pid).status.tracer == 0
