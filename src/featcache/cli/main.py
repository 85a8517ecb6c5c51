"""The command line: parse, one library call, print.

An expected failure is one line on stderr and exit code 2 for wrong use, 1 otherwise. Everything
that imports TensorFlow or scikit-learn is imported inside the verb that needs it, so that `--help`
stays quick.
"""

from __future__ import annotations

import io
import signal
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from featcache import __version__
from featcache.cli import (
    backbones,
    clean,
    compact,
    demo,
    evaluate,
    export,
    extract,
    finetune,
    fit_heads,
    info,
    predict,
    report,
    search,
    stitch,
    verify,
)
from featcache.cli.options import app, say
from featcache.core import process
from featcache.core.errors import FeatcacheError, one_line
from featcache.core.escapes import ESCAPES, path_of

# as a person needs them; each adds its verb to `app` when it is imported
VERBS = (
    extract,
    fit_heads,
    report,
    search,
    stitch,
    finetune,
    predict,
    evaluate,
    export,
    info,
    verify,
    backbones,
    compact,
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


class _Ended(KeyboardInterrupt):
    """Another program wants this one to end.

    A class of its own: Python remembers a plain KeyboardInterrupt that passes through `exec`, and
    then exits as if by Ctrl-C whatever code it is given.
    """


def main() -> None:
    """Run the command line and exit with its code."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors=ESCAPES)  # for terminals that are not UTF-8, and odd paths
    _check_folder()
    sys.argv[1:] = map(path_of, sys.argv[1:])
    with _ended_gently() as ended_by:
        _run(ended_by)


def _run(ended_by: list[int]) -> NoReturn:
    """Run the command line; `ended_by` has the signal by which another program ended it."""
    try:
        with process.owned():
            code = app(standalone_mode=False)
    except typer.TyperException as error:
        if message := one_line(error.format_message()):  # empty when the help was printed
            say(f"Error: {message.rstrip('.')}. See `{_asked_for()} --help`.")
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
        code = 128 + ended_by[0] if ended_by else 130
        say(
            f"{'Terminated' if ended_by else 'Interrupted'}. Features and epochs that were "
            f"computed are kept; run the same command again."
        )
    sys.exit(code if isinstance(code, int) else 0)


def _check_folder() -> None:
    """Exit where the working directory was deleted, to which paths are relative."""
    try:
        Path.cwd()
    except FileNotFoundError:
        say("Error: The working directory was deleted. Change to one that is there (cd).")
        sys.exit(1)


def _asked_for() -> str:
    """Return the program with its verb, if the command line begins with one."""
    verbs = {verb.__name__.rsplit(".", 1)[-1].replace("_", "-") for verb in VERBS}
    named = [word for word in sys.argv[1:2] if word in verbs]
    return " ".join(["featcache", *named])


@contextmanager
def _ended_gently() -> Iterator[list[int]]:
    """Have other programs' wish to end this one do what Ctrl-C does: whatever was begun is tidied.

    The second one ends it at once. Yields a list that gets the number of the signal.
    """
    ended_by: list[int] = []

    def end(number: int, _: object) -> None:
        ended_by.append(number)
        signal.signal(number, signal.SIG_DFL)
        raise _Ended

    # one that is ignored, as under nohup, stays so; other threads than the main one get none
    is_main = threading.current_thread() is threading.main_thread()
    wanted = [getattr(signal, name, None) for name in ("SIGTERM", "SIGHUP")] if is_main else []
    numbers = [one for one in wanted if one and signal.getsignal(one) == signal.SIG_DFL]
    for number in numbers:
        signal.signal(number, end)
    try:
        yield ended_by
    finally:
        for number in numbers:
            signal.signal(number, signal.SIG_DFL)
