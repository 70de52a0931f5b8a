# SPDX-License-Identifier: Apache-2.0
"""The command line without any process: exit codes, one-line errors, what reaches the launcher."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from restorer import __version__, report
from restorer.cli import list as list_images
from restorer.cli import show
from restorer.cli.app import COMMANDS
from restorer.model import ImageInfo
from restorer.restore import exec_launcher, hoist, restore_arguments
from restorer.store import open_store

ROOT = Path(__file__).resolve().parents[2]


def _restorer(*arguments: str | Path, **changes: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "restorer", *map(str, arguments)]
    environment = {**os.environ, **changes}
    return subprocess.run(
        command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60, check=False
    )


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    with open_store(path, create=True):
        return path


@pytest.mark.parametrize(
    ("argv", "hoisted"),
    [
        ([], []),
        (["list"], ["list"]),
        (["--store", "D", "list"], ["list", "--store", "D"]),
        (["--store=D", "--json", "rm", "a"], ["rm", "--store=D", "--json", "a"]),
        (["list", "--store", "D"], ["list", "--store", "D"]),
        (["--store"], ["--store"]),
        (["--json"], ["--json"]),
        (["--help", "restore"], ["--help", "restore"]),
    ],
)
def test_hoist(argv: list[str], hoisted: list[str]) -> None:
    assert hoist(argv) == hoisted


def test_only_restore_goes_to_the_launcher() -> None:
    assert restore_arguments(["--store", "D", "restore", "a", "-d"]) == ["--store", "D", "a", "-d"]
    assert restore_arguments(["restore"]) == []
    assert restore_arguments(["show", "restore"]) is None
    assert restore_arguments([]) is None


def test_the_launcher_gets_the_arguments_and_its_code_comes_back(tmp_path: Path) -> None:
    launcher = tmp_path / "restorer-launch"
    launcher.write_text('#!/bin/sh\nprintf "%s|" "$@"\nexit 7\n')
    launcher.chmod(0o755)
    code = (
        "import sys; sys.argv = [sys.argv[1], 'restore', 'a b', '--fill', 'none'];"
        "sys.executable = sys.argv[0]; from restorer.__main__ import main; main()"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "restorer")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout) == (7, "a b|--fill|none|")


def test_restore_imports_nothing_slow() -> None:
    slow = ("typer", "json", "re", "lmdb", "zstandard", "restorer.errors")
    code = f"import restorer.__main__; print([name for name in {slow} if name in sys.modules])"
    command = [sys.executable, "-I", "-S", "-c", f"import sys; sys.path.insert(0, {str(ROOT)!r}); {code}"]
    assert subprocess.run(command, capture_output=True, text=True, check=True).stdout == "[]\n"


def test_no_launcher_is_125(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", [str(tmp_path / "restorer")])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr("restorer.restore.__file__", str(tmp_path / "site" / "restorer" / "restore.py"))
    assert exec_launcher([]) == 125
    assert capfd.readouterr().err.startswith("restorer: restorer-launch is neither")


def test_version() -> None:
    done = _restorer("--version")
    assert (done.returncode, done.stdout) == (0, f"restorer {__version__}\n")


def test_the_launcher_has_the_same_version() -> None:
    launcher = Path(sys.executable).with_name("restorer-launch")
    done = subprocess.run([launcher, "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"restorer-launch {__version__}\n"


def test_help_names_every_command() -> None:
    done = _restorer("--help")
    assert done.returncode == 0
    assert all(f"  {name} " in done.stdout for name in COMMANDS)


def test_no_command_shows_the_help_and_is_a_usage_error() -> None:
    done = _restorer()
    assert done.returncode == 2
    assert "Usage: restorer" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("bogus",), "No such command 'bogus'; see restorer --help"),
        (("--bogus",), "see restorer --help"),
        (("list", "--bogus"), "see restorer list --help"),
        (("rm",), "Missing argument 'NAME...'; see restorer rm --help"),
        (("checkpoint", "x", "y"), "'x' is not a valid int"),
        (("checkpoint", "0", "y"), "0 is not in the range"),
        (("checkpoint", "1", "y", "--tcp", "keep"), "'keep' is not one of"),
    ],
)
def test_usage_errors_are_one_line_and_2(arguments: tuple[str, ...], words: str) -> None:
    done = _restorer(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert done.stderr.startswith("restorer: ") and words in done.stderr


@pytest.mark.parametrize(
    "arguments", [("list",), ("show", "a"), ("verify",), ("rm", "a"), ("gc",), ("plan", "a")]
)
def test_an_absent_store_is_one_line_and_1(arguments: tuple[str, ...], tmp_path: Path) -> None:
    done = _restorer(*arguments, "--store", tmp_path / "absent")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"restorer: no store at {tmp_path / 'absent'}; "
        "checkpoint creates it; --store or RESTORER_STORE names another\n"
    )


@pytest.mark.parametrize("command", ["show", "verify", "rm", "plan"])
def test_an_absent_image_is_named(command: str, store: Path) -> None:
    done = _restorer(command, "nobody", "--store", store)
    assert done.returncode == 1
    assert done.stderr.count("\n") == 1 and "no image 'nobody'" in done.stderr


def test_an_empty_store(store: Path) -> None:
    assert (
        _restorer("list", RESTORER_STORE=str(store)).stdout == "NAME  PID  COMMAND  MEMORY  SIZE  CREATED\n"
    )
    listed = json.loads(_restorer("--store", store, "--json", "list").stdout)
    assert listed == {"schema": "restorer.list/1", "store": str(store), "images": [], "unreadable": []}
    verified = json.loads(_restorer("verify", "--json", "--store", store).stdout)
    assert verified["ok"] and verified["schema"] == "restorer.verify/1"
    assert json.loads(_restorer("gc", "--json", "--store", store).stdout)["chunks"] == 0


def test_list_fits_the_terminal() -> None:
    images = [
        ImageInfo(name, 1, 0.0, 4711, "/usr/bin/server --with a-long-list-of-options", 1 << 28, 1 << 20, {})
        for name in ("shop", "warehouse")
    ]
    wide, narrow = (list_images.table(images, width).splitlines() for width in (sys.maxsize, 80))
    assert all("--with a-long-list-of-options  268 MB" in line for line in wide[1:])
    assert all("..." in line and len(line) == 80 for line in narrow[1:])
    assert all(
        "shop" in line or "warehouse" in line for line in list_images.table(images, 20).splitlines()[1:]
    )


def test_check_tells_each_feature() -> None:
    done = _restorer("check", "--json")
    answer = json.loads(done.stdout)
    assert done.returncode == (0 if answer["usable"] else 1)
    assert {"userfaultfd", "UFFDIO_MOVE", "clone3 set_tid"} <= {one["name"] for one in answer["features"]}
    assert _restorer("check").stdout.startswith("FEATURE")


def test_a_closed_pipe_is_quiet(store: Path) -> None:
    command = f"{sys.executable} -m restorer check | true"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stderr) == (0, "")


def test_show_draws_a_process() -> None:
    files = [{"object": {"kind": "file", "path": "/dev/null"}}, {"object": {"kind": "pipe", "pipe": 0}}]
    inet = {"kind": "inet", "state": "listening", "local": ["127.0.0.1", 80, 0]}
    state = {
        "stopped": True,
        "threads": [{"thread": {"tid": 7, "name": "main"}}],
        "fds": {
            "fds": [{"number": n, "description": n} for n in range(3)],
            "descriptions": [*files, {"object": inet}],
        },
        "memory": {"mappings": [{"vma": {"start": 0, "end": 4096, "path": "", "name": "[heap]"}}]},
    }
    summary = {"raw_bytes": 4096, "stored_bytes": 100}
    image = ImageInfo("a", 1, 0.0, 7, "app", 4096, 100, {"state": state, "summary": summary})
    assert report.tree(show.image_tree(image)).splitlines()[1:] == [
        "└── process 7, stopped: app",
        "    ├── 1 thread",
        "    │   └── 7 main",
        "    ├── 3 descriptors",
        "    │   ├── 0 /dev/null",
        "    │   ├── 1 pipe [0]",
        "    │   └── 2 inet listening 127.0.0.1:80",
        "    └── memory: 1 mapping, 4.1 kB stored in 100 B",
        "        └──   4.1 kB [heap]",
    ]
