# SPDX-License-Identifier: Apache-2.0
"""`restorer verify`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

import typer

from restorer import report
from restorer.cli.options import JsonOption, StoreOption, store_path
from restorer.store import open_store
from restorer.store_check import Damage, VerifyReport


def command(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="An image; all, if none is named.")
    ] = None,
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Decode and check every chunk of NAME, or the whole store. Exits 1 when something is damaged or has
    another format."""
    with open_store(store_path(store)) as opened:
        found = opened.verify(name)
    failed = bool(found.damages or found.unread)
    if json:
        print(report.document("verify", {"ok": not failed, **asdict(found)}))
    else:
        print("\n".join(_lines(found)))
    if failed:
        raise typer.Exit(1)


def _lines(found: VerifyReport) -> list[str]:
    sizes = f"{report.bytes_text(found.raw_bytes)} in {report.bytes_text(found.stored_bytes)}"
    looked = (
        f"{report.count_text(found.images, 'image')}, {report.count_text(found.chunks, 'chunk')}, {sizes}"
    )
    verdict = report.count_text(len(found.damages), "damage") if found.damages else "nothing is damaged"
    if found.unread:
        verdict += f"; {report.count_text(len(found.unread), 'image')} of another format not looked at"
    unread = (f"{one.cause}; {one.hint}, or restorer rm {one.name}" for one in found.unread)
    return [*(_damage_text(damage) for damage in found.damages), *unread, f"{looked}: {verdict}"]


def _damage_text(damage: Damage) -> str:
    where = f" at {damage.addr:#x}" if damage.addr is not None else ""
    return f"{damage.name or 'store'}{where}: {damage.cause}"
