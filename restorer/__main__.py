# SPDX-License-Identifier: Apache-2.0
"""The entry point: hands `restore` to the launcher before anything slow is imported, all else to Typer."""

from __future__ import annotations

import sys

from restorer.restore import exec_launcher, restore_arguments


def main() -> None:
    """Run the command line in sys.argv and exit with its code; `restore` never returns from here."""
    arguments = restore_arguments(sys.argv[1:])
    if arguments is not None:
        sys.exit(exec_launcher(arguments))

    from restorer.cli.app import run

    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
