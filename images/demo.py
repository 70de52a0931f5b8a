# SPDX-License-Identifier: Apache-2.0
"""`make demo`: checkpoint a service while it is serving, restore it lazily, ask it, print what that took."""

from __future__ import annotations

import os
import sys
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from images import AnswerError, Recipe, load
from images.session import Session, anonymous_bytes, disk_bytes
from restorer.report import bytes_text, ratio_text, table

_PAGE_BYTES = 4096
_CLIENT_PAUSE_S = 0.001


@dataclass
class Client:
    """A thread that asks without a pause until the service is gone; a wrong answer is kept in `wrong`."""

    recipe: Recipe
    answers: int = 0
    wrong: AnswerError | None = None
    _stop: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        while not self._stop.is_set():
            try:
                self.recipe.first_request(0.2)
                self.answers += 1
            except (ConnectionError, TimeoutError):
                self._stop.wait(_CLIENT_PAUSE_S)
            except AnswerError as error:
                self.wrong = error
                return

    def stop(self, thread: threading.Thread) -> None:
        self._stop.set()
        thread.join()
        if self.wrong is not None:
            raise self.wrong


def _say(text: str) -> None:
    print(text, flush=True)


def _cold_start(recipe: Recipe) -> float:
    """Seconds from exec to the first right answer."""
    began = time.monotonic()
    recipe.start()
    recipe.wait_ready()
    return time.monotonic() - began


def _checkpoint_while_serving(session: Session, recipe: Recipe) -> dict[str, Any]:
    client = Client(recipe)
    thread = threading.Thread(target=client.run)
    thread.start()
    try:
        while client.answers < 100 and client.wrong is None:
            time.sleep(_CLIENT_PAUSE_S)
        # The connection being answered at this moment is stored closed: the client asks again.
        result = session.checkpoint(recipe.pid, "demo", "--tcp", "close")
    finally:
        client.stop(thread)
    recipe.stop()  # reaped, so that its PID is free
    _say(f"checkpointed while it answered request {client.answers}; it has been ended")
    return result


def _restore(session: Session, recipe: Recipe) -> tuple[float, float, int, dict[str, Any]]:
    """Milliseconds to resume, and to the right reply; pages in place by then; the record of `loaded`."""
    began = time.monotonic()
    restored = session.restore("demo")
    restored.first_reply(recipe)
    reply_ms = (time.monotonic() - began) * 1e3
    restored.wait()
    pages = anonymous_bytes(restored.pid) // _PAGE_BYTES
    loaded = restored.wait_loaded()
    recipe.check()
    return restored.resume_ms, reply_ms, pages, loaded


def run(folder: Path) -> None:
    """The whole demonstration, in `folder`. Leaves no process behind, whatever happens."""
    with load("http_cache", folder) as recipe, Session(folder) as session:
        _say("starting a Python HTTP service that parses 200 MB of JSON into its cache ...")
        cold_s = _cold_start(recipe)
        memory = anonymous_bytes(recipe.pid)
        result = _checkpoint_while_serving(session, recipe)
        image = disk_bytes(session.store)
        resume_ms, reply_ms, pages, loaded = _restore(session, recipe)
        total = loaded["counters"]["total_pages"]
    rows = [
        ("memory of the service", bytes_text(memory)),
        ("image on disk", f"{bytes_text(image)}  ({ratio_text(memory, image)} smaller)"),
        ("frozen for the checkpoint", f"{result['frozen_ms']:.0f} ms"),
        ("cold start to first reply", f"{cold_s * 1e3:.0f} ms"),
        ("restore: time to resume", f"{resume_ms:.1f} ms"),
        ("restore: exec to first reply", f"{reply_ms:.1f} ms  ({cold_s * 1e3 / reply_ms:.0f}x sooner)"),
        ("pages in place soon after it", f"{pages} of {total}"),
        ("all loaded after", f"{loaded['loaded_ms']:.0f} ms"),
    ]
    _say("every answer after the restore was right\n")
    _say(table(("WHAT", "HOW MUCH"), rows))


def main() -> None:
    if os.geteuid() != 0:
        sys.exit("make demo: restoring a process with its PID needs root")
    with tempfile.TemporaryDirectory(prefix="restorer-demo-") as folder:
        try:
            run(Path(folder))
        except (RuntimeError, OSError) as error:
            sys.exit(f"make demo: {error}")


if __name__ == "__main__":
    main()
