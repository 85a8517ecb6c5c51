"""The verb fit-heads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from featcache.cli import detection
from featcache.cli.options import (
    DENSE,
    RARE,
    CacheDir,
    Jobs,
    Json,
    Overwrite,
    Seed,
    app,
    listed,
    print_table,
    result,
    say,
)
from featcache.cli.report import TensorBoard, write_for_tensorboard
from featcache.core.errors import SpecError, one_line
from featcache.core.tasks import ONE_CLASS
from featcache.core.text import counted

if TYPE_CHECKING:
    from featcache.scoring.leaderboard import Leaderboard


@app.command("fit-heads")
def fit_heads(
    features: Annotated[
        Optional[list[Path]],
        typer.Argument(help="Feature files, or their s3:// URLs. (the newest in the cache folder)"),
    ] = None,
    heads: Annotated[
        str,
        typer.Option(
            help="quick, all, or of dummy, centroid, ridge, lda, logreg, linear-svm, knn, dense, "
            "rbf-svm, random-forest; of anomalies patch-knn, gaussian, knn, one-class-svm; "
            "module:factory for your own."
        ),
    ] = "quick",
    task: Annotated[
        Optional[str],
        typer.Option(
            help="anomaly: learn from good images alone. (what the images are labelled for)"
        ),
    ] = None,
    good: Annotated[
        str,
        typer.Option(help="Of anomalies, the class that is good. (the one that is called so)"),
    ] = "",
    false_alarms: Annotated[
        float, typer.Option(help="Of anomalies, the share of good images that may be called one.")
    ] = 0.05,
    unknown: Annotated[
        bool, typer.Option("--unknown", help="Also say unknown, of images of no known class.")
    ] = False,
    keep_known: Annotated[
        float, typer.Option(help="The share of known images not called unknown.")
    ] = 0.95,
    metric: Annotated[
        Optional[str], typer.Option(help="What is optimised. (accuracy, map or rmse)")
    ] = None,
    cv: Annotated[int, typer.Option(help="Folds of the training part.")] = 5,
    repeats: Annotated[int, typer.Option(help="Times to repeat it all, on new folds.")] = 1,
    class_weight: Annotated[
        Optional[str], typer.Option(help="balanced: small classes weigh as much as large ones.")
    ] = None,
    calibrate: Annotated[
        Optional[str],
        typer.Option(help="Probabilities to be relied on: auto, temperature, platt or isotonic."),
    ] = None,
    learning_curve: Annotated[
        bool, typer.Option("--learning-curve", help="Would more labels help?")
    ] = False,
    prefer: Annotated[
        str,
        typer.Option(
            help="level: of heads level with the best, a simple one with probabilities. "
            "Or best, or simple."
        ),
    ] = "level",
    tensorboard: TensorBoard = None,
    seed: Seed = 0,
    jobs: Jobs = -1,
    cache_dir: CacheDir = Path("cache"),
    overwrite: Overwrite = False,
    as_json: Json = False,
    backend: Annotated[
        str, typer.Option(help="Of joblib: loky, dask or ray.", rich_help_panel=RARE)
    ] = "loky",
    scheduler: Annotated[
        Optional[str],
        typer.Option(help="Dask's, as tcp://HOST:8786.", rich_help_panel=RARE),
    ] = None,
    address: Annotated[
        Optional[str], typer.Option(help="Ray's cluster, as HOST:6379.", rich_help_panel=RARE)
    ] = None,
    no_report: Annotated[
        bool, typer.Option("--no-report", help="No report.html.", rich_help_panel=RARE)
    ] = False,
    epochs: Annotated[
        Optional[int], typer.Option(help="Of the head for boxes. (16)", rich_help_panel=RARE)
    ] = None,
    hidden: Annotated[
        Optional[str],
        typer.Option(help="Units of hidden layers, as 256,128.", rich_help_panel=DENSE),
    ] = None,
    dropout: Annotated[
        Optional[float], typer.Option(help="Rate, 0 to 1.", rich_help_panel=DENSE)
    ] = None,
    batch_norm: Annotated[
        bool,
        typer.Option(
            "--batch-norm", help="Batch normalisation in hidden layers.", rich_help_panel=DENSE
        ),
    ] = False,
) -> None:
    """Compare heads on cached features, on the same nested folds; save them and a report."""
    from featcache import store
    from featcache.scoring.leaderboard import REPORT_FILE
    from featcache.selection.fit_heads import fit_heads as compare
    from featcache.store import working_copy

    if not features:
        newest = store.newest_features(working_copy.pulled(cache_dir), task in ONE_CLASS)
        features = [newest]
        say(f"Took the newest feature file: {features[0]}")
    if detection.is_of_boxes(store.Features(features[0]).task):
        given = {"metric": metric, "class-weight": class_weight, "calibrate": calibrate}
        detection.refuse(given | {"tensorboard": tensorboard}, "leave it out")
        detection.fit(features, cache_dir, overwrite, not no_report, as_json, epochs, seed)
        return
    names = listed("heads", heads)
    board = compare(
        features,
        names[0] if names in (["quick"], ["all"]) else names,
        task=task,
        good=good,
        false_alarms=false_alarms,
        unknown=unknown,
        keep_known=keep_known,
        cv=cv,
        repeats=repeats,
        metric=metric,
        prefer=prefer,
        class_weight=class_weight,
        calibrate=calibrate,
        learning_curve=learning_curve,
        seed=seed,
        jobs=jobs,
        backend=backend,
        scheduler=scheduler,
        address=address,
        dense=_dense_options(hidden, dropout, batch_norm),
        cache_dir=cache_dir,
        overwrite=overwrite,
        report=not no_report,
    )
    write_for_tensorboard(board, tensorboard)
    if as_json:
        result(True, board.to_dict() | {"folder": str(board.folder)}, "")
        return
    _say_left_out(board, names)
    for warning in board.warnings:
        say(f"Note: {one_line(warning)}")
    print_table(board)
    typer.echo(_legend(board))
    if board.learning_curve is not None:
        typer.echo(board.learning_curve["verdict"])
    page = board.folder / REPORT_FILE
    typer.echo(f"See {board.folder if no_report or not page.exists() else page}")


def _say_left_out(board: Leaderboard, names: list[str] | None) -> None:
    """Say which heads were left out, why, and how to have them."""
    by_reason: dict[str, list[str]] = {}
    for name, reason in (board.left_out or {}).items():
        by_reason.setdefault(reason, []).append(name)
    for reason, those in by_reason.items():
        say(f"Left out {', '.join(those)}: {reason}.")
    if by_reason and "quick" in (names or ()) and board.task not in ONE_CLASS:
        say(f"To have one: --heads quick,{those[-1]}; all: --heads all.")


def _legend(board: Leaderboard) -> str:
    views = ""
    if (spec := board.best.features.spec) is not None and spec.views > 1:
        views = f", {spec.views} views each"
    n_folds = board.request["cv"] * board.request["repeats"]
    return (
        f"Mean of {n_folds} nested folds of {counted(board.n_train, 'training image')}{views}, "
        f"with its 95 % interval; = is statistically level with the first. "
        f"{counted(board.n_test, 'image is', 'images are')} held out, scored for the first alone."
    )


def _dense_options(
    hidden: str | None, dropout: float | None, batch_norm: bool
) -> dict[str, Any] | None:
    """Return the dense head's parameters, or None where no option was given."""
    options: dict[str, Any] = {}
    if hidden is not None:
        try:
            options["hidden"] = tuple(int(units) for units in hidden.split(",") if units)
        except ValueError:
            raise SpecError(
                f"hidden must be numbers of units, as 256,128; got '{hidden}'."
            ) from None
    if dropout is not None:
        options["dropout"] = dropout
    if batch_norm:
        options["batch_norm"] = True
    return options or None
