# SPDX-License-Identifier: Apache-2.0
"""The Typer application, and the one place where errors become messages and exit codes."""

from __future__ import annotations

import importlib
import os
import sys
import traceback
from typing import Annotated

import typer

from restorer import __version__
from restorer.errors import RestorerError
from restorer.restore import hoist

__all__ = ["COMMANDS", "run"]

COMMANDS = (
    "checkpoint",
    "restore",
    "list",
    "show",
    "verify",
    "rm",
    "gc",
    "check",
    "plan",
    "optimize",
    "stats",
)
_INTERRUPTED = 130
_BROKEN_PIPE = 141
_USAGE = 2
# Typer carries click inside from 0.28 on and depends on it before: this is the class in either.
_UsageError: type[Exception] = typer.BadParameter.__bases__[0]


def run(argv: list[str]) -> int:
    """Run one command line and return its exit code; messages are on stderr, one line each, no traceback."""
    argv = hoist(argv)
    try:
        code = _application(argv)(args=argv or ["--help"], prog_name="restorer", standalone_mode=False)
        sys.stdout.flush()
    except BrokenPipeError:
        # Python flushes stdout once more at its end, and would complain.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return _BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return _INTERRUPTED
    except RestorerError as error:
        return _fail(str(error), error.exit_code)
    except _UsageError as error:
        return _fail(_usage_text(error, argv), _USAGE)
    except Exception as error:  # a defect of ours: still one line, unless asked for more
        if os.environ.get("RESTORER_DEBUG"):
            traceback.print_exc()
        text = f"internal error: {type(error).__name__}: {error}; set RESTORER_DEBUG=1 to see where"
        return _fail(text, RestorerError.exit_code)
    return (code or 0) if argv else _USAGE


def _application(argv: list[str]) -> typer.Typer:
    app = typer.Typer(
        add_completion=False,
        pretty_exceptions_enable=False,
        rich_markup_mode=None,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_global_options)
    # Only what the command line names is imported: each command brings its own slow modules.
    for name in argv[:1] if argv and argv[0] in COMMANDS else COMMANDS:
        module = importlib.import_module(f"restorer.cli.{name}")
        app.command(name, context_settings=getattr(module, "CONTEXT_SETTINGS", None))(module.command)
    return app


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"restorer {__version__}")
        raise typer.Exit


def _global_options(
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version.")
    ] = False,
) -> None:
    """Checkpoint a live process into a store, and restore it at once, its memory on demand."""


def _usage_text(error: Exception, argv: list[str]) -> str:
    text = " ".join(getattr(error, "format_message", error.__str__)().split()).rstrip(".")
    where = f"restorer {argv[0]} --help" if argv[0] in COMMANDS else "restorer --help"
    return f"{text}; see {where}"


def _fail(text: str, code: int) -> int:
    print("restorer: " + " ".join(text.split("\n")), file=sys.stderr)
    return code
