# SPDX-License-Identifier: Apache-2.0
"""A session of bash in a terminal that script(1) holds, with a job that runs and one that is stopped."""

from __future__ import annotations

import os
import select
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from images import AnswerError
from images.installed import Installed, tool

_SECRET = 60493
_SETUP = f"""PS1= PS2=; stty -echo
secret={_SECRET}; twice() {{ echo $(($1 * 2)); }}; cd folder; set -o noclobber
trap 'echo caught' USR1
sleep 1000 &
cat > typed
first line
"""
_SUSPEND, _END_OF_FILE, _INTERRUPT = "\x1a", "\x04", "\x03"


class Bash(Installed):
    name: ClassVar[str] = "bash"
    needs: ClassVar[dict[str, str]] = {"bash": "bash", "script": "bsdutils"}
    processes: ClassVar[int] = 4  # script, bash, two jobs
    foreground: ClassVar[bool] = True

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.folder = workdir / "folder"
        self._asked = 0

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir()
        command = "exec bash --norc --noprofile --noediting -i"
        process = self.spawn(tool("script"), "-eqfc", command, "/dev/null", piped=True)
        self._type(_SETUP)
        return process

    def wait_ready(self) -> None:
        """Until the second job has read what was typed, and has been stopped."""
        deadline = time.monotonic() + self.ready_timeout_s
        while not self._typed().endswith("first line\n"):
            if time.monotonic() > deadline:
                raise TimeoutError("bash does not start cat")
            time.sleep(0.01)
        self._type(f"{_SUSPEND}\necho stopped\n")
        self._read_until("stopped", self.ready_timeout_s)
        self.first_request()

    def kept(self) -> list[Path]:
        return [self.folder]

    def first_request(self, timeout_s: float = 30.0) -> None:
        self._expect('echo "$secret"', [str(_SECRET)], timeout_s)

    def check(self) -> None:
        """Variables, functions, traps and options; both jobs, in the foreground too; and jobs begun now."""
        self._expect("twice 21; pwd", ["42", os.fspath(self.folder)])
        self._expect("kill -USR1 $$", ["caught"])
        self._expect("echo x > typed", ["bash: typed: cannot overwrite existing file"])
        self._expect("jobs", ["[1]- Running sleep 1000 &", "[2]+ Stopped cat > typed"])
        self._check_foreground()
        self._expect("kill %1; wait %1; echo $?", ["[1]+ Terminated sleep 1000", "143"])
        self._expect(
            "(sleep 0.05; exit 7) & wait $! 2> /dev/null; echo $? > code; cat code", ["7"], last=True
        )
        self._end()

    def _check_foreground(self) -> None:
        """The stopped job goes on with the terminal, where its input and ^C come from."""
        self._type(f"fg %2 > /dev/null\nsecond line\n{_END_OF_FILE}")
        self._expect("cat typed", ["first line", "second line"])
        self._type("bash -c 'echo up; exec sleep 1000'\n")
        self._read_until("up", 30.0)
        self._type(_INTERRUPT)
        self._expect("echo $?", ["130"])

    def _end(self) -> None:
        assert self.process is not None
        self._type("exit 5\n")
        code = self.process.wait(30)
        if code != 5:
            raise AnswerError(f"bash ended with {code}")

    def _typed(self) -> str:
        file = self.folder / "typed"
        return file.read_text() if file.exists() else ""

    def _type(self, text: str) -> None:
        assert self.process is not None and self.process.stdin is not None
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def _expect(self, command: str, lines: list[str], timeout_s: float = 30.0, last: bool = False) -> None:
        """AnswerError unless `command` prints these lines, or ends with them; runs of blanks count as one."""
        self._asked += 1
        self._type(f"{command}\necho end-of-{self._asked}\n")
        answer = self._read_until(f"end-of-{self._asked}", timeout_s)
        if (answer[-len(lines) :] if last else answer) != lines:
            raise AnswerError(f"bash: {command} gave {answer}, not {lines}")

    def _read_until(self, marker: str, timeout_s: float) -> list[str]:
        """The lines before the one that is `marker`, but for empty ones."""
        assert self.process is not None and self.process.stdout is not None
        output, text = self.process.stdout.fileno(), ""
        deadline = time.monotonic() + timeout_s
        while not text.endswith(f"{marker}\r\n"):
            if not select.select([output], [], [], max(deadline - time.monotonic(), 0))[0]:
                raise TimeoutError(f"bash said only {text[-200:]!r}")
            block = os.read(output, 1 << 16)
            if not block:
                raise ConnectionResetError(f"bash has gone after {text[-200:]!r}")
            text += block.decode()
        return [" ".join(line.split()) for line in text.splitlines()[:-1] if line.strip()]


RECIPE = Bash
