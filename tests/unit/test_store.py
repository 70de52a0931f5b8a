# SPDX-License-Identifier: Apache-2.0
"""The store: round trips, sharing, names, what a crash or a full disk leaves, and damage of every kind."""

from __future__ import annotations

import os
import random
import resource
import signal
import stat
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from restorer import wire
from restorer.errors import (
    ImageExists,
    ImageNotFound,
    PrivilegeError,
    StoreError,
    StoreFull,
    UsageError,
)
from restorer.snapshot import PAGE_BYTES
from restorer.store import MapSummary, Store, default_path, open_store
from restorer.wire import CHUNK_BYTES
from tests.unit.golden import unpack

Pages = dict[int, bytes]


def pages(seed: int, chunks: int = 6) -> Pages:
    """Chunks by address, each of another size and of middling compressibility."""
    source = random.Random(seed)
    content = {}
    for i in range(chunks):
        part = source.randbytes(source.randrange(100, 3000))
        content[(seed * 1000 + i) * CHUNK_BYTES] = (part * 700)[: source.randint(1, 16) * PAGE_BYTES]
    return content


def mask_of(content: bytes) -> int:
    return (1 << len(content) // PAGE_BYTES) - 1


def seal(image_id: int, maps: list[MapSummary]) -> bytes:
    """An image without programs: the header, its processes and a manifest."""
    manifest = b'{"pid": 7, "command": "sleep 5", "created": 1700000000.5}'
    holes = [0] * (2 * wire.BASES)
    table = b"".join(
        wire.PROCESS.pack(7, 0, 0, 1, m.map_id, m.records_count, m.map_check, 0, 0, 0, 0, 0, *holes)
        for m in maps
    )
    offset = wire.HEADER.size
    end = offset + len(table) + len(manifest)
    tables = [0, 64, 0, 0, 0, 0, offset, len(maps), 0, 0, 0, 0, 0]
    tables += [end - len(manifest), len(manifest), 0, 0, 0]
    header = wire.HEADER.pack(wire.MAGIC, wire.VERSION, offset, image_id, end, end, 0, *tables, *(0,) * 4)
    return header + table + manifest


def write(store: Store, name: str, content: Pages, replace: bool = False) -> MapSummary:
    with store.writer(name, replace) as writer:
        for addr, data in content.items():
            writer.add(addr, mask_of(data), 1, data)
        summary = writer.finish_map()
        writer.commit(seal(writer.image_id, [summary]))
    return summary


def write_tree(store: Store, name: str, spaces: list[Pages]) -> list[MapSummary]:
    """An image of several processes."""
    with store.writer(name) as writer:
        summaries = []
        for content in spaces:
            for addr, data in content.items():
                writer.add(addr, mask_of(data), 0, data)
            summaries.append(writer.finish_map())
        writer.commit(seal(writer.image_id, summaries))
    return summaries


def read(store: Store, name: str) -> Pages:
    """Everything of an image, by the way a restore takes: reference, image, page index, chunks."""
    blob = store.load(name)
    fields = wire.PROCESS.unpack_from(blob, wire.HEADER.size)
    return {chunk.addr: store.chunk(chunk) for chunk in store.records(fields[4], fields[6])}


def in_child(work: Callable[[], None]) -> None:
    """Runs `work` in a child process; the test fails when it raises, or dies of a signal."""
    pid = os.fork()
    if pid == 0:
        try:
            work()
            os._exit(0)
        except BaseException:
            traceback.print_exc()
            sys.stderr.flush()
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0


def elsewhere(work: Callable[[Path], None], folder: Path) -> subprocess.Popen[bytes]:
    """Runs a function of this module in another Python: LMDB opens a store once a process, forks included."""
    code = f"import sys, pathlib, {__name__} as m; m.{work.__name__}(pathlib.Path(sys.argv[1]))"
    return subprocess.Popen([sys.executable, "-c", code, str(folder)], cwd=Path(__file__).parents[2])


def replace_demo(folder: Path) -> None:
    with open_store(folder) as store:
        store.remove("demo")
        store.collect()
        write(store, "other", pages(3))


def write_b(folder: Path) -> None:
    with open_store(folder) as store:
        write(store, "b", pages(2))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "store"


@pytest.fixture
def store(folder: Path) -> Iterator[Store]:
    with open_store(folder, create=True) as opened:
        yield opened


def test_round_trip(store: Store) -> None:
    content = pages(1)
    summary = write(store, "demo", content)
    assert read(store, "demo") == content
    assert summary.raw_bytes == sum(map(len, content.values())) == summary.pages * PAGE_BYTES
    assert (summary.new_chunks, summary.reused_chunks, summary.records_count) == (6, 0, 6)
    [info], _ = store.images()
    assert (info.name, info.pid, info.command, info.created) == ("demo", 7, "sleep 5", 1700000000.5)
    assert (info.memory_bytes, info.stored_bytes) == (summary.raw_bytes, summary.stored_bytes)


def test_many_chunks_keep_their_order(store: Store) -> None:
    content = pages(2, chunks=300)
    write(store, "demo", content)
    assert read(store, "demo") == content
    report = store.verify()
    assert (report.images, report.chunks, report.damages) == (1, 300, [])


def test_an_image_without_memory(store: Store) -> None:
    assert write(store, "empty", {}).records_count == 0
    assert read(store, "empty") == {}
    assert store.verify().damages == []


def test_two_address_spaces(store: Store) -> None:
    summaries = write_tree(store, "tree", [pages(1), pages(2)])
    assert summaries[0].map_id != summaries[1].map_id
    report = store.verify("tree")
    assert (report.chunks, report.damages) == (12, [])


def test_record_holds_mask_and_flags(store: Store) -> None:
    with store.writer("demo") as writer:
        writer.add(3 * CHUNK_BYTES, 0x8001, 3, b"a" * PAGE_BYTES + b"b" * PAGE_BYTES)
        summary = writer.finish_map()
        writer.commit(seal(writer.image_id, [summary]))
    [chunk] = store.records(summary.map_id, summary.map_check)
    assert (chunk.addr, chunk.mask, chunk.flags, chunk.pages) == (3 * CHUNK_BYTES, 0x8001, 3, 2)


def test_the_same_pages_are_stored_once(store: Store) -> None:
    first = write(store, "a", pages(1))
    second = write(store, "b", pages(1))
    assert (second.new_chunks, second.reused_chunks, second.new_bytes) == (0, 6, 0)
    assert second.stored_bytes == first.stored_bytes
    assert read(store, "b") == pages(1)


def test_the_same_pages_within_one_image(store: Store) -> None:
    data = random.Random(1).randbytes(CHUNK_BYTES)
    content = {i * CHUNK_BYTES: data for i in range(100)}
    summary = write(store, "demo", content)
    assert (summary.new_chunks, summary.reused_chunks) == (1, 99)
    assert summary.new_bytes == summary.stored_bytes < 2 * CHUNK_BYTES
    assert read(store, "demo") == content


@pytest.mark.parametrize(
    ("addr", "mask", "length"),
    [(CHUNK_BYTES + PAGE_BYTES, 1, PAGE_BYTES), (0, 3, PAGE_BYTES), (-1, 1, PAGE_BYTES)],
)
def test_a_wrong_chunk_is_not_taken(store: Store, addr: int, mask: int, length: int) -> None:
    with pytest.raises(ValueError, match="chunk"), store.writer("demo") as writer:
        writer.add(addr, mask, 0, bytes(length))


def test_addresses_ascend(store: Store) -> None:
    with pytest.raises(ValueError, match="chunk"), store.writer("demo") as writer:
        writer.add(CHUNK_BYTES, 1, 0, bytes(PAGE_BYTES))
        writer.add(CHUNK_BYTES, 1, 0, bytes(PAGE_BYTES))


def test_nothing_is_kept_without_commit(store: Store) -> None:
    write(store, "old", pages(1))
    with store.writer("new") as writer:
        writer.add(0, 1, 0, b"x" * PAGE_BYTES)
        writer.finish_map()
    with pytest.raises(KeyError), store.writer("new"):
        raise KeyError
    assert [info.name for info in store.images()[0]] == ["old"]
    write(store, "new", pages(2))
    assert read(store, "new") == pages(2)


def test_an_error_of_the_caller_passes_as_it_is(store: Store) -> None:
    with pytest.raises(PermissionError), store.writer("new"):
        raise PermissionError(1, "not ours")


def test_a_name_is_taken_once(store: Store) -> None:
    write(store, "demo", pages(1))
    with pytest.raises(ImageExists, match="'demo' exists"), store.writer("demo"):
        pass
    write(store, "demo", pages(2), replace=True)
    assert read(store, "demo") == pages(2)


@pytest.mark.parametrize("name", ["a", "a b", "día", "x" * 200, ".", "a=b:c"])
def test_names(store: Store, name: str) -> None:
    write(store, name, pages(1))
    assert list(store.refs()) == [name]


@pytest.mark.parametrize("name", ["", "/", "a/b", "-a", "a\n", "\x1b[2J", "x" * 201, "é" * 101, "\udc80"])
def test_names_that_are_none(store: Store, name: str) -> None:
    with pytest.raises(UsageError), store.writer(name):
        pass
    with pytest.raises(UsageError):
        store.load(name)


def test_an_unknown_name(store: Store) -> None:
    for work in (store.load, store.remove, store.verify, store.info):
        with pytest.raises(ImageNotFound, match="no image 'demo'"):
            work("demo")


def test_removed_images_are_collected(store: Store) -> None:
    for seed, name in enumerate(["a", "b", "c"]):
        write(store, name, pages(seed) | {1 << 40: b"shared" * 1024 * 2 + bytes(PAGE_BYTES * 3 - 12288)})
    store.remove("b")
    summary = store.collect()
    assert (summary.images, summary.maps, summary.chunks) == (1, 1, 6)
    assert summary.freed_bytes > 0
    report = store.verify()
    assert (report.images, report.chunks, report.damages) == (2, 13, [])
    assert store.collect().chunks == 0
    assert write(store, "b", pages(1)).reused_chunks == 0
    for seed, name in enumerate(["a", "b", "c"]):
        assert read(store, name).items() >= pages(seed).items()


def test_collected_room_is_used_again(store: Store, folder: Path) -> None:
    write(store, "demo", {i * CHUNK_BYTES: random.Random(i).randbytes(CHUNK_BYTES) for i in range(40)})
    size = (folder / "data.mdb").stat().st_size
    for seed in range(1, 6):
        store.remove("demo")
        store.collect()
        content = {i * CHUNK_BYTES: random.Random(seed * 99 + i).randbytes(CHUNK_BYTES) for i in range(40)}
        write(store, "demo", content)
    assert (folder / "data.mdb").stat().st_size < 2.5 * size
    assert store.verify().damages == []


def test_numbers_are_never_used_again(store: Store) -> None:
    first = write(store, "demo", pages(1))
    old = {chunk.place.seq for chunk in store.records(first.map_id, first.map_check)}
    store.remove("demo")
    store.collect()
    second = write(store, "demo", pages(2))
    assert second.map_id > first.map_id
    assert min(chunk.place.seq for chunk in store.records(second.map_id, second.map_check)) > max(old)


def test_a_reader_keeps_its_state(store: Store, folder: Path) -> None:
    write(store, "demo", pages(1))
    snapshot = store.snapshot
    assert elsewhere(replace_demo, folder).wait() == 0
    assert store.snapshot is snapshot
    assert read(store, "demo") == pages(1)
    store.release()
    assert list(store.refs()) == ["other"]


def test_folder_and_files_are_private(store: Store, folder: Path) -> None:
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(path.stat().st_mode) for path in folder.iterdir()} == {0o600}
    assert {path.name for path in folder.iterdir()} == {"data.mdb", "lock.mdb"}
    lock = (folder / "lock.mdb").stat()
    assert lock.st_blocks * 512 >= lock.st_size >= 1024 * 64


def test_an_absent_store(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="checkpoint creates it"), open_store(tmp_path / "none"):
        pass
    assert not (tmp_path / "none").exists()


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="file"), open_store(tmp_path / "file" / "store", create=True):
        pass


@pytest.mark.skipif(os.geteuid() != 0, reason="changes its user")
def test_a_store_of_another_user(tmp_path: Path) -> None:
    with open_store(tmp_path / "store", create=True):
        pass
    tmp_path.chmod(0o755)

    def work() -> None:
        os.setresuid(12345, 12345, 12345)
        for create in (False, True):
            with pytest.raises(PrivilegeError), open_store(tmp_path / "store", create=create):
                pass

    in_child(work)


def test_a_newer_format(folder: Path) -> None:
    with open_store(folder, create=True) as store, store.changing() as txn:
        txn.put(b"version", (5).to_bytes(4, "little"), db=store.env.open_db(b"meta", txn=txn))
        txn.commit()
    with pytest.raises(StoreError, match="has format 5"), open_store(folder):
        pass


def test_default_path(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RESTORER_STORE", "/srv/images")
    assert default_path() == Path("/srv/images")
    monkeypatch.delenv("RESTORER_STORE")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_path() == Path("/var/lib/restorer")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    monkeypatch.setenv("XDG_DATA_HOME", "/home/me/data")
    assert default_path() == Path("/home/me/data/restorer")


@pytest.mark.parametrize("point", range(6))
def test_a_killed_writer_leaves_the_old_state(folder: Path, point: int) -> None:
    with open_store(folder, create=True) as store:
        write(store, "old", pages(1))
    pid = os.fork()
    if pid == 0:
        with open_store(folder) as store, store.writer("new") as writer:
            for i, (addr, data) in enumerate(pages(5, chunks=400).items()):
                if i == point * 80:
                    os.kill(os.getpid(), signal.SIGKILL)
                writer.add(addr, mask_of(data), 0, data)
            writer.finish_map()
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL
    with open_store(folder) as store:
        assert {name: read(store, name) for name in store.refs()} == {"old": pages(1)}
        write(store, "new", pages(2))
        assert store.verify().damages == []


def test_a_writer_waits_for_another(folder: Path) -> None:
    with open_store(folder, create=True) as store, store.writer("a") as writer:
        child = elsewhere(write_b, folder)
        for addr, data in pages(1).items():
            writer.add(addr, mask_of(data), 0, data)
        with pytest.raises(subprocess.TimeoutExpired):
            child.wait(0.5)
        writer.commit(seal(writer.image_id, [writer.finish_map()]))
    assert child.wait() == 0
    with open_store(folder) as store:
        assert {name: read(store, name) for name in store.refs()} == {"a": pages(1), "b": pages(2)}


def test_a_full_disk_leaves_the_old_state(folder: Path) -> None:
    with open_store(folder, create=True) as store:
        write(store, "old", pages(1))

    def work() -> None:
        limit = (folder / "data.mdb").stat().st_size + 5 * PAGE_BYTES + 100
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        random_pages = {i * CHUNK_BYTES: random.Random(i).randbytes(CHUNK_BYTES) for i in range(50)}
        with open_store(folder) as store:
            with pytest.raises(StoreError):
                write(store, "new", random_pages)
            assert read(store, "old") == pages(1)

    in_child(work)
    with open_store(folder) as store:
        assert list(store.refs()) == ["old"]
        write(store, "new", pages(2))
        assert store.verify().damages == []


def test_a_file_at_its_limit_is_full(folder: Path) -> None:
    with open_store(folder, create=True):
        pass

    def work() -> None:
        limit = (folder / "data.mdb").stat().st_size
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
        with open_store(folder) as store, pytest.raises(StoreFull, match="no room"):
            write(store, "new", pages(1))

    in_child(work)


def sample(folder: Path) -> dict[str, Pages]:
    """A store of two images, with room that was collected, as small as may be."""
    content = {"a": pages(1), "b": pages(2, chunks=3) | pages(1)}
    content["b"] = dict(sorted(content["b"].items()))
    with open_store(folder, create=True) as store:
        write(store, "gone", pages(9))
        for name, data in content.items():
            write(store, name, data)
        store.remove("gone")
        store.collect()
    return content


@pytest.mark.parametrize("number", [1, 2])
def test_older_formats_are_refused_by_number(tmp_path: Path, number: int) -> None:
    """Who changes the format finds out by the newest of these files, and adds one."""
    unpack(f"store-{number}.mdb.zst", tmp_path)
    with pytest.raises(StoreError, match=f"has format {number}, .* knows 3 and 4"), open_store(tmp_path):
        pass
