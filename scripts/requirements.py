# SPDX-License-Identifier: Apache-2.0
"""Prints the requirements of the groups named, one a line: build, run, or an extra of pyproject.toml."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path


def main() -> None:
    data = tomllib.loads(Path(__file__).parent.with_name("pyproject.toml").read_text())
    project = data["project"]
    groups = {
        "build": data["build-system"]["requires"],
        "run": project["dependencies"],
        **project["optional-dependencies"],
    }
    for name in sys.argv[1:]:
        print("\n".join(groups[name]))


main()
