# SPDX-License-Identifier: Apache-2.0
"""Objects of IPC that have gone since the checkpoint are made anew."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from tests.live.harness import Program, Restorer, remove_ipc

SYSV = pytest.mark.alone("sysv")


@pytest.mark.parametrize(
    "name", ["mqueues", pytest.param("sysvipc", marks=SYSV), pytest.param("sysvshm", marks=SYSV)]
)
def test_made_anew(restorer: Restorer, program: Callable[[str], Program], name: str) -> None:
    stored = restorer.take(program(name))
    remove_ipc(stored.workdir)
    restored = restorer.restore("image")
    stored.go()
    assert stored.result(restored) == "ok\n"
