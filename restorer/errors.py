# SPDX-License-Identifier: Apache-2.0
"""The exceptions of restorer.

    RestorerError            exit code 1
    ├── UsageError           exit code 2: the command line makes no sense
    ├── Refused              the process is in a state that no image can hold
    ├── ProcessError         the process has gone, is the wrong one, or is traced by another
    ├── PrivilegeError       the kernel does not let us
    ├── FeatureError         the kernel, the machine or the installation lacks something
    ├── StoreError           the store cannot be used
    │   ├── StoreDamaged     bytes in it are not what was written
    │   ├── OtherFormat      an image that this version does not know
    │   ├── StoreFull        no room; the store is as it was before
    │   ├── ImageNotFound
    │   └── ImageExists
    └── LaunchError          exit code 125: the restore itself failed

`str()` of each is one line, "cause; hint", fit to be shown to a user as it is.
"""

from __future__ import annotations

__all__ = [
    "FeatureError",
    "ImageExists",
    "ImageNotFound",
    "LaunchError",
    "OtherFormat",
    "PrivilegeError",
    "ProcessError",
    "Refused",
    "RestorerError",
    "StoreDamaged",
    "StoreError",
    "StoreFull",
    "UsageError",
]


class RestorerError(Exception):
    """What went wrong (`cause`, naming the object) and the way out (`hint`, may be empty)."""

    exit_code = 1

    def __init__(self, cause: str, hint: str = "") -> None:
        super().__init__(cause, hint)
        self.cause = cause
        self.hint = hint

    def __str__(self) -> str:
        text = f"{self.cause}; {self.hint}" if self.hint else self.cause
        return " ".join(text.split())


class UsageError(RestorerError):
    """The command line makes no sense."""

    exit_code = 2


class Refused(RestorerError):
    """The process is in a state that cannot be checkpointed; it runs on untouched."""


class ProcessError(RestorerError):
    """The process has gone, is not one that can be seized, or is traced by another."""


class PrivilegeError(RestorerError):
    """The kernel does not permit it to this user."""


class FeatureError(RestorerError):
    """The kernel, the machine or the installation lacks something that is needed."""


class StoreError(RestorerError):
    """The store cannot be used as asked."""


class StoreDamaged(StoreError):
    """Bytes in the store are not what was written there."""


class OtherFormat(StoreError):
    """An image of a format that this restorer does not know; nothing is wrong with it."""


class StoreFull(StoreError):
    """No room left; the store is what it was before."""


class ImageNotFound(StoreError):
    """No image of that name."""


class ImageExists(StoreError):
    """The name is taken."""


class LaunchError(RestorerError):
    """The restore itself failed."""

    exit_code = 125
