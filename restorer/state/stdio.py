# SPDX-License-Identifier: Apache-2.0
"""Stdio that leads outside: a terminal, a pipe or socket to another process. Restore gives its own instead.

fd 0 becomes the restorer's stdin, 1 its stdout, 2 its stderr, whatever they shared before; any other fd of
the same pipe, socket or terminal takes the stream of the fd it matches. Terminals on other fds need one of
the three to be a terminal too. Files and /dev/null on 0, 1, 2 are not stdio in this sense: they come back as
files. What was written into an outside pipe and not yet read by the target is not in the image. Flags of the
streams belong to whoever shares them: O_NONBLOCK stays as restore finds it.
"""

from __future__ import annotations

import os

from restorer.program import SLOT, Slot
from restorer.record import dataclass
from restorer.state import terminals
from restorer.state.descriptors import Descriptor

STREAMS = ("stdin", "stdout", "stderr")


@dataclass(frozen=True)
class Stdio:
    """Restore's own `stream` (stdin, stdout or stderr) in place of a description; `link` is what it was."""

    stream: str
    link: str
    kind: str = "stdio"


def capture(descriptor: Descriptor, outside: dict[int, Descriptor]) -> Stdio:
    """The stream for an outside fd. `outside` are those of 0, 1 and 2 that lead outside.

    Raises Refused when the fd matches none of them.
    """
    if outside.get(descriptor.number, descriptor).pid == descriptor.pid and descriptor.number in outside:
        return Stdio(STREAMS[descriptor.number], descriptor.link)
    if terminals.is_console(descriptor):
        raise descriptor.refused(
            "/dev/console is not restored but as one of stdin, stdout and stderr", "close it first"
        )
    for number in _preference(descriptor):
        if number in outside and _matches(descriptor, outside[number]):
            return Stdio(STREAMS[number], descriptor.link)
    what = "terminal" if terminals.is_terminal(descriptor) else "pipe or socket"
    raise descriptor.refused(
        f"{what} {descriptor.link} leads outside, and is none of stdin, stdout and stderr", "close it first"
    )


def _preference(descriptor: Descriptor) -> tuple[int, int, int]:
    return (0, 1, 2) if descriptor.access == os.O_RDONLY else (1, 2, 0)


def _matches(descriptor: Descriptor, candidate: Descriptor) -> bool:
    if terminals.is_terminal(descriptor):
        return terminals.is_terminal(candidate)
    one, other = descriptor.access, candidate.access
    return descriptor.link == candidate.link and other in (os.O_RDWR, one)


def emit(stdio: Stdio) -> Slot:
    """The launcher's own stream."""
    return {"stdin": SLOT.stdin, "stdout": SLOT.stdout, "stderr": SLOT.stderr}[stdio.stream]
