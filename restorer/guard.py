# SPDX-License-Identifier: Apache-2.0
"""Signals to ourselves while something is held that must be put back."""

from __future__ import annotations

import signal
import threading
from types import FrameType, TracebackType
from typing import Any

__all__ = ["SignalGuard"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class SignalGuard:
    """While it is entered, no SIGINT, SIGTERM or SIGHUP ends us in a place that cannot be undone.

    While `held`, as at first, signals are noted and take effect on leaving. After `open()` they do what they
    would have done, but as exceptions: SystemExit(128 + N) for one that would have killed us. `held = True`
    is one assignment, after which no handler raises: it can begin a `finally` safely.

    By handlers rather than by the signal mask: a mask is one thread's, the signal would reach another, and
    Python would run the handler in the main thread all the same. In other threads it does nothing, since
    Python runs no handlers there. A signal that is ignored, or handled by C code, is left alone.
    """

    def __init__(self) -> None:
        self.held = True
        self._arrived: list[int] = []
        self._previous: dict[int, Any] = {}

    def __enter__(self) -> SignalGuard:
        if threading.current_thread() is threading.main_thread():
            for number in _SIGNALS:
                previous = signal.getsignal(number)
                if previous not in (None, signal.SIG_IGN):
                    self._previous[number] = previous
                    signal.signal(number, self._receive)
        return self

    def open(self) -> None:
        """From here on signals raise; those noted so far do so at once."""
        self.held = False
        while self._arrived:
            self._receive(self._arrived.pop(0), None)

    def _receive(self, number: int, frame: FrameType | None) -> None:
        if self.held:
            self._arrived.append(number)
        elif callable(self._previous[number]):
            self._previous[number](number, frame)
        else:
            raise SystemExit(128 + number)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.held = True
        for number, previous in self._previous.items():
            signal.signal(number, previous)
        for number in dict.fromkeys(self._arrived):
            signal.raise_signal(number)
