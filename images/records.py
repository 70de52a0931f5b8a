# SPDX-License-Identifier: Apache-2.0
"""What the data services of images/ are filled with: text that follows from a number, in any language.

The JavaScript and the Java of it, in node/server.js and java/Server.java, make the same text.
"""

from __future__ import annotations

import hashlib

RECORD_BYTES = 1024
RECORDS_PER_MB = 900  # with what a dictionary needs besides


def record(number: int) -> str:
    """1024 hexadecimal digits: the SHA-256 of "NUMBER/0" to "NUMBER/15"."""
    return "".join(hashlib.sha256(f"{number}/{part}".encode()).hexdigest() for part in range(16))


def spread(step: int, count: int) -> int:
    """A number below `count`; successive steps fall far from each other."""
    return step * 2654435761 % count
