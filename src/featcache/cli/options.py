"""What the verbs share: the app, options that several have, and printing.

Results go to stdout, everything else to stderr.
"""

from __future__ import annotations

import inspect
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, TypeVar

import typer

from featcache.core.errors import SpecError
from featcache.core.options import Option
from featcache.core.tasks import TASKS, TargetKind
from featcache.core.text import counted

if TYPE_CHECKING:
    from featcache.store import Features

app = typer.Typer(
    help="Extract once, train heads in seconds, ship one model.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

Function = TypeVar("Function", bound=Callable[..., Any])

RARE = "Rarely needed"
DENSE = "Dense head (instead of its grid)"

CacheDir = Annotated[
    Path, typer.Option(help="Where features and heads are kept; or s3://BUCKET/FOLDER.")
]
LocalCacheDir = Annotated[Path, typer.Option(help="Where features and heads are kept.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of text.")]
Device = Annotated[str, typer.Option(help="auto, cpu or gpu.", rich_help_panel=RARE)]
Runtime = Annotated[
    str,
    typer.Option(
        help="auto, tensorflow or openvino; auto is the fastest here.", rich_help_panel=RARE
    ),
]
Overwrite = Annotated[
    bool, typer.Option("--overwrite", help="Do it again even if nothing changed.")
]
Jobs = Annotated[int, typer.Option(help="Processes; -1 is one a core.")]
Root = Annotated[
    Optional[Path],
    typer.Option(help="Folder of a manifest's paths. (the manifest's)", rich_help_panel=RARE),
]
Target = Annotated[
    Optional[str],
    typer.Option(help="Target columns of a manifest. (the model's)", rich_help_panel=RARE),
]
Seed = Annotated[int, typer.Option(help="Of everything that is random.")]


def with_declared(known: Mapping[str, Option]) -> Callable[[Function], Function]:
    """Give a verb that takes `**options` an option for each of those declared.

    It comes where `**options` stands, with its help, panel and default.
    """

    def decorate(verb: Function) -> Function:
        signature = inspect.signature(verb, eval_str=True)
        own = [one for one in signature.parameters.values() if one.kind != one.VAR_KEYWORD]
        more = [_parameter(one) for one in known.values() if one.typed is not None]
        verb.__signature__ = signature.replace(parameters=[*own, *more])  # type: ignore[attr-defined]
        verb.__annotations__ = {one.name: one.annotation for one in [*own, *more]}
        return verb

    return decorate


def _parameter(one: Option) -> inspect.Parameter:
    flags = [one.flag] if one.flag else []
    typed = typer.Option(*flags, help=one.help, rich_help_panel=one.panel)
    default = Path(one.default) if one.typed is Path else one.default
    return inspect.Parameter(
        one.name,
        inspect.Parameter.KEYWORD_ONLY,
        default=default,
        annotation=Annotated[one.typed, typed],
    )


def result(as_json: bool, values: dict[str, Any], text: str) -> None:
    """Print values as JSON, in which NaN is null, or a text."""
    from featcache.core import atomic
    from featcache.core.escapes import all_escaped

    if as_json:
        plain = all_escaped(atomic.plain(values))
        text = json.dumps(plain, ensure_ascii=False, allow_nan=False)
    typer.echo(text)


def print_table(table: Any) -> None:
    from rich.console import Console

    Console(soft_wrap=False).print(table)


def say(message: str) -> None:
    typer.echo(message, err=True)


def by(size: tuple[int, int]) -> str:
    return f"{size[0]} x {size[1]}"


def learnable(features: Features) -> str:
    """Say what is known about the images of a feature file."""
    kind = TASKS[features.task].kind
    if kind is TargetKind.NUMBERS:
        return f"with {', '.join(features.annotations.output_names)}"
    if not features.class_names:
        return "without labels"
    if kind is TargetKind.BOXES:
        named = counted(len(features.class_names), "class", "classes")
        return f"with {counted(int(features.labels.clip(0).sum()), 'box', 'boxes')} of {named}"
    several = "several of " if kind is TargetKind.LABELS else ""
    return f"of {several}{counted(len(features.class_names), 'class', 'classes')}"


def listed(option: str, text: str | None) -> list[str] | None:
    """Return the names in a comma-separated option, None where it was not given."""
    if text is None:
        return None
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise SpecError(f"--{option} names nothing. Name something, or leave it out.")
    return names


def amount(size_bytes: int) -> str:
    """Return a size with a unit that suits it."""
    return f"{size_bytes / 1e6:.1f} MB" if size_bytes >= 1e6 else f"{size_bytes / 1e3:.1f} kB"
