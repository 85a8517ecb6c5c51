"""The verb info: what a feature file or a model is, or which files lie in a cache folder.

Never TensorFlow, but for a model whose card does not say its size.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from featcache.cli.options import Json, amount, app, by, learnable, print_table, result, say
from featcache.core.checks import range_text
from featcache.core.errors import one_line
from featcache.core.text import counted, few

SHOWN = 10  # classes of a model


@app.command()
def info(
    path: Annotated[
        Path,
        typer.Argument(
            help="A feature file, a model, or a cache folder: every feature file in it. Or an "
            "s3:// URL of one."
        ),
    ] = Path("cache"),
    as_json: Json = False,
) -> None:
    """Say what a feature file holds or a model is, or list the files of a cache folder."""
    from featcache import store
    from featcache.core.errors import StoreError
    from featcache.store import working_copy

    if path.suffix == ".keras":
        about = _model(path)
        if as_json:
            result(True, about, "")
        else:
            print_table(_model_table(about))
        return
    path = working_copy.pulled(path)
    if not path.is_dir():
        described = _described(store.Features(path))
        if as_json:
            result(True, described, "")
        else:
            print_table(_file_table(described))
        return
    files, damaged = [], []
    for file in sorted(path.glob("*/*.h5")):
        try:
            files.append(_described(store.Features(file)))
        except StoreError as error:
            damaged.append({"path": str(file), "error": one_line(str(error))})
    if not files and not damaged:
        raise StoreError(f"There is no feature file in '{path}'. Run `featcache extract` first.")
    if as_json:
        result(True, {"files": files, "damaged": damaged}, "")
        return
    print_table(_folder_table(files))
    for one in damaged:
        say(one["error"])


def _model(path: Path) -> dict[str, Any]:
    from featcache.models import card

    about = card.read(path)
    values = about.to_dict() | {"model": str(path), "size_bytes": path.stat().st_size}
    if about.size is None:  # stitched before cards said it
        from dataclasses import asdict

        from featcache.models import load, stitching

        values["size"] = asdict(stitching.size_of(load.load_keras(path, about)))
    return values


def _model_table(about: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    spec, size, table = about["spec"], about["size"], Table("field", "value", show_header=False)
    names, tuned, made = about["class_names"], about["finetuned"], about["provenance"] or {}
    scores = (about["test"] or {}).items()
    rows = {
        "model": about["model"],
        "size": amount(about["size_bytes"]),
        "input": f"RGB images of {by(spec['image_size'])}, 0 to 255",
        "resized": _resized(spec),
        "outputs": f"{about['output']} of {len(names)}: {few(names, SHOWN)}",
        "backbone": f"{spec['backbone']}, weights {spec['weights'][:8]}…, "
        f"{size['backbone_layers']:,} layers, {size['backbone_parameters']:,} parameters",
        "features": f"{spec['layer'] or 'the output'}, pooling {spec['pooling']}",
        "head": f"{about['head']}, {size['head_parameters']:,} parameters",
        "calibration": (about["calibration"] or {}).get("kind", ""),
        "unknown": _unknown(about.get("open_set")),
        "distilled from": (about["distilled"] or {}).get("teacher", ""),
        "fine-tuned": ""
        if tuned is None
        else f"{counted(len(tuned['changed']), 'backbone layer')}",
        "learnt from": about["source"],
        "held out": ", ".join(f"{name} {one:.3f}" for name, one in scores if one is not None),
        "made with": ", ".join(
            f"{name} {made[name]}"
            for name in ("created", "featcache", "keras", "tensorflow")
            if name in made
        ),
    }
    for name, value in rows.items():
        if value:
            table.add_row(name, Text(str(value)))
    return table


def _unknown(known: dict[str, Any] | None) -> str:
    if known is None:
        return ""
    from featcache.heads.anomaly import Threshold
    from featcache.heads.open_set import kept

    return (
        f"{known['score']} above {known['threshold']['value']:.4g}, AUROC {known['auroc']:.3f}; "
        f"{kept(Threshold(**known['threshold']))}"
    )


def _described(features: Any) -> dict[str, Any]:
    from featcache.store import parted

    names, about = features.class_names, features.annotations
    labels = features.labels if about.boxes is None else about.boxes.classes
    hot = labels.ndim == 2  # several labels per image
    counts = labels.clip(0).sum(0).tolist() if hot else Counter(labels.tolist())
    return {
        "path": str(features.path),
        "n_images": len(features),
        "n_features": int(np.prod(features.shape[1:])),
        "shape": list(features.shape),
        "n_views": features.spec.views,
        "dtype": str(features.dtype),
        "size_bytes": parted.bytes_of(features.path),
        "parts": len(parted.names_of(features.path)),
        "task": features.task,
        "known": learnable(features),
        "classes": {name: counts[label] for label, name in enumerate(names)},
        "targets": list(about.target_names),
        "boxes": None if about.boxes is None else len(about.boxes.classes),
        "unlabelled": int((~about.is_known).sum()),
        "groups": len(set(features.groups) - {""}) if features.groups else 0,
        "splits": dict(Counter(features.splits)) if features.splits else {},
        "failures": [{"id": one.id, "reason": one.reason} for one in features.failures],
        "fingerprint": features.fingerprint,
        "spec": features.spec.to_dict(),
        "provenance": features.provenance,
    }


def _file_table(described: dict[str, Any]) -> Any:
    from rich.table import Table
    from rich.text import Text

    spec, table = described["spec"], Table("field", "value", show_header=False)
    rows = {
        "file": described["path"],
        "images": described["n_images"],
        "features": f"{' x '.join(map(str, described['shape'][1:]))} {described['dtype']}",
        "views": _views(described["spec"]),
        "size": amount(described["size_bytes"]),
        "parts": described["parts"] or "",
        "task": described["task"],
        "classes": _counts(described["classes"]) or "no labels",
        "boxes": described["boxes"] or "",
        "targets": ", ".join(described["targets"]),
        "unlabelled": described["unlabelled"] or "",
        "splits": _counts(described["splits"]) or "none given",
        "groups": described["groups"] or "",
        "failures": len(described["failures"]),
        "fingerprint": described["fingerprint"],
        "backbone": f"{spec['backbone']}, weights {spec['weights'][:8]}…",
        "layer": f"{spec['layer'] or 'the output'}, pooling {spec['pooling']}",
        "images were": f"{by(spec['image_size'])}, {_resized(spec)}, {spec['preprocessing']}",
        "decoded": _decoded(spec),
        "precision": spec["precision"],
        "background": spec.get("background", ""),
        "black and white": range_text(spec.get("value_range") or ()),
        **described["provenance"] | {"source_options": ""},
        **described["provenance"]["source_options"],
    }
    for name, value in rows.items():
        if value not in ("", None):
            table.add_row(name.replace("_", " "), Text(str(value)))
    for one in described["failures"][:10]:
        table.add_row("failed", Text(one_line(f"{one['id']}: {one['reason']}")))
    return table


def _resized(spec: dict[str, Any]) -> str:
    """Say how images got their size, and what of them was taken where that was not all."""
    crop = spec.get("crop")
    return f"{spec['resize']}, crop {crop}" if crop else str(spec["resize"])


def _decoded(spec: dict[str, Any]) -> str:
    """Say how images were decoded, where that was not as Pillow does."""
    ways = {
        "JPEGs fast": spec.get("decoder") == "fast",
        "JPEGs by a GPU": spec.get("decoder") == "gpu",
        "large JPEGs at 1/2, 1/4 or 1/8": spec.get("decode_scale"),
    }
    return ", ".join(name for name, is_so in ways.items() if is_so)


def _views(spec: dict[str, Any]) -> str:
    """Say which views there are, where there are any but the clean one."""
    if spec["views"] == 1:
        return ""
    return f"{spec['views']}: the clean image, {spec['views'] - 1} by {', '.join(spec['augment'])}"


def _folder_table(files: list[dict[str, Any]]) -> Any:
    from rich.table import Table
    from rich.text import Text

    table = Table("file", "images", "features", "known", "failed", "size")
    for one in files:
        table.add_row(
            Text(one["path"], overflow="fold"),
            str(one["n_images"]),
            " x ".join(map(str, one["shape"][1:])),
            one["known"],
            str(len(one["failures"])),
            amount(one["size_bytes"]),
        )
    return table


def _counts(counts: dict[str, int]) -> str:
    return ", ".join(f"{name} {count}" for name, count in counts.items())
