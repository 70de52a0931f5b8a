# SPDX-License-Identifier: Apache-2.0
"""How many huge pages of hugetlbfs a tree needs of the machine's pool."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence

from restorer.state import contents
from restorer.state.contents import Content, Contents
from restorer.state.vmas import Mapping, Vmas

_Span = tuple[int, int]


def needed(tree: Sequence[tuple[Vmas, Contents]]) -> Counter[int]:
    """Pages by their size in bytes. Not counted: those of files with a name and of System V segments, which
    may be there still.
    """
    total: Counter[int] = Counter()
    shared: dict[Content, list[_Span]] = defaultdict(list)
    for memory, brought in tree:
        for content, _ in brought.files:
            if content.huge_bytes and content.kind != contents.SYSV:
                shared[content] += content.extents
        for mapping in memory.mappings:
            if mapping.huge is None:
                continue
            if not mapping.vma.shared:
                total[mapping.huge.page_bytes] += _pages(_private(mapping), mapping.huge.page_bytes)
            elif mapping.content in shared and "nr" not in mapping.vma.flags:
                shared[mapping.content].append((mapping.vma.offset, mapping.vma.offset + mapping.vma.length))
    for content, spans in shared.items():
        total[content.huge_bytes] += _pages(spans, content.huge_bytes)
    return +total


def _private(mapping: Mapping) -> Iterable[_Span]:
    reserved = "nr" not in mapping.vma.flags
    if reserved or mapping.huge is None:
        return [(mapping.vma.start, mapping.vma.end)]
    return mapping.huge.populated


def _pages(spans: Iterable[_Span], page_bytes: int) -> int:
    return len({page for start, end in spans for page in range(start // page_bytes, -(-end // page_bytes))})
