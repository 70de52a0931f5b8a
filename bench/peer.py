# SPDX-License-Identifier: Apache-2.0
"""CRIU, run beside us: RESTORER_PEER_CRIU names its executable."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path

from images.session import kill

__all__ = ["Criu", "peer_path"]


def peer_path() -> Path | None:
    """The executable to compare with; None where RESTORER_PEER_CRIU is not set."""
    named = os.environ.get("RESTORER_PEER_CRIU")
    return Path(named) if named else None


class Criu:
    """One dump in `folder`, restored again and again. RuntimeError with CRIU's last words on failure."""

    def __init__(self, executable: Path, folder: Path) -> None:
        self._executable = executable
        self.folder = folder
        self._daemon: subprocess.Popen[bytes] | None = None
        folder.mkdir()

    def dump(self, pid: int) -> None:
        """Dump the process and let it run on."""
        self._run("dump", "--tree", str(pid), "--leave-running")

    def prepare_lazy(self) -> None:
        """Start the daemon that serves pages: before the clock runs, in the peer's favour."""
        socket_path = self.folder / "lazy-pages.socket"
        socket_path.unlink(missing_ok=True)
        self._daemon = subprocess.Popen(
            [str(self._executable), "lazy-pages", "--images-dir", str(self.folder), "-o", "lazy.log"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + 10
        while not socket_path.exists():
            if self._daemon.poll() is not None or time.monotonic() > deadline:
                raise RuntimeError(f"criu lazy-pages: {self._last_words('lazy.log')}")
            time.sleep(0.002)

    def start_restore(self, *, lazy: bool) -> subprocess.Popen[bytes]:
        """Start `criu restore -d`; do not wait for it."""
        (self.folder / "pid").unlink(missing_ok=True)
        options = ["--lazy-pages"] if lazy else []
        return subprocess.Popen(
            self._command("restore", "--restore-detached", "--pidfile", str(self.folder / "pid"), *options),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def wait_loaded(self) -> None:
        """Until the daemon has brought every page and left. RuntimeError when it does not end well."""
        if self._daemon is not None and self._daemon.wait(timeout=300) != 0:
            raise RuntimeError(f"criu lazy-pages: {self._last_words('lazy.log')}")

    def stop(self, restore: subprocess.Popen[bytes]) -> None:
        """Kill what was restored, and its daemon."""
        code = restore.wait(timeout=120)
        pid_file = self.folder / "pid"
        if pid_file.exists():
            kill(int(pid_file.read_text()))
        if self._daemon is not None:
            self._daemon.kill()
            self._daemon.wait()
            self._daemon = None
        if code != 0:
            raise RuntimeError(f"criu restore: {self._last_words('restore.log')}")

    def _command(self, action: str, *options: str) -> list[str]:
        fixed = ["--images-dir", str(self.folder), "-o", f"{action}.log"]
        return [str(self._executable), action, *fixed, *options]

    def _run(self, action: str, *options: str) -> None:
        done = subprocess.run(self._command(action, *options), capture_output=True, check=False)
        if done.returncode != 0:
            raise RuntimeError(f"criu {action}: {self._last_words(f'{action}.log')}")

    def _last_words(self, log: str) -> str:
        path = self.folder / log
        lines = path.read_text(errors="replace").splitlines() if path.exists() else []
        errors = [line for line in lines if line.startswith("Error")]
        return "; ".join(errors) or "failed, and says no reason"
