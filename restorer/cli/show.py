# SPDX-License-Identifier: Apache-2.0
"""`restorer show`."""

from __future__ import annotations

from collections import Counter
from typing import Any

from restorer import report
from restorer.cli.options import JsonOption, NameArgument, StoreOption, store_path
from restorer.model import ImageInfo
from restorer.store import open_store

_FIELDS = ("name", "id", "pid", "command", "memory_bytes", "stored_bytes", "created", "manifest")


def command(name: NameArgument, json: JsonOption = False, store: StoreOption = None) -> None:
    """Show what image NAME holds: the processes, their threads, descriptors and memory."""
    with open_store(store_path(store)) as opened:
        image = opened.info(name)
    if json:
        print(report.document("show", {field: getattr(image, field) for field in _FIELDS}))
    else:
        print(report.tree(image_tree(image), report.line_width()))


def image_tree(image: ImageInfo) -> report.Node:
    """The tree that `show` prints."""
    root = report.Node(f"{image.name}, of {report.time_text(image.created)}")
    first = image.manifest | {"pid": image.pid, "command": image.command}
    parts: list[dict[str, Any]] = [first, *image.manifest.get("descendants", [])]
    births: list[dict[str, Any]] = image.manifest.get("births", {}).get("processes", [])
    firsts: list[int] = image.manifest.get("tables", {}).get("files", [])
    nodes: list[report.Node] = []
    for index, part in enumerate(parts):
        first_one = firsts[index] if index < len(firsts) else index
        birth: dict[str, Any] = births[index] if index < len(births) else {"parent": -1, "zombies": []}
        above = root if birth["parent"] < 0 else nodes[birth["parent"]]
        nodes.append(_add_process(above, part, parts[first_one]["pid"] if first_one != index else None))
        for zombie in birth["zombies"]:
            nodes[-1].add(f"zombie {zombie['session']['pid']}: {report.command_text([zombie['name']])}")
    return root


def _add_process(above: report.Node, part: dict[str, Any], whose: int | None) -> report.Node:
    """`whose` descriptors it has, where they are those of another process."""
    state: dict[str, Any] = part.get("state", {})
    stopped = ", stopped" if state.get("stopped") else ""
    pid, command_line = part.get("pid", 0), report.command_text([part.get("command", "")], 80)
    process = above.add(f"process {pid}{stopped}: {command_line}")
    _add_threads(process, state.get("threads", []))
    if whose is None:
        _add_descriptors(process, state.get("fds", {}))
    else:
        process.add(f"the descriptors of process {whose}")
    _add_memory(process, part.get("summary", {}), state.get("memory", {}).get("mappings", []))
    return process


def _add_threads(process: report.Node, parts: list[dict[str, Any]]) -> None:
    node = process.add(report.count_text(len(parts), "thread"))
    for part in parts:
        node.add(f"{part['thread']['tid']} {report.command_text([part['thread']['name']])}")


def _add_descriptors(process: report.Node, table: dict[str, Any]) -> None:
    numbers = table.get("fds", [])
    node = process.add(report.count_text(len(numbers), "descriptor"))
    for entry in numbers:
        opened = table["descriptions"][entry["description"]]["object"]
        node.add(f"{entry['number']} {report.command_text([_object_text(opened)], 80)}")


def _object_text(opened: dict[str, Any]) -> str:
    """A file's path; of anything else its kind and, where it has them, its state and its name."""
    if opened["kind"] == "file":
        return str(opened["path"])
    words = [opened["kind"]]
    words += [f"[{opened['pipe']}]"] if "pipe" in opened else []
    words += [str(opened[name]) for name in ("state", "stream", "link") if opened.get(name) is not None]
    local = opened.get("local")
    return " ".join(words + ([f"{local[0]}:{local[1]}"] if opened["kind"] == "inet" and local else []))


def _add_memory(process: report.Node, summary: dict[str, Any], mappings: list[dict[str, Any]]) -> None:
    raw, stored = (report.bytes_text(summary.get(name, 0)) for name in ("raw_bytes", "stored_bytes"))
    sizes = f"{raw} stored in {stored}"
    node = process.add(f"memory: {report.count_text(len(mappings), 'mapping')}, {sizes}")
    lengths: Counter[str] = Counter()
    for vma in (mapping["vma"] for mapping in mappings):
        lengths[vma["path"] or vma["name"] or "anonymous"] += vma["end"] - vma["start"]
    for text, length in lengths.most_common():
        node.add(f"{report.bytes_text(length):>8} {report.command_text([text], 80)}")
