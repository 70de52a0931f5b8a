# SPDX-License-Identifier: Apache-2.0
"""`make -j4` in the middle of a build: make, compilers and the assemblers below them, and a job server."""

from __future__ import annotations

import os
import subprocess
import time
from pathlib import Path
from typing import ClassVar

from images import AnswerError
from images.installed import Installed, tool

_FUNCTIONS = 150
_MAKEFILE = """
OBJECTS := {objects}
program: $(OBJECTS)
\t@cc -o $@ $(OBJECTS)
\t@echo $@ >> made
%.o: %.c
\t@cc -O2 -c -o $@ $<
\t@echo $@ >> made
"""


class Make(Installed):
    name: ClassVar[str] = "make"
    needs: ClassVar[dict[str, str]] = {"make": "make", "cc": "gcc"}
    processes: ClassVar[int] = 5  # make itself, four jobs
    foreground: ClassVar[bool] = True

    def __init__(self, workdir: Path) -> None:
        super().__init__(workdir)
        self.files = int(os.environ.get("RESTORER_MAKE_FILES", "24"))
        self.folder = workdir / "project"

    def start(self) -> subprocess.Popen[bytes]:
        self.folder.mkdir()
        (self.folder / "tmp").mkdir()
        for number in range(self.files):
            (self.folder / f"part{number}.c").write_text(_source(number))
        (self.folder / "main.c").write_text(_main(self.files))
        objects = " ".join(f"part{number}.o" for number in range(self.files))
        (self.folder / "Makefile").write_text(_MAKEFILE.format(objects=f"main.o {objects}"))
        # What cc leaves between its passes is among what is put back.
        environment = {"TMPDIR": os.fspath(self.folder / "tmp")}
        return self.spawn(tool("make"), "-j4", "-C", self.folder, env=environment)

    def kept(self) -> list[Path]:
        return [self.folder]

    def first_request(self, timeout_s: float = 60.0) -> None:
        """One more file is compiled."""
        before, deadline = len(self.made()), time.monotonic() + timeout_s
        while len(self.made()) <= before:
            if time.monotonic() > deadline:
                raise TimeoutError(f"make has made nothing after {self.made()}")
            time.sleep(0.002)

    def check(self) -> None:
        """It ends well, nothing has been made twice, and the program that it made is right."""
        assert self.process is not None
        code = self.process.wait(120)
        if code != 0:
            raise AnswerError(f"make ended with {code}")
        objects = ["main.o", *(f"part{number}.o" for number in range(self.files)), "program"]
        if sorted(self.made()) != sorted(objects):
            raise AnswerError(f"make has made {self.made()}")
        answer = self.ask(os.fspath(self.folder / "program"))
        if answer != str(sum(_value(number) for number in range(self.files))):
            raise AnswerError(f"the program says {answer}")
        self.ask("make", "-q", "-C", os.fspath(self.folder))
        if left := list((self.folder / "tmp").iterdir()):
            raise AnswerError(f"cc has left {left}")

    def made(self) -> list[str]:
        """The targets that are done, in order."""
        file = self.folder / "made"
        return file.read_text().split() if file.exists() else []


def _source(number: int) -> str:
    """A file that takes cc a while: many functions, one of which gives the value that counts."""
    lines = []
    for function in range(_FUNCTIONS):
        lines += [
            f"static unsigned f{function}(unsigned x, const unsigned char *text)",
            "{",
            "    for (unsigned i = 0; i < 64; i++)",
            f"        x = x * {2 * function + 3}u + text[(x + i) % 32] + (x >> {1 + function % 13});",
            "    return x;",
            "}",
        ]
    calls = " ^ ".join(f"f{function}(seed, text)" for function in range(_FUNCTIONS))
    return "\n".join(
        [
            *lines,
            f"unsigned scramble{number}(unsigned seed, const unsigned char *text) {{ return {calls}; }}",
            f"unsigned part{number}(void) {{ return {_value(number)}u; }}",
            "",
        ]
    )


def _main(files: int) -> str:
    parts = [f"unsigned part{number}(void);" for number in range(files)]
    total = " + ".join(f"part{number}()" for number in range(files))
    return "\n".join(
        ["#include <stdio.h>", *parts, f'int main(void) {{ printf("%u\\n", {total}); return 0; }}', ""]
    )


def _value(number: int) -> int:
    return number * number * 31 + 7


RECIPE = Make
