# SPDX-License-Identifier: Apache-2.0
"""restorer-launch up to the first clone: usage, stores and images that are not what they should be.

Whatever is wrong ends in one line on stderr and exit code 125, at once, with no process left.
"""

from __future__ import annotations

import os
import random
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import lmdb
import pytest

from restorer.program import Header, Image, ProcessEntry, Segment
from restorer.store import open_store
from restorer.syscalls import NR
from tests.live.harness import BIN

LAUNCHER = BIN / "restorer-launch"
PAGE = 4096
BASE, BASE_BYTES = 0x10000000000, 1 << 40
FLIPS = 400
AT_FDCWD = -100

ImageChange = Callable[[Image], None]


def launch(*arguments: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [LAUNCHER, *map(str, arguments)],
        capture_output=True,
        text=True,
        errors="replace",
        stdin=subprocess.DEVNULL,
        env={**os.environ, **environment},
        timeout=20,
        check=False,
    )


def failure(*arguments: str | Path, **environment: str) -> str:
    """The one line that a run which must fail has said."""
    done = launch(*arguments, **environment)
    assert done.returncode == 125, done
    assert done.stdout == ""
    assert done.stderr.endswith("\n") and done.stderr.count("\n") == 1, done.stderr
    assert done.stderr.startswith("restorer: ")
    return done.stderr


def missing_file(image: Image) -> None:
    """The launcher opens what tasks share before it makes any process: this is where the restore ends."""
    with image.about("fd 5: /no/such/file", hint="put the file back"):
        image.shared.syscall(NR.openat, AT_FDCWD & (1 << 64) - 1, image.string("/no/such/file"), os.O_RDONLY)


def write_image(store: Path, name: str, change: ImageChange = missing_file, **fields: int) -> None:
    image = Image()
    change(image)
    with open_store(store, create=True) as opened, opened.writer(name) as writer:
        for i in range(40):
            writer.add(0x7000000 + i * 0x10000, 0b11, 0, random.Random(i).randbytes(2 * PAGE))
        summary = writer.finish_map()
        process = ProcessEntry(
            pid=fields.get("pid", 4242),
            map_id=summary.map_id,
            records_count=summary.records_count,
            map_check=summary.map_check,
            vdso_syscall=0x7FFFF0000000,
            flags=0,
            segments=(Segment(0x7000000, 0x8000000, 5, 3),),
            bases=((fields.get("base", BASE), fields.get("base_bytes", BASE_BYTES)),),
        )
        header = Header(
            image_id=writer.image_id,
            xfeatures=fields.get("xfeatures", 3),
            xstate_bytes=fields.get("xstate_bytes", 512),
            processes=(process,),
            pids=(process.pid,),
            manifest=b"{}",
        )
        writer.commit(image.seal(header))


@pytest.fixture
def store(tmp_path: Path) -> Path:
    path = tmp_path / "store"
    write_image(path, "img")
    return path


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "name of an image is missing"),
        (["a", "b"], "'b' follows 'a'"),
        ([""], "must not be empty"),
        (["--nonsense", "a"], "--nonsense"),
        (["-dx", "a"], "-x"),
        (["--store"], "--store needs a value"),
        (["--store", "", "a"], "--store"),
        (["--fill", "sometimes", "a"], "background, none or before"),
        (["--pid", "7", "a"], "same or ns"),
        (["-p", "80", "a"], "NEW:OLD"),
        (["-p", "80:0", "a"], "NEW:OLD"),
        (["-p", "80:65536", "a"], "NEW:OLD"),
        (["-p", "80:81/sctp", "a"], "NEW:OLD"),
        (["--detach=yes", "a"], "--detach=yes"),
        (["--store=x", "-xd", "a"], "option -x"),
        (["a", "-p"], "-p needs a value"),
    ],
)
def test_usage(arguments: list[str], words: str) -> None:
    assert words in failure(*arguments)


def test_help_and_version() -> None:
    done = launch("--help")
    assert done.returncode == 0 and "--publish" in done.stdout and done.stderr == ""
    done = launch("--version")
    assert done.returncode == 0 and done.stdout.startswith("restorer-launch ")


def test_which_store(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").touch()
    assert "no store at" in failure("--store", tmp_path / "absent", "a")
    assert "holds no store" in failure("--store", tmp_path / "empty", "a")
    assert "not a folder" in failure("--store", tmp_path / "file", "a")
    assert f"{tmp_path}/other" in failure("a", RESTORER_STORE=f"{tmp_path}/other")


def test_unknown_name(store: Path) -> None:
    assert "no image of this name" in failure("--store", store, "absent")
    assert "no image of this name" in failure("--store", store, "x" * 5000)


def test_name_stays_in_one_line(store: Path) -> None:
    assert "a b" in failure("--store", store, "a\nb")


def test_failed_op_is_worded(store: Path) -> None:
    line = failure("--store", store, "img")
    assert (
        "img: cannot restore fd 5: /no/such/file: openat: No such file or directory; put the file back"
        in line
    )


def test_failure_in_the_background(store: Path, tmp_path: Path) -> None:
    line = failure("--store", store, "-d", "--json", "--pidfile", tmp_path / "pid", "img")
    assert "No such file" in line
    assert list(tmp_path.iterdir()) == [store]


def test_result_that_was_not_expected(tmp_path: Path) -> None:
    def change(image: Image) -> None:
        image.shared.check_eq(image.shared.call(NR.getpid), 0)

    write_image(tmp_path / "store", "img", change)
    assert "not what it was" in failure("--store", tmp_path / "store", "img")


def test_file_checks_can_be_forced(tmp_path: Path) -> None:
    def change(image: Image) -> None:
        with image.about("fd 3: /srv/changed"):
            image.shared.check_eq(1, 2, file_check=True)
        missing_file(image)

    write_image(tmp_path / "store", "img", change)
    assert "/srv/changed" in failure("--store", tmp_path / "store", "img")
    assert "/no/such/file" in failure("--store", tmp_path / "store", "--force-files", "img")


def test_pidfile_that_cannot_be_written(store: Path, tmp_path: Path) -> None:
    assert "pidfile" in failure("--store", store, "--pidfile", tmp_path / "no" / "pid", "img")


def test_stats_that_cannot_be_written(store: Path, tmp_path: Path) -> None:
    assert "--stats" in failure("--store", store, "--stats", tmp_path / "no" / "stats", "img")


def test_publish(tmp_path: Path) -> None:
    def change(image: Image) -> None:
        port = image.data(socket.htons(8080).to_bytes(2, "little"))
        image.port(port, socket.IPPROTO_TCP)
        image.shared.check_eq(image.shared.load(port, 2), socket.htons(9090))
        missing_file(image)

    store = tmp_path / "store"
    write_image(store, "img", change)
    assert "not what it was" in failure("--store", store, "img")
    assert "No such file" in failure("--store", store, "-p", "9090:8080", "img")
    assert "not listen on 81/tcp; it listens on 8080/tcp" in failure("--store", store, "-p", "80:81", "img")
    assert "not listen on 8080/udp" in failure("--store", store, "-p", "80:8080/udp", "img")


def test_cpu_state_that_is_missing(tmp_path: Path) -> None:
    write_image(tmp_path / "store", "features", xfeatures=1 << 62)
    write_image(tmp_path / "store", "area", xstate_bytes=1 << 30)
    assert "XCR0 bits 0x4000000000000000" in failure("--store", tmp_path / "store", "features")
    assert "XSAVE area" in failure("--store", tmp_path / "store", "area")


def test_no_room_for_the_region(tmp_path: Path) -> None:
    write_image(tmp_path / "store", "img", base_bytes=PAGE)
    assert "free bytes" in failure("--store", tmp_path / "store", "img")


def test_pid_1_in_a_namespace(tmp_path: Path) -> None:
    write_image(tmp_path / "store", "img", pid=1)
    assert "PID 1" in failure("--store", tmp_path / "store", "--pid", "ns", "img")


def test_read_only_folder(store: Path) -> None:
    (store / "lock.mdb").unlink(missing_ok=True)
    (store / "data.mdb").chmod(0o400)
    store.chmod(0o500)
    try:
        assert "No such file" in failure("--store", store, "img")
    finally:
        store.chmod(0o700)


def test_reader_is_given_back(store: Path) -> None:
    failure("--store", store, "img")
    with lmdb.open(str(store), readonly=True, max_dbs=16) as env:
        assert env.reader_check() == 0
        assert str(env.readers()).count("\n") <= 1


@pytest.mark.parametrize("left", [0, 1, 100, PAGE, PAGE + 60, 2 * PAGE, 5 * PAGE])
def test_truncated(store: Path, left: int) -> None:
    os.truncate(store / "data.mdb", left)
    line = failure("--store", store, "img")
    assert "damaged" in line and "truncated" in line


def test_last_page_missing(store: Path) -> None:
    data = store / "data.mdb"
    os.truncate(data, data.stat().st_size - PAGE)
    assert "data.mdb is truncated" in failure("--store", store, "img")


def test_not_lmdb(store: Path) -> None:
    (store / "data.mdb").write_bytes(random.Random(1).randbytes(20 * PAGE))
    assert "damaged" in failure("--store", store, "img")


def test_other_format(store: Path) -> None:
    with lmdb.open(str(store), max_dbs=16) as env, env.begin(write=True) as txn:
        txn.put(b"version", (99).to_bytes(4, "little"), db=env.open_db(b"meta", txn=txn))
    assert "format 99" in failure("--store", store, "img")


@pytest.mark.parametrize("database", ["refs", "images", "maps", "chunks", "meta"])
def test_missing_database(store: Path, database: str) -> None:
    with lmdb.open(str(store), max_dbs=16) as env:
        db = env.open_db(database.encode(), create=False)
        with env.begin(write=True) as txn:
            txn.drop(db)
    assert f"'{database}'" in failure("--store", store, "img")


def test_flipped_image(store: Path) -> None:
    """A flip in the image's frame is found, unless it decodes to the same: zstd has spare bits."""
    lines = []
    with lmdb.open(str(store), max_dbs=16) as env:
        images = env.open_db(b"images", create=False)
        with env.begin() as txn:
            key, frame = next(iter(txn.cursor(images)))
        for at in range(0, len(frame), max(1, len(frame) // 150)):
            damaged = bytearray(frame)
            damaged[at] ^= 0x40
            with env.begin(write=True) as txn:
                txn.put(key, bytes(damaged), db=images)
            lines.append(failure("--store", store, "img"))
    found = [line for line in lines if "damaged" in line]
    assert all("/no/such/file" in line for line in lines if line not in found)
    assert len(found) > 0.95 * len(lines)


def test_flipped_anywhere(store: Path) -> None:
    """A flip in what the restore does not read may go unnoticed; none makes the launcher crash or hang."""
    data = store / "data.mdb"
    content = data.read_bytes()
    chance = random.Random(7)
    for _ in range(FLIPS):
        at, bit = chance.randrange(len(content)), 1 << chance.randrange(8)
        with data.open("r+b") as file:
            file.seek(at)
            file.write(bytes([content[at] ^ bit]))
            line = failure("--store", store, "img")
            file.seek(at)
            file.write(content[at : at + 1])
        assert "damaged" in line or "No such file" in line or "no image" in line or "format" in line, (
            at,
            line,
        )


def test_it_is_quick(store: Path) -> None:
    """Nearly all of a restore but the processes: the median of five runs."""
    took = []
    for _ in range(5):
        start = time.monotonic()
        failure("--store", store, "img")
        took.append(time.monotonic() - start)
    assert sorted(took)[2] < 0.2
