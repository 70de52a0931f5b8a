# SPDX-License-Identifier: Apache-2.0
"""`restorer restore`, here for the help: main() hands it to the launcher before Typer is imported."""

from __future__ import annotations

import typer

from restorer.restore import exec_launcher

CONTEXT_SETTINGS = {"ignore_unknown_options": True, "allow_extra_args": True, "help_option_names": []}


def command(context: typer.Context) -> None:
    """Restore NAME: `restorer restore --help` has the options."""
    raise typer.Exit(exec_launcher(context.args))
