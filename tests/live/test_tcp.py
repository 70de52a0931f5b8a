# SPDX-License-Identifier: Apache-2.0
"""TCP connections to another process, the test itself, that outlive a checkpoint (`--tcp established`).

The firewall is that of the machine: these tests cannot run beside each other.
"""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from restorer import firewall
from tests.live import harness
from tests.live.harness import Program, Restorer

pytestmark = pytest.mark.alone("firewall")
ROLES = "EFCLB"
BIG_BYTES = 12 << 20
HOSTS = {"four": "127.0.0.1", "six": "::1", "mapped": "127.0.0.1"}
PATTERN = bytes((at * 31 + (at >> 12)) & 0xFF for at in range(1 << 20))


class Peer:
    """The other ends of tests/programs/tcp_outside.c."""

    def __init__(self, host: str, port: int, stack: ExitStack) -> None:
        self.ends: dict[str, socket.socket] = {}
        for role in ROLES:
            end = stack.enter_context(socket.create_connection((host, port)))
            end.settimeout(20)
            end.sendall(role.encode())
            self.ends[role] = end

    def set_up(self) -> None:
        """Until all is acknowledged that has to be before the checkpoint."""
        self.ends["C"].sendall(b"before the end")
        self.ends["C"].shutdown(socket.SHUT_WR)
        self.ends["L"].sendall(b"before")
        self.ends["L"].shutdown(socket.SHUT_WR)
        self.ends["E"].sendall(b"setunread")

    def speak_meanwhile(self) -> None:
        self.ends["E"].sendall(b" meanwhile")

    def talk(self) -> None:
        """What the program expects of its peer once it runs again."""
        assert receive(self.ends["E"], 14) == b"on its wayecho"
        self.ends["E"].sendall(b"thanks")
        assert receive(self.ends["F"], 4) == b"last"
        assert self.ends["F"].recv(1) == b""
        self.ends["F"].sendall(b"late")
        self.ends["F"].shutdown(socket.SHUT_WR)
        assert receive(self.ends["C"], 5) == b"reply"
        assert receive(self.ends["L"], 4) == b"ours"
        assert self.ends["L"].recv(1) == b""
        self.check_big()
        self.ends["B"].sendall(b"all right")

    def check_big(self) -> None:
        # One bool: pytest must not tell how two times 12 MB differ.
        assert (receive(self.ends["B"], BIG_BYTES) == PATTERN * (BIG_BYTES // len(PATTERN))) is True


def receive(end: socket.socket, length: int) -> bytes:
    """Exactly so many bytes."""
    found = bytearray()
    while len(found) < length:
        block = end.recv(min(1 << 20, length - len(found)))
        assert block, f"the connection ended after {len(found)} of {length} bytes"
        found += block
    return bytes(found)


class Started:
    """The program and its peer, connected and ready."""

    def __init__(self, host: str, folder: Path, stack: ExitStack) -> None:
        if host in {"six", "mapped"}:
            (folder / "six").touch()
        self.host = HOSTS[host]
        self.folder = folder
        self.program = Program("tcp_outside", harness.build("tcp_outside"), folder)
        starter = threading.Thread(target=self.program.start)
        starter.start()
        harness.wait_until((folder / "port").exists, "tcp_outside to listen")
        self.port = int((folder / "port").read_text())
        self.peer = Peer(self.host, self.port, stack)
        self.peer.set_up()
        starter.join()

    def finish(self) -> None:
        """Both sides find all that they should."""
        self.program.go()
        self.peer.talk()
        assert self.program.result() == "ok\n"


@pytest.fixture
def started(request: pytest.FixtureRequest, workdir: Path, cleanup: None) -> Iterator[Started]:
    folder = workdir / "tcp"
    folder.mkdir()
    with ExitStack() as stack:
        yield Started(getattr(request, "param", "four"), folder, stack)


def tables() -> set[str]:
    """The firewall's tables that are there now."""
    return {name for name in firewall.tables() if name.startswith("restorer-")}


@pytest.fixture(autouse=True)
def no_table_left(nothing_left: None) -> Iterator[None]:
    before = tables()
    yield
    left = tables() - before
    for table in left:
        firewall.remove(table)
    assert not left


@pytest.mark.parametrize("started", HOSTS, indirect=True)
@pytest.mark.parametrize("fill", ["background", "none"])
def test_go_on(restorer: Restorer, started: Started, fill: str) -> None:
    before = tables()
    restorer.checkpoint(started.program.pid, "image", "--tcp", "established")
    assert started.program.reap() == -9
    assert len(tables() - before) == 1
    started.peer.speak_meanwhile()
    restored = restorer.restore("image", "--fill", fill)
    started.program.go()
    started.peer.talk()
    assert started.program.result(restored) == "ok\n"
    restored.wait_gone()
    assert tables() == before


def test_leave_running(restorer: Restorer, started: Started) -> None:
    before = tables()
    restorer.checkpoint(started.program.pid, "image", "-R", "--tcp", "established")
    assert tables() == before
    started.peer.speak_meanwhile()
    started.finish()


def test_a_refused_checkpoint_changes_nothing(restorer: Restorer, started: Started) -> None:
    """The connections of the fds before the one that is refused have been looked at by then."""
    before = tables()
    fd = started.folder / "refuse"
    fd.touch()
    harness.wait_until(lambda: not fd.exists(), "the program to open a userfaultfd")
    message = restorer.fails("checkpoint", started.program.pid, "image", "--tcp", "established")
    assert "userfaultfd" in message
    assert tables() == before
    started.peer.speak_meanwhile()
    started.finish()


def test_after_a_failed_restore(restorer: Restorer, started: Started) -> None:
    """What fails after the connections were made says nothing to the peer; a second try succeeds."""
    restorer.checkpoint(started.program.pid, "image", "--tcp", "established")
    assert started.program.reap() == -9
    blocked = tables()
    with harness.occupied(started.program.pid):
        assert "in use by" in restorer.fails("restore", "image", code=125)
    assert tables() == blocked
    started.peer.speak_meanwhile()
    restored = restorer.restore("image")
    started.program.go()
    started.peer.talk()
    assert started.program.result(restored) == "ok\n"
    restored.wait_gone()


def test_whose_peer_has_forgotten_them(restorer: Restorer, started: Started) -> None:
    """Whatever was to be sent to it, or on its way from it: the program is told, and nobody else minds."""
    restorer.checkpoint(started.program.pid, "image", "--tcp", "established")
    assert started.program.reap() == -9
    for end in started.peer.ends.values():
        end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        end.close()
    (started.folder / "forgotten").touch()
    restored = restorer.restore("image")
    started.program.go()
    assert started.program.result(restored) == "ok\n"
    restored.wait_gone()


def test_removing_the_image_lets_go(restorer: Restorer, started: Started) -> None:
    before = tables()
    restorer.checkpoint(started.program.pid, "image", "--tcp", "established")
    assert started.program.reap() == -9
    assert tables() != before
    restorer.ok("rm", "image")
    assert tables() == before
    with pytest.raises(ConnectionResetError):
        started.peer.ends["E"].sendall(b"anybody there?")
        started.peer.ends["E"].recv(100)
        started.peer.ends["E"].recv(100)


def test_replacing_the_image_lets_go(
    restorer: Restorer, started: Started, program: Callable[[str], Program]
) -> None:
    before = tables()
    restorer.checkpoint(started.program.pid, "image", "--tcp", "established")
    assert started.program.reap() == -9
    other = program("registers")
    restorer.checkpoint(other.pid, "image", "--replace", "-R")
    assert tables() == before
    other.go()
    assert other.result() == "ok\n"


def test_connections_that_wait_are_refused(restorer: Restorer, started: Started) -> None:
    """They are lost on demand only: reset, where the others go on."""
    with socket.create_connection((started.host, started.port)) as waiting:
        arguments = ("checkpoint", started.program.pid, "image", "--tcp", "established")
        message = restorer.fails(*arguments)
        assert "1 TCP connections to" in message and "--skip-in-flight" in message
        restorer.ok(*arguments, "--skip-in-flight")
        assert started.program.reap() == -9
        with pytest.raises(ConnectionResetError):
            waiting.recv(1)
    started.peer.speak_meanwhile()
    restored = restorer.restore("image")
    started.program.go()
    started.peer.talk()
    assert started.program.result(restored) == "ok\n"
    restored.wait_gone()


@pytest.mark.parametrize("tcp", ["refuse", "close", "established"])
def test_connections_under_way(restorer: Restorer, workdir: Path, cleanup: None, tcp: str) -> None:
    folder = workdir / "connecting"
    folder.mkdir()
    with ExitStack() as stack:
        listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        stack.enter_context(socket.create_connection(listener.getsockname()))
        listener.settimeout(20)
        (folder / "port").write_text(str(listener.getsockname()[1]))
        program = Program("tcp_connecting", harness.build("tcp_connecting"), folder)
        program.start()
        restorer.checkpoint(program.pid, "image", "--tcp", tcp)
        assert program.reap() == -9
        restored = restorer.restore("image")
        program.go()
        ends = [stack.enter_context(listener.accept()[0]) for _ in range(3)]
        assert {end.recv(16) for end in ends[1:]} == {b"waited", b"polled"}
        for end in ends[1:]:
            end.sendall(b"!")
        assert program.result(restored) == "ok\n"
        restored.wait_gone()
