# SPDX-License-Identifier: Apache-2.0
"""Unix sockets whose other end is in another process, the test itself (`--ext-unix`)."""

from __future__ import annotations

import os
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.live import harness
from tests.live.harness import Program, Restorer


def serve(stack: ExitStack, kind: socket.SocketKind, path: Path) -> socket.socket:
    server = stack.enter_context(socket.socket(socket.AF_UNIX, kind))
    server.bind(str(path))
    if kind != socket.SOCK_DGRAM:
        server.listen()
    server.settimeout(20)
    return server


class Started:
    """tests/programs/unix_outside.c and whom it talks to."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.stack = stack
        self.log = serve(stack, socket.SOCK_DGRAM, folder / "log")
        self.stream = serve(stack, socket.SOCK_STREAM, folder / "stream")
        self.packets = serve(stack, socket.SOCK_SEQPACKET, folder / "packets")
        self.program = Program("unix_outside", harness.build("unix_outside"), folder)
        starter = threading.Thread(target=self.program.start)
        starter.start()
        self.first = self.accept(self.stream)
        self.accept(self.packets)
        harness.wait_until((folder / "own").exists, "unix_outside to listen")
        self.client = stack.enter_context(socket.socket(socket.AF_UNIX))
        self.client.settimeout(20)
        self.client.connect(str(folder / "own"))
        self.client.sendall(b"early")
        starter.join()
        assert self.first.recv(64) == b"hello"
        assert self.log.recv(64) == b"before"

    def accept(self, server: socket.socket) -> socket.socket:
        end = self.stack.enter_context(server.accept()[0])
        end.settimeout(20)
        return end

    def answer(self, pid: int) -> None:
        """What the restored program expects of its new connections; who it says that it is."""
        anew = self.accept(self.stream)
        packets = self.accept(self.packets)
        peer = struct.unpack("=iII", anew.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        assert peer == (pid, os.getuid(), os.getgid())
        self.program.go()
        assert anew.recv(64) == b"anew"
        anew.sendall(b"answer")
        assert packets.recv(64) == b"packet"
        assert self.log.recv(64) == b"after"


@pytest.fixture
def started(workdir: Path, cleanup: None) -> Iterator[Started]:
    folder = workdir / "unix"
    folder.mkdir()
    with ExitStack() as stack:
        yield Started(folder, stack)


def test_connected_anew(restorer: Restorer, started: Started) -> None:
    restorer.checkpoint(started.program.pid, "image", "--ext-unix")
    assert started.program.reap() == -9
    assert started.first.recv(64) == b""
    with pytest.raises(ConnectionResetError):
        started.client.recv(64)
    restored = restorer.restore("image")
    started.answer(restored.pid)
    assert started.program.result(restored) == "ok\n"
    restored.wait_gone()


def test_nobody_is_there(restorer: Restorer, started: Started) -> None:
    """A restore that fails leaves none of its socket files behind."""
    restorer.checkpoint(started.program.pid, "image", "--ext-unix")
    assert started.program.reap() == -9
    started.stream.close()
    message = restorer.fails("restore", "image", code=125)
    assert "connection to" in message and "/stream" in message and "start whoever serves it" in message
    assert not (started.program.workdir / "own").exists()


def test_refused_without_the_flag(restorer: Restorer, started: Started) -> None:
    message = restorer.fails("checkpoint", started.program.pid, "image")
    assert "/stream cannot be checkpointed" in message and "--ext-unix" in message
    assert f"process {os.getpid()} " in message, "who holds the other end of the accepted connection"
    assert harness.is_running(started.program.pid)


def test_unread_answers_are_refused(restorer: Restorer, started: Started) -> None:
    started.first.sendall(b"unread")
    message = restorer.fails("checkpoint", started.program.pid, "image", "--ext-unix")
    assert "unread data from" in message and "try again" in message
