# SPDX-License-Identifier: Apache-2.0
"""A port with connections in TIME_WAIT is taken back, but from nobody who has it."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest

from restorer.probe import takes_ports_in_time_wait
from tests.live.harness import Program, Restorer

pytestmark = pytest.mark.skipif(
    not takes_ports_in_time_wait(), reason="`restorer check` says what is missing"
)


@contextmanager
def rival(what: str, port: int) -> Iterator[None]:
    """Another program's socket, on an address where no connection was."""
    with socket.socket() as sock, socket.socket() as server:
        sock.bind(("127.0.0.2", port))
        if what == "listening":
            sock.listen()
        if what == "connected":
            server.bind(("127.0.0.3", 0))
            server.listen()
            sock.connect(server.getsockname())
        yield
        if what == "listening":
            with socket.create_connection(("127.0.0.2", port), timeout=5):
                sock.accept()[0].close()


@pytest.mark.parametrize("what", ["bound", "connected", "listening"])
def test_who_has_the_port_keeps_it(restorer: Restorer, program: Callable[[str], Program], what: str) -> None:
    started = restorer.take(program("tcp_timewait"))
    port = int((started.workdir / "port").read_text())
    with rival(what, port):
        message = restorer.fails("restore", "image", "-d", code=125)
        assert f"TCP 0.0.0.0:{port}, listening: bind" in message and "Address already in use" in message
        assert f"stop whoever uses port {port}" in message
    restored = restorer.restore("image")
    started.go()
    assert started.result(restored) == "ok\n"


def test_published_under_another_port(restorer: Restorer, program: Callable[[str], Program]) -> None:
    """Which has connections in TIME_WAIT, too: what is asked about goes by the new number."""
    started = restorer.take(program("tcp_timewait"))
    port = int((started.workdir / "port").read_text())
    with socket.socket() as server:
        server.bind(("", 0))
        server.listen()
        other = server.getsockname()[1]
        with socket.create_connection(("127.0.0.1", other)) as client:
            server.accept()[0].close()
            assert client.recv(1) == b""
    with rival("listening", port):
        restored = restorer.restore("image", "--publish", f"{other}:{port}")
        with socket.create_connection(("127.0.0.1", other), timeout=5):
            pass
    assert not restored.gone
