# SPDX-License-Identifier: Apache-2.0
"""`restorer rm`."""

from __future__ import annotations

from typing import Annotated

import typer

from restorer import firewall, report
from restorer.cli.options import JsonOption, StoreOption, store_path
from restorer.store import firewall_of, open_store


def command(
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="The images' names.")],
    json: JsonOption = False,
    store: StoreOption = None,
) -> None:
    """Remove images by name. What only they used stays until `restorer gc`; TCP connections they hold are
    let go.
    """
    with open_store(store_path(store)) as opened:
        for name in names:
            table = firewall_of(opened, name)
            opened.remove(name)
            firewall.remove(table)
            if not json:
                print(name)
    if json:
        print(report.document("rm", {"removed": names}))
