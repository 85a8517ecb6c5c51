"""Where a comparison comes from: everything that makes it again."""

from __future__ import annotations

import os
import shlex
from datetime import datetime
from typing import Any

from featcache.report.material import Material
from featcache.scoring.leaderboard import BOARD_FILE, Leaderboard, setting


def provenance(material: Material) -> dict[str, Any]:
    """Return everything that makes the comparison again."""
    board = material.board
    request = {key: value for key, value in board.request.items() if key != "features"}
    versions = request.pop("versions", None)
    groups: list[tuple[str, list[tuple[str, str]]]] = []
    heads = request.get("heads")
    if isinstance(heads, dict):
        request["heads"] = list(heads)
    rows = [(key, shown(value)) for key, value in request.items()]
    rows += [("metric", board.metric)] if "metric" not in request else []
    file = board.folder / BOARD_FILE
    if file.is_file():
        made = datetime.fromtimestamp(file.stat().st_mtime).astimezone()
        rows.append(("date", made.isoformat(" ", "seconds")))
    groups.append(("Comparison", rows))
    for one in board.features:
        rows = [("file", "none: plain arrays" if one.path is None else os.fspath(one.path))]
        rows += [("content", one.content), ("features per image", f"{one.n_features:,}")]
        if one.spec is not None:
            rows.append(("fingerprint", one.spec.fingerprint))
            rows += [(f"spec: {key}", shown(value)) for key, value in one.spec.to_dict().items()]
        groups.append((f"Features: {one.name}", rows))
    if material.features is not None:
        said = material.features.provenance
        groups.append(("Extraction", [(key, shown(value)) for key, value in said.items()]))
    if isinstance(heads, dict):
        tried = [
            (name, "; ".join(setting(one) or "no settings" for one in settings or ()) or "its own")
            for name, settings in heads.items()
        ]
        groups.append(("Settings tried", tried))
    if isinstance(versions, dict):
        groups.append(("Versions", [(key, shown(value)) for key, value in versions.items()]))
    return {"command": command(board), "groups": groups}


def command(board: Leaderboard) -> str:
    """Return the command line that compares the same heads again; "" where none can.

    That is so for plain arrays and for estimators of the user's own.
    """
    paths, request = [one.path for one in board.features], board.request
    heads = request.get("heads", {})
    if None in paths or (isinstance(heads, dict) and None in heads.values()):
        return ""
    words = ["featcache", "fit-heads", *(os.fspath(path) for path in paths if path)]
    words += ["--heads", ",".join(heads)] if heads else []
    words += ["--metric", board.metric]
    for key in ("cv", "repeats", "prefer", "class_weight", "calibrate", "seed"):
        if request.get(key) is not None:
            words += [f"--{key.replace('_', '-')}", str(request[key])]
    dense: list[dict[str, Any]] = heads.get("dense") or []
    if len(dense) == 1:  # its own options in place of the grid
        words += ["--hidden", ",".join(map(str, dense[0].get("hidden", ())))]
        words += ["--dropout", str(dense[0]["dropout"])] if "dropout" in dense[0] else []
        words += ["--batch-norm"] if dense[0].get("batch_norm") else []
    if request.get("curve"):
        words.append("--learning-curve")
    return shlex.join(words)


def shown(value: Any) -> str:
    """Return a plain value as text."""
    if isinstance(value, dict):
        return ", ".join(f"{key}: {shown(one)}" for key, one in value.items()) or "none"
    if isinstance(value, (list, tuple)):
        return ", ".join(map(shown, value)) or "none"
    return "none" if value is None else str(value)
