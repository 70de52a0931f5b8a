# SPDX-License-Identifier: Apache-2.0
"""Stores as they were written when their format was new."""

from pathlib import Path

import zstandard

_FOLDER = Path(__file__).parent


def unpack(golden: str, folder: Path) -> None:
    """Puts one of them into `folder`."""
    (folder / "data.mdb").write_bytes(zstandard.decompress((_FOLDER / golden).read_bytes()))
