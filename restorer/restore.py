# SPDX-License-Identifier: Apache-2.0
"""`restore`: find the launcher and become it. The image has decided all else.

Only sys and os are imported: what Python imports here, every restore waits for.
"""

from __future__ import annotations

import os
import sys

__all__ = ["EXIT_FAILURE", "LAUNCHER", "exec_launcher", "find_launcher", "hoist", "restore_arguments"]

LAUNCHER = "restorer-launch"
EXIT_FAILURE = 125


def hoist(argv: list[str]) -> list[str]:
    """Global options move behind the command: `--store D list` is `list --store D`."""
    moved: list[str] = []
    rest = list(argv)
    while rest:
        if rest[0] == "--store" and len(rest) > 1:
            moved += [rest.pop(0), rest.pop(0)]
        elif rest[0] == "--json" or rest[0].startswith("--store="):
            moved.append(rest.pop(0))
        else:
            break
    return rest[:1] + moved + rest[1:]


def restore_arguments(argv: list[str]) -> list[str] | None:
    """What the launcher is to get where argv is a `restore`; None for every other command."""
    hoisted = hoist(argv)
    return hoisted[1:] if hoisted[:1] == ["restore"] else None


def find_launcher() -> str | None:
    """The launcher's path: beside the script, Python or a `--target` installation, or in PATH."""
    folders = [os.path.dirname(os.path.realpath(sys.argv[0])), os.path.dirname(sys.executable)]
    folders.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "bin"))
    folders += os.environ.get("PATH", os.defpath).split(os.pathsep)
    for folder in folders:
        path = os.path.join(folder, LAUNCHER)
        if os.path.isfile(path) and os.access(path, os.X_OK):
            return path
    return None


def exec_launcher(arguments: list[str]) -> int:
    """Become the launcher. Returns only where that fails: the exit code, with the reason on stderr."""
    path = find_launcher()
    if path is None:
        text = f"restorer: {LAUNCHER} is neither beside restorer nor in PATH; install restorer again"
        print(text, file=sys.stderr)
        return EXIT_FAILURE
    try:
        os.execv(path, [LAUNCHER, *arguments])
    except OSError as error:
        print(f"restorer: cannot run {path}: {error.strerror}; install restorer again", file=sys.stderr)
    return EXIT_FAILURE
