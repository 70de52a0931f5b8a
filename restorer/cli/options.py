# SPDX-License-Identifier: Apache-2.0
"""Options and arguments that several commands share."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, TypeAlias

import typer

from restorer.store import default_path

__all__ = ["JsonOption", "NameArgument", "StoreOption", "store_path"]

StoreOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(
        "--store", metavar="DIR", help="The store; else $RESTORER_STORE, else the system's or the user's."
    ),
]
JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]
NameArgument: TypeAlias = Annotated[str, typer.Argument(metavar="NAME", help="The image's name.")]


def store_path(option: Path | None) -> Path:
    """The store that the command is about: --store, else what RESTORER_STORE or the user's kind says."""
    return option if option is not None else Path(default_path())
