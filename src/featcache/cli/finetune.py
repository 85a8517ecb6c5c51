"""The verb finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Optional

import typer

from featcache.cli.options import (
    RARE,
    Device,
    Json,
    LocalCacheDir,
    Root,
    Runtime,
    Seed,
    Target,
    app,
    result,
)
from featcache.core.text import counted

HOW = "How it trains"


@app.command()
def finetune(
    model: Annotated[Path, typer.Argument(help="A stitched .keras file.")],
    source: Annotated[
        Optional[str], typer.Argument(help="Labelled images. (those of the features)")
    ] = None,
    out: Annotated[
        Optional[Path], typer.Option(help="The new .keras file. (MODEL-finetuned.keras)")
    ] = None,
    unfreeze: Annotated[
        Optional[str],
        typer.Option(help="Backbone layers, counted from the end, or all. (20)"),
    ] = None,
    unfreeze_from: Annotated[
        Optional[str], typer.Option(help="The first layer to unfreeze, by its name, instead.")
    ] = None,
    unfreeze_blocks: Annotated[
        Optional[int],
        typer.Option(help="Blocks, counted from the end, instead: of a vision transformer, say."),
    ] = None,
    stages: Annotated[
        Optional[str], typer.Option(help="One stage after the other instead, as 10,30,all.")
    ] = None,
    learning_rate: Annotated[float, typer.Option(help="Of Adam, at its highest.")] = 1e-5,
    epochs: Annotated[int, typer.Option(help="Of each stage, at most; the best is kept.")] = 10,
    views: Annotated[
        int, typer.Option(help="Cached activations an image; augmented from 2 on.")
    ] = 1,
    end_to_end: Annotated[
        bool, typer.Option("--end-to-end", help="Train on images, augmented anew in each epoch.")
    ] = False,
    cache_dir: LocalCacheDir = Path("cache"),
    as_json: Json = False,
    lr_decay: Annotated[
        float,
        typer.Option(help="Factor of the rate, each block down.", rich_help_panel=HOW),
    ] = 1.0,
    schedule: Annotated[str, typer.Option(help="cosine or constant.", rich_help_panel=HOW)] = (
        "cosine"
    ),
    warmup: Annotated[
        float, typer.Option(help="Share of the steps in which the rate rises.", rich_help_panel=HOW)
    ] = 0.1,
    patience: Annotated[
        int, typer.Option(help="Epochs without a better one; 0 never stops.", rich_help_panel=HOW)
    ] = 3,
    class_weight: Annotated[
        Optional[str], typer.Option(help="balanced.", rich_help_panel=HOW)
    ] = None,
    label_smoothing: Annotated[
        float, typer.Option(help="Share given to the other classes.", rich_help_panel=HOW)
    ] = 0.0,
    dropout: Annotated[
        float, typer.Option(help="Share of the features.", rich_help_panel=HOW)
    ] = 0.0,
    weight_decay: Annotated[float, typer.Option(help="Of Adam.", rich_help_panel=HOW)] = 0.0,
    augment: Annotated[
        Optional[str],
        typer.Option(help="flip,crop,color or some of them. (all)", rich_help_panel=HOW),
    ] = None,
    refit: Annotated[
        bool,
        typer.Option(help="At last also on the validation images.", rich_help_panel=HOW),
    ] = True,
    dtype: Annotated[
        str, typer.Option(help="Of the cache: float32 or float16.", rich_help_panel=RARE)
    ] = "float32",
    max_cache_gb: Annotated[
        Optional[float], typer.Option(help="Most it may take of the disk.", rich_help_panel=RARE)
    ] = None,
    batch_size: Annotated[int, typer.Option(help="Images per step.", rich_help_panel=RARE)] = 32,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be trained, and what it takes.")
    ] = False,
    root: Root = None,
    target: Target = None,
    seed: Seed = 0,
    runtime: Runtime = "auto",
    device: Device = "auto",
) -> None:
    """Train the last layers of a stitched model, from cached activations."""
    from featcache import finetuning

    out = out or model.with_name(f"{model.stem}-finetuned.keras")
    done = finetuning.finetune(
        model,
        source,
        root=root,
        target=target,
        out=out,
        unfreeze=unfreeze,
        unfreeze_from=unfreeze_from,
        unfreeze_blocks=unfreeze_blocks,
        stages=stages,
        learning_rate=learning_rate,
        lr_decay=lr_decay,
        schedule=schedule,
        warmup=warmup,
        epochs=epochs,
        patience=patience or None,
        class_weight=class_weight,
        label_smoothing=label_smoothing,
        dropout=dropout,
        weight_decay=weight_decay,
        views=views,
        augment=augment,
        end_to_end=end_to_end,
        refit=refit,
        dtype=dtype,
        max_cache_gb=max_cache_gb,
        batch_size=batch_size,
        seed=seed,
        cache_dir=cache_dir,
        runtime=runtime,
        device=device,
        dry_run=dry_run,
    )
    if isinstance(done, finetuning.Preview):
        result(as_json, done.to_dict(), "\n".join(map(str, done.stages)))
        return
    result(as_json, {"model": str(done.path)} | done.to_dict(), _told(done))


def _told(done: Any) -> str:
    """Say what came of it."""
    first, last = done.stages[0], done.stages[-1]
    before = f"{done.metric} {first.validation_metric[0]:.3f}, loss {first.validation_loss[0]:.5g}"
    if not done.improved:
        return (
            f"Not improved: no epoch was better on "
            f"{counted(done.n_validation, 'validation image')} than before "
            f"({before}).\n{done.path} is the model as it was."
        )
    best = last.best_epoch
    name = next(iter(done.after))
    layers = "the head"
    if done.unfrozen:
        layers = f"{counted(len(done.unfrozen), 'backbone layer')} and the head"
    again = ""
    if done.refit:
        again = f", then as long on all {done.n_train + done.n_validation}"
    return (
        f"Wrote {done.path}: {layers} trained from {done.boundary} of "
        f"{counted(done.n_train, 'image')}{again}; best epoch "
        f"{', '.join(map(str, done.best_epochs))}.\n"
        f"Validation ({counted(done.n_validation, 'image')}): {before} before; {done.metric} "
        f"{last.validation_metric[best]:.3f}, loss {last.validation_loss[best]:.5g} after"
        f"{', without them' if done.refit else ''}.\n"
        f"Held out ({counted(done.n_test, 'image')}): {name} {done.before[name]:.3f} before, "
        f"{done.after[name]:.3f} after."
    )
