"""The verb finetune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from featcache.cli.options import (
    Device,
    Json,
    Seed,
    app,
    result,
)


@app.command()
def finetune(
    model: Annotated[Path, typer.Argument(help="A stitched .keras file.")],
    source: Annotated[
        Optional[str], typer.Argument(help="Labelled images. (those of the features)")
    ] = None,
    unfreeze: Annotated[
        int, typer.Option(help="Backbone layers, counted from the end among those with weights.")
    ] = 20,
    learning_rate: Annotated[float, typer.Option(help="Of Adam.")] = 1e-5,
    epochs: Annotated[int, typer.Option(help="The best by validation loss is kept.")] = 5,
    batch_size: Annotated[int, typer.Option(help="Images a step.")] = 32,
    out: Annotated[
        Optional[Path], typer.Option(help="The new .keras file. (MODEL-finetuned.keras)")
    ] = None,
    seed: Seed = 0,
    device: Device = "auto",
    as_json: Json = False,
) -> None:
    """Train the last layers of a stitched model at a small learning rate."""
    from featcache import finetuning

    out = out or model.with_name(f"{model.stem}-finetuned.keras")
    done = finetuning.finetune(
        model,
        source,
        out=out,
        unfreeze=unfreeze,
        learning_rate=learning_rate,
        epochs=epochs,
        batch_size=batch_size,
        seed=seed,
        device=device,
    )
    outcome = (
        f"best epoch {done.best_epoch} of {epochs}"
        if done.improved
        else "no epoch lowered the validation loss, so the weights are unchanged"
    )
    result(
        as_json,
        {
            "model": str(out),
            "improved": done.improved,
            "best_epoch": done.best_epoch,
            "validation_loss": list(done.validation_loss),
            "accuracy_before": done.accuracy_before,
            "accuracy_after": done.accuracy_after,
            "unfrozen": list(done.unfrozen),
        },
        f"Wrote {out}: {outcome}.\nHeld-out accuracy {done.accuracy_before:.3f} before, "
        f"{done.accuracy_after:.3f} after ({done.n_test} images); {len(done.unfrozen)} backbone "
        f"layers and the head trained on {done.n_train} images.",
    )
