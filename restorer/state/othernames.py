# SPDX-License-Identifier: Apache-2.0
"""The name of a file that has lost the one by which it was opened, mapped or bound.

sem_open(3) and supervisord make a file under a name of their own, link it to the one that others know, and
delete the first: the kernel goes on calling the file by that, "(deleted)".
"""

from __future__ import annotations

import os
from contextlib import suppress

_DELETED = " (deleted)"


def find(link: str, status: os.stat_result) -> str | None:
    """Another path of the file that /proc calls `link`, in the same folder; None where there is none, or none
    is needed.
    """
    if not link.endswith(_DELETED) or not link.startswith("/") or not status.st_nlink:
        return None
    with suppress(OSError), os.scandir(os.path.dirname(link)) as entries:
        for entry in entries:
            if entry.inode() == status.st_ino and os.path.samestat(os.lstat(entry.path), status):
                return entry.path
    return None
