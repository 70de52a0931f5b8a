# SPDX-License-Identifier: Apache-2.0
"""Packet sockets: their interface is known by its name; what they have not read is lost only on demand."""

from __future__ import annotations

import os
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.live.harness import Program, Restorer, script, wait_until

pytestmark = pytest.mark.alone("links")  # netlink.c is told of interfaces that come, go and change
PROTOCOL = 0x88B5
LISTENER = f"""
s = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
s.bind(("INTERFACE", {PROTOCOL}))

def finish():
    s.settimeout(20)
    name = s.getsockname()[0]
    return f"{{name}} {{socket.if_nametoindex(name)}} {{s.recv(100)[14:].decode()}}"
"""


def ip(*words: str) -> None:
    subprocess.run(["ip", "link", *words], check=True, capture_output=True)


def make_pair(near: str, far: str) -> int:
    ip("add", near, "type", "veth", "peer", "name", far)
    for one in (near, far):
        ip("set", one, "up")
    wait_until(lambda: is_up(near) and is_up(far), f"{near} and {far} to be up")
    return socket.if_nametoindex(near)


def is_up(name: str) -> bool:
    return Path(f"/sys/class/net/{name}/operstate").read_text() == "up\n"


@pytest.fixture
def pair(cleanup: None, not_here: Callable[[str], None]) -> Iterator[tuple[str, str]]:
    """Two interfaces that are joined; what is sent by the second comes to the first."""
    near, far = f"rst{os.getpid()}", f"rsf{os.getpid()}"
    try:
        make_pair(near, far)
        yield near, far
    except (OSError, subprocess.CalledProcessError) as error:
        not_here(f"no pair of interfaces: {error}")
    finally:
        subprocess.run(["ip", "link", "del", near], check=False, capture_output=True)


@pytest.fixture
def listener(pair: tuple[str, str], workdir: Path) -> Program:
    """It tells the name and the index of the interface of its socket, and what it reads from it."""
    started = script(workdir / "listener", LISTENER.replace("INTERFACE", pair[0]))
    started.start()
    return started


def send(name: str, text: bytes) -> None:
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as sock:
        sock.bind((name, PROTOCOL))
        sock.send(b"\xff" * 12 + PROTOCOL.to_bytes(2, "big") + text)


def test_interface_is_known_by_its_name(restorer: Restorer, pair: tuple[str, str], listener: Program) -> None:
    near, far = pair
    before = socket.if_nametoindex(near)
    restorer.take(listener)
    ip("del", near)
    message = restorer.fails("restore", "image", "-d", code=125)
    assert f"packet socket (raw, protocol 0x88b5) on {near}" in message
    assert f"is there an interface {near}?" in message
    now = make_pair(near, far)
    assert now != before
    restored = restorer.restore()
    send(far, b"hello")
    listener.go()
    assert listener.result(restored) == f"{near} {now} hello\n"
    restored.wait_gone()


def test_what_was_not_read(restorer: Restorer, pair: tuple[str, str], listener: Program) -> None:
    send(pair[1], b"lost")
    message = restorer.fails("checkpoint", listener.pid, "image")
    assert "packet socket with packets" in message and "--skip-in-flight" in message
    restorer.checkpoint(listener.pid, "image", "--skip-in-flight")
    listener.reap()
    restored = restorer.restore()
    send(pair[1], b"kept")
    listener.go()
    assert listener.result(restored).endswith(" kept\n")
    restored.wait_gone()
