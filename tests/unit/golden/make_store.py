# SPDX-License-Identifier: Apache-2.0
"""Writes the golden store of this format: `python -m tests.unit.golden.make_store FILE`."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import zstandard

from tests.unit.test_store_hot import sample

with tempfile.TemporaryDirectory() as folder:
    sample(Path(folder))
    data = (Path(folder) / "data.mdb").read_bytes()
Path(sys.argv[1]).write_bytes(zstandard.compress(data, 19))
