# SPDX-License-Identifier: Apache-2.0
"""Which module an anonymous inode belongs to, by what /proc/PID/fd shows; all others are refused by name."""

from __future__ import annotations

from typing import TypeAlias

from restorer.program import Image, Slot
from restorer.state import epolls, eventfds, inotify, signalfds, timerfds
from restorer.state.descriptors import Descriptor
from restorer.state.epolls import Epoll
from restorer.state.eventfds import EventFd
from restorer.state.inotify import Inotify
from restorer.state.opening import Opener
from restorer.state.outside import RESTORABLE_INODES, Outside
from restorer.state.signalfds import SignalFd
from restorer.state.timerfds import TimerFd
from restorer.state.vmas import IO_URING_HINT
from restorer.tracee import Tracee

Anonymous: TypeAlias = Epoll | EventFd | Inotify | SignalFd | TimerFd

# In words for a user.
_WORDS = {
    "[io_uring]": "io_uring",
    "[fanotify]": "fanotify",
    "[userfaultfd]": "userfaultfd",
    "[perf_event]": "perf event",
    "bpf-map": "BPF map",
    "bpf-prog": "BPF program",
    "bpf_link": "BPF link",
    "seccomp notify": "seccomp listener",
    "[landlock-ruleset]": "Landlock ruleset",
}


def capture(
    tracee: Tracee, descriptor: Descriptor, numbers: frozenset[int], outside: Outside, find: epolls.Find
) -> Anonymous:
    """Reads it; `numbers` are all fds of the target, `find` is for epolls. Raises Refused for kinds that
    cannot be restored.
    """
    label = descriptor.link.removeprefix("anon_inode:")
    if descriptor.link in RESTORABLE_INODES:
        outside.refuse_shared(descriptor, label.strip("[]"))
    if label == "[eventfd]":
        return eventfds.capture(descriptor)
    if label == "[eventpoll]":
        return epolls.capture(descriptor, numbers, find)
    if descriptor.link == inotify.LINK:
        return inotify.capture(tracee, descriptor, outside.found)
    if label == "[signalfd]":
        return signalfds.capture(descriptor)
    if label == "[timerfd]":
        return timerfds.capture(tracee, descriptor)
    what = _WORDS.get(label, label.partition(":")[0])
    hint = IO_URING_HINT if what == "io_uring" else "close it first"
    raise descriptor.refused(f"{what} cannot be checkpointed", hint)


def emit(state: Anonymous, image: Image, opener: Opener) -> Slot:
    """Makes it in the launcher."""
    if isinstance(state, EventFd):
        return eventfds.emit(state, image, opener)
    if isinstance(state, Inotify):
        return inotify.emit(state, opener)
    if isinstance(state, SignalFd):
        return signalfds.emit(state, image, opener)
    if isinstance(state, TimerFd):
        return timerfds.emit(state, image, opener)
    return epolls.emit(image, opener)
