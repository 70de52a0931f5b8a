# SPDX-License-Identifier: Apache-2.0
"""`make test-images`: prints the Debian packages that the programs of images/ need and this machine lacks."""

from __future__ import annotations

from pathlib import Path

from images import PROGRAMS, load
from images.installed import Installed


def main() -> None:
    recipes = [load(name, Path()) for name in PROGRAMS]
    print(*sorted({name for recipe in recipes if isinstance(recipe, Installed) for name in recipe.missing()}))


if __name__ == "__main__":
    main()
