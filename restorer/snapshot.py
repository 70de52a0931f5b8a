# SPDX-License-Identifier: Apache-2.0
"""A bounded reader of LMDB's file format, for stores that may be damaged.

LMDB trusts its pages: a flipped bit in one makes it follow a wild page number beyond the end of the map, and
the process dies of SIGBUS. So LMDB pins the snapshot (`env.begin()` protects its pages from being reused),
and this module reads those pages with `pread`, each number and length checked against its bounds. The format
is that of LMDB 0.9 (data version 1) with 4 KiB pages, described in docs/format.md.

    with pin(env, path) as snapshot:
        snapshot.get("refs", b"demo")
"""

from __future__ import annotations

import os
import struct
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from restorer.errors import StoreDamaged
from restorer.record import dataclass

if TYPE_CHECKING:
    import lmdb

__all__ = ["PAGE_BYTES", "Entry", "Meta", "Snapshot", "check_file", "pin"]

PAGE_BYTES = 4096
HEADER_BYTES = 16
MAGIC = 0xBEEFC0DE
VERSION = 1
NO_PAGE = 0xFFFFFFFFFFFFFFFF
DEPTH_MAX = 16
CACHE_PAGES = 1024

FLAG_BRANCH, FLAG_LEAF, FLAG_OVERFLOW, FLAG_META = 1, 2, 4, 8
NODE_BIG, NODE_DB = 1, 2
FLAG_INTEGER_KEY = 8

_HEADER = struct.Struct("<QHHHH")
_VALUE_HEADER = struct.Struct("<QHHI")
_NODE = struct.Struct("<HHHH")
_TREE = struct.Struct("<IHHQQQQQ")
_META = struct.Struct("<IIQQ48s48sQQ")
_RESTORE_HINT = "bring the store back from a copy, or remove it and take new checkpoints"


class Tree(NamedTuple):
    """One B-tree: LMDB's MDB_db. `root` is None when it is empty."""

    flags: int
    entries: int
    root: int | None


@dataclass(frozen=True)
class Meta:
    """One of the two meta pages."""

    txnid: int
    last_page: int
    free: Tree
    main: Tree


class Entry(NamedTuple):
    """A key, and where in the file its value lies (bytes)."""

    key: bytes
    offset: int
    length: int
    flags: int


class _Page(NamedTuple):
    leaf: bool
    keys: list[bytes]
    children: list[int]
    entries: list[Entry]


def _overflow_pages(length: int) -> int:
    return (HEADER_BYTES + length + PAGE_BYTES - 1) // PAGE_BYTES


def damaged(path: Path, what: str) -> StoreDamaged:
    """The error for a file that is not what LMDB wrote."""
    return StoreDamaged(f"store {path.parent} is damaged: {what}", _RESTORE_HINT)


def _tree(raw: bytes) -> Tree:
    _, flags, _, _, _, _, entries, root = _TREE.unpack(raw)
    return Tree(flags, entries, None if root == NO_PAGE else root)


def _meta(path: Path, raw: bytes, page: int) -> Meta:
    if len(raw) < PAGE_BYTES:
        raise damaged(path, f"data.mdb ends in its meta page {page}")
    magic, version, _, _, free, main, last_page, txnid = _META.unpack_from(raw, HEADER_BYTES)
    if _HEADER.unpack_from(raw)[2] & FLAG_META == 0 or magic != MAGIC or version != VERSION:
        raise damaged(path, f"meta page {page} of data.mdb is none")
    if _TREE.unpack(free)[0] != PAGE_BYTES:
        raise damaged(path, f"meta page {page} of data.mdb names a page size other than {PAGE_BYTES}")
    return Meta(txnid, last_page, _tree(free), _tree(main))


def check_file(path: Path) -> None:
    """Checks what LMDB does not when it opens `path` (data.mdb): both meta pages, and that the file has every
    page that the newest of them names; reading a missing one would end in SIGBUS. Raises StoreDamaged.
    """
    with path.open("rb") as file:
        head = file.read(2 * PAGE_BYTES)
        file_bytes = os.fstat(file.fileno()).st_size
    metas = [_meta(path, head[i * PAGE_BYTES : (i + 1) * PAGE_BYTES], i) for i in (0, 1)]
    need_bytes = (max(metas, key=lambda meta: meta.txnid).last_page + 1) * PAGE_BYTES
    if file_bytes < need_bytes:
        raise damaged(path, f"data.mdb is truncated: {file_bytes} of {need_bytes} bytes are left")


class Snapshot:
    """One state of the store, read page by page with every bound checked. Methods raise StoreDamaged."""

    def __init__(self, path: Path, fd: int, meta: Meta) -> None:
        self.path = path
        self.meta = meta
        self._fd = fd
        self._pages: dict[int, _Page] = {}
        self._trees: dict[str, Tree] = {}

    def get(self, db: str, key: bytes) -> bytes | None:
        """The value under `key` in database `db`, or None."""
        entry = self.find(db, key)
        return None if entry is None else self.read(entry)

    def find(self, db: str, key: bytes) -> Entry | None:
        """Where the value under `key` lies, or None."""
        return self._find(self.tree(db), key)

    def read(self, entry: Entry) -> bytes:
        """The value itself."""
        return self._pread(entry.offset, entry.length)

    def entries(self, db: str) -> Iterator[Entry]:
        """All entries of database `db` in the order of their keys; as many as LMDB counted, or
        StoreDamaged.
        """
        yield from self.walk(self.tree(db))

    def walk(self, tree: Tree) -> Iterator[Entry]:
        """All entries of `tree`, as `entries`."""
        count = 0
        last: bytes | None = None
        for _, page in self._pages_of(tree):
            for entry in page.entries:
                if last is not None and entry.key <= last:
                    raise damaged(self.path, "keys of a tree are out of order")
                last = entry.key
                count += 1
                yield entry
        if count != tree.entries:
            raise damaged(self.path, f"a tree has {count} entries instead of {tree.entries}")

    def check_pages(self, dbs: Iterable[str], *, values: bool) -> None:
        """Raises StoreDamaged if a page has two owners: trees, values, or the list of free pages, from which
        LMDB would take it and write over the other's.
        """
        owned = bytearray(self.meta.last_page + 1)
        if (self.meta.main.flags, self.meta.free.flags) != (0, FLAG_INTEGER_KEY):
            raise damaged(self.path, "its own databases are of an unknown kind")
        for tree in (self.meta.main, self.meta.free, *map(self.tree, dbs)):
            for number, page in self._pages_of(tree):
                self._own(owned, number, 1)
                for entry in page.entries:
                    if entry.flags & NODE_BIG:
                        self._own(owned, entry.offset // PAGE_BYTES, _overflow_pages(entry.length))
                        if values:
                            self._check_header(entry)
        # A value of the free database is a count, then that many page numbers (MDB_IDL).
        for _, page in self._pages_of(self.meta.free):
            for entry in page.entries:
                raw = self.read(entry)
                count = int.from_bytes(raw[:8], "little")
                if len(raw) < 8 * (count + 1):
                    raise damaged(self.path, "its list of free pages is cut off")
                for number in struct.unpack_from(f"<{count}Q", raw, 8):
                    self._own(owned, number, 1)

    def _check_header(self, entry: Entry) -> None:
        first = entry.offset // PAGE_BYTES
        own, _, flags, pages = _VALUE_HEADER.unpack(self._pread(first * PAGE_BYTES, HEADER_BYTES))
        if (own, flags, pages) != (first, FLAG_OVERFLOW, _overflow_pages(entry.length)):
            raise damaged(self.path, f"the value at page {first} of data.mdb has a wrong header")

    def _own(self, owned: bytearray, first: int, count: int) -> None:
        if first < 2 or first + count > len(owned) or any(owned[first : first + count]):
            raise damaged(self.path, f"page {first} of data.mdb has two owners")
        owned[first : first + count] = b"\1" * count

    def tree(self, db: str) -> Tree:
        """The tree of the named database `db`."""
        if db not in self._trees:
            entry = self._find(self.meta.main, db.encode())
            if entry is None or entry.flags != NODE_DB or entry.length != _TREE.size:
                raise damaged(self.path, f"its database {db!r} is missing")
            tree = _tree(self.read(entry))
            if tree.flags != 0:
                raise damaged(self.path, f"its database {db!r} is of an unknown kind")
            self._trees[db] = tree
        return self._trees[db]

    def _find(self, tree: Tree, key: bytes) -> Entry | None:
        number = tree.root
        for _ in range(DEPTH_MAX):
            if number is None:
                return None
            page = self._page(number)
            if page.leaf:
                i = bisect_right(page.keys, key) - 1
                return page.entries[i] if i >= 0 and page.keys[i] == key else None
            number = page.children[max(bisect_right(page.keys, key, 1) - 1, 0)]
        raise damaged(self.path, "a tree has a loop")

    def _pages_of(self, tree: Tree) -> Iterator[tuple[int, _Page]]:
        """All pages of `tree`, parents first, leaves in the order of their keys."""
        stack = [] if tree.root is None else [(tree.root, 0)]
        while stack:
            number, depth = stack.pop()
            if depth == DEPTH_MAX:
                raise damaged(self.path, "a tree has a loop")
            page = self._page(number)
            yield number, page
            stack.extend((child, depth + 1) for child in reversed(page.children))

    def _pread(self, offset: int, length: int) -> bytes:
        if offset + length > (self.meta.last_page + 1) * PAGE_BYTES:
            raise damaged(self.path, f"a value at {offset:#x} reaches beyond its last page")
        try:
            raw = os.pread(self._fd, length, offset)
        except OSError as error:
            raise damaged(self.path, f"data.mdb at {offset:#x}: {error.strerror}") from None
        if len(raw) != length:
            raise damaged(self.path, f"data.mdb ends before {offset + length:#x}")
        return raw

    def _page(self, number: int) -> _Page:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) == CACHE_PAGES:
                self._pages.clear()
            page = self._pages[number] = self._parse(number)
        return page

    def _parse(self, number: int) -> _Page:
        if not 2 <= number <= self.meta.last_page:
            raise damaged(self.path, f"it refers to page {number}, which it does not have")
        raw = self._pread(number * PAGE_BYTES, PAGE_BYTES)
        own, _, flags, lower, upper = _HEADER.unpack_from(raw)
        leaf = flags & (FLAG_BRANCH | FLAG_LEAF | FLAG_OVERFLOW | FLAG_META) == FLAG_LEAF
        branch = flags & (FLAG_BRANCH | FLAG_LEAF | FLAG_OVERFLOW | FLAG_META) == FLAG_BRANCH
        if (
            own != number
            or not (leaf or branch)
            or not HEADER_BYTES < lower <= upper <= PAGE_BYTES
            or lower % 2
        ):
            raise damaged(self.path, f"page {number} of data.mdb is no tree page")
        page = _Page(leaf, [], [], [])
        for start in struct.unpack_from(f"<{(lower - HEADER_BYTES) // 2}H", raw, HEADER_BYTES):
            if not upper <= start <= PAGE_BYTES - _NODE.size:
                raise damaged(self.path, f"page {number} of data.mdb has a wild node")
            self._parse_node(page, number, raw, start)
        return page

    def _parse_node(self, page: _Page, number: int, raw: bytes, start: int) -> None:
        low, high, flags, key_bytes = _NODE.unpack_from(raw, start)
        data = start + _NODE.size + key_bytes
        if data > PAGE_BYTES:
            raise damaged(self.path, f"page {number} of data.mdb has a wild key")
        key = raw[start + _NODE.size : data]
        page.keys.append(key)
        if not page.leaf:
            page.children.append(low | high << 16 | flags << 32)
            return
        if flags not in (0, NODE_BIG, NODE_DB):
            raise damaged(self.path, f"page {number} of data.mdb has a node of an unknown kind")
        length = low | high << 16
        offset = number * PAGE_BYTES + data
        if flags & NODE_BIG:
            if data + 8 > PAGE_BYTES:
                raise damaged(self.path, f"page {number} of data.mdb has a wild value")
            first = int.from_bytes(raw[data : data + 8], "little")
            if not 2 <= first <= self.meta.last_page:
                raise damaged(self.path, f"it refers to page {first}, which it does not have")
            offset = first * PAGE_BYTES + HEADER_BYTES
        elif data + length > PAGE_BYTES:
            raise damaged(self.path, f"page {number} of data.mdb has a wild value")
        page.entries.append(Entry(key, offset, length, flags))


@contextmanager
def pin(env: lmdb.Environment, path: Path) -> Iterator[Snapshot]:
    """The newest snapshot of `env`, whose data file is `path`; its pages are not reused before the block is
    left.
    """
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        # Between begin() and the read of the meta page, two commits may overwrite it: begin again.
        while True:
            with env.begin() as txn:
                number = txn.id() & 1
                meta = _meta(path, os.pread(fd, PAGE_BYTES, number * PAGE_BYTES), number)
                if meta.txnid == txn.id():
                    yield Snapshot(path, fd, meta)
                    return
    finally:
        os.close(fd)
