"""Progress on stderr: a bar on a terminal, plain lines elsewhere. Never on stdout."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol

from featcache.core import process
from featcache.core.errors import one_line

PLAIN_EVERY_S = 10.0


class Advance(Protocol):
    """Told how many units are done since last time, and what the work is waiting for if known."""

    def __call__(self, n: int, remark: str = "") -> None:
        """Show it."""


@contextmanager
def bar(label: str, total: int, unit: str, show: bool = True) -> Iterator[Advance]:
    """Yield a function that takes the number of units done since its last call."""
    if not show or not total:
        yield lambda n, remark="": None
    elif sys.stderr.isatty():
        with _rich_bar(label, total, unit) as advance:
            yield advance
    else:
        yield _plain_lines(label, total, unit)


def note(message: str, show: bool = True) -> None:
    """Write one line to stderr."""
    if show:
        print(message, file=sys.stderr, flush=True)


def notes(remarks: Iterable[str], show: bool = True) -> None:
    """Write what a user should know, a line each, to stderr."""
    for remark in remarks:
        note(f"Note: {one_line(remark)}", show)


@contextmanager
def _rich_bar(label: str, total: int, unit: str) -> Iterator[Advance]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        MofNCompleteColumn,
        Progress,
        ProgressColumn,
        Task,
        TextColumn,
        TimeRemainingColumn,
    )
    from rich.text import Text

    class Rate(ProgressColumn):
        def render(self, task: Task) -> Text:
            rate = f"{task.finished_speed or task.speed or 0:.0f} {unit}/s"
            remark = task.fields["remark"]
            return Text(f"{rate}, {remark}" if remark else rate)

    columns = (TextColumn(label), BarColumn(), MofNCompleteColumn(), Rate(), TimeRemainingColumn())
    own = process.is_own()  # where it is not, streams that rich puts in place might stay
    with Progress(
        *columns,
        console=Console(stderr=True),
        transient=True,
        redirect_stdout=own,
        redirect_stderr=own,
    ) as progress:
        task = progress.add_task(label, total=total, remark="")
        yield lambda n, remark="": progress.update(task, advance=n, remark=remark)


def _plain_lines(label: str, total: int, unit: str) -> Advance:
    start = last = time.monotonic()
    done = 0

    def advance(n: int, remark: str = "") -> None:
        nonlocal done, last
        done += n
        now = time.monotonic()
        if now - last >= PLAIN_EVERY_S:
            last = now
            rate = done / (now - start)
            left = (total - done) / rate if rate else 0.0
            text = f"{label}: {done} of {total}, {rate:.1f} {unit}/s, {left:.0f} s left"
            note(f"{text}, {remark}" if remark else text)

    return advance
