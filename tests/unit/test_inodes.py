# SPDX-License-Identifier: Apache-2.0
"""Paths of inodes that are known by number only: found without a handle too, and never a wrong one."""

from __future__ import annotations

import ctypes
import os
from pathlib import Path

import pytest

from restorer.state import inotify
from restorer.state.inodes import Finder, Inode


def inode(path: Path) -> Inode:
    """As the kernel names it: device and number of its super block, out of our own fdinfo."""
    fd = os.open(path, os.O_PATH | os.O_NOFOLLOW)
    try:
        info = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
        mount = info["mnt_id"].strip()
    finally:
        os.close(fd)
    lines = (line.split() for line in Path("/proc/self/mountinfo").read_text().splitlines())
    major, minor = next(line[2] for line in lines if line[0] == mount).split(":")
    return Inode(int(major) << 20 | int(minor), int(info["ino"]))


def test_by_hint(tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    assert Finder([str(tmp_path / "a")]).path(inode(tmp_path / "a")) == str(tmp_path / "a")
    assert Finder([str(tmp_path / "link")]).leads_to(str(tmp_path / "link"), inode(tmp_path / "link"))
    assert not Finder().leads_to(str(tmp_path / "link"), inode(tmp_path / "a"))


def test_by_walking() -> None:
    """The nearest are found first, so that /etc is not far."""
    finder = Finder()
    for path in (Path("/"), Path("/etc/passwd"), Path("/etc/hostname"), Path("/etc")):
        assert finder.path(inode(path)) == str(path)


@pytest.mark.skipif(os.geteuid() != 0, reason="file handles need root")
def test_by_handle(tmp_path: Path) -> None:
    """What fdinfo says of a watch is enough, and the working directory stays what it was."""
    watched, before = tmp_path / "a", Path.cwd()
    watched.touch()
    libc = ctypes.CDLL(None)
    fd = libc.inotify_init1(os.O_CLOEXEC)
    try:
        assert libc.inotify_add_watch(fd, bytes(watched), 0xFFF) == 1
        ((_, _, found),) = inotify.parse(Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
    finally:
        os.close(fd)
    assert found.handle
    assert Finder().path(found) == str(watched)
    assert Path.cwd() == before


def test_nowhere() -> None:
    assert Finder(["/etc", "not absolute", "\0"]).path(Inode(0xFFFFFFF, 1)) == ""


def test_parse() -> None:
    lines = (
        "pos:\t0",
        "inotify wd:1f ino:e49 sdev:16 mask:84000002 ignored_mask:0 "
        "fhandle-bytes:8 fhandle-type:1 f_handle:e8f7030000000000",
        "inotify wd:2 ino:1 sdev:fe00000 mask:2 ignored_mask:0 ",
    )
    first, second = inotify.parse(lines)
    assert first == (0x1F, 0x84000002, Inode(0x16, 0xE49))
    assert first[2].handle == b"\x08\0\0\0\x01\0\0\0" + bytes.fromhex("e8f7030000000000")
    assert second == (2, 2, Inode(0xFE00000, 1)) and second[2].device == "254:0"
    assert second[2].handle == b""
