# SPDX-License-Identifier: Apache-2.0
"""Which module an anonymous inode belongs to, by what /proc/PID/fd shows; all others are refused by name."""

from __future__ import annotations

from typing import TypeAlias

from restorer.program import Image, Slot
from restorer.state import epolls, eventfds, inotify, signalfds, timerfds
from restorer.state.choices import Choices
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

# In words for a user, and the way out. Their state is in the kernel, and no call tells it.
_CLOSE = "close it first"
_PROFILER, _MACHINE = "stop the profiler first", "shut the virtual machine down first"
_REFUSED = {
    "[io_uring]": ("io_uring", IO_URING_HINT),
    "[fanotify]": ("fanotify", "close it first; inotify can be checkpointed"),
    "[userfaultfd]": ("userfaultfd", "let the program load its memory, and close it first"),
    "[perf_event]": ("perf event", _PROFILER),
    "bpf-map": ("BPF map", _CLOSE),
    "bpf-prog": ("BPF program", _CLOSE),
    "bpf_link": ("BPF link", _CLOSE),
    "seccomp notify": ("seccomp listener", "end the processes that it listens to first"),
    "[landlock-ruleset]": ("Landlock ruleset", _CLOSE),
    "kvm-vm": ("virtual machine", _MACHINE),
    "kvm-vcpu": ("virtual CPU", _MACHINE),
    "sync_file": ("GPU fence", "end what uses the GPU first"),
}


def capture(
    tracee: Tracee,
    descriptor: Descriptor,
    numbers: frozenset[int],
    outside: Outside,
    find: epolls.Find,
    choices: Choices,
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
        return inotify.capture(tracee, descriptor, outside.found, choices)
    if label == "[signalfd]":
        return signalfds.capture(descriptor)
    if label == "[timerfd]":
        return timerfds.capture(tracee, descriptor)
    kind = label.partition(":")[0]
    what, hint = _REFUSED.get(label) or _REFUSED.get(kind) or (kind, _CLOSE)
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
        return timerfds.emit(state, opener)
    return epolls.emit(image, opener)
