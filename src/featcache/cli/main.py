"""The command line: parse, one library call, print.

An expected failure is one line on stderr and exit code 2 for wrong use, 1 otherwise. Everything
that imports TensorFlow or scikit-learn is imported inside the verb that needs it, so that `--help`
stays quick.
"""

from __future__ import annotations

import io
import sys
from typing import Annotated

import typer

from featcache import __version__
from featcache.cli import (
    clean,
    demo,
    evaluate,
    export,
    extract,
    finetune,
    fit_heads,
    info,
    predict,
    report,
    stitch,
    verify,
)
from featcache.cli.options import app, say
from featcache.core import process
from featcache.core.errors import FeatcacheError, one_line

# as a person needs them; each adds its verb to `app` when it is imported
VERBS = (
    extract,
    fit_heads,
    report,
    stitch,
    finetune,
    predict,
    evaluate,
    export,
    info,
    verify,
    clean,
    demo,
)
_ORDER = [verb.__name__ for verb in VERBS]
app.registered_commands.sort(
    key=lambda verb: _ORDER.index(str(getattr(verb.callback, "__module__", "")))
)


@app.callback(invoke_without_command=True)
def _version(
    version: Annotated[bool, typer.Option("--version", help="Print the version.")] = False,
) -> None:
    if version:
        typer.echo(f"featcache {__version__}")
        raise typer.Exit


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # for terminals that are not UTF-8
    try:
        with process.owned():
            code = app(standalone_mode=False)
    except typer.TyperException as error:
        if message := one_line(error.format_message()):  # empty when the help was printed
            say(f"Error: {message.rstrip('.')}. See `featcache --help`.")
        sys.exit(error.exit_code)
    except FeatcacheError as error:
        say(f"Error: {one_line(str(error))}")
        sys.exit(error.exit_code)
    except (KeyboardInterrupt, typer.Abort):
        code = 130
    except BrokenPipeError:
        sys.stderr.close()  # the reader of stdout has gone, as in `| head`
        sys.exit(0)
    except OSError as error:
        where = f"'{error.filename}': " if error.filename else ""
        say(f"Error: {where}{error.strerror or error}. Mend that and run the same command again.")
        sys.exit(1)
    if code == 130:  # Typer turns Ctrl-C into this code
        say(
            "Interrupted. Features and epochs that were computed are kept; run the same command "
            "again."
        )
    sys.exit(code if isinstance(code, int) else 0)
