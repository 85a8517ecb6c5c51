"""The house rules that a reader relies on, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "src" / "featcache"
# Data flows down this list, and a module imports only what stands above it.
ORDER = [
    *("errors", "files", "progress", "quiet", "spec", "annotations", "decoding", "examples"),
    *("views", "sources", "images"),
    *("weights_memo", "efficientnet_lite0", "catalogue", "backbones", "runtime"),
    *(
        "splits",
        "metrics",
        "statistics",
        "store",
        "inventory",
        "targets",
        "keeping",
        "networks",
        "computing",
        "assembling",
        "requested",
        "extraction",
        "embedder",
        "heads",
        "leaderboard",
        "projector",
        "report",
        "compare",
        "card",
    ),
    *("stitching", "predict", "evaluation", "exporting", "finetuning", "demo", "cli"),
    "__main__",
]
ONLY_IN = {
    "h5py": {"store"},
    "sklearn": {"splits", "embedder", "heads", "report", "compare", "examples"},
    "openvino": {"runtime", "exporting"},
}


def room(path):
    """The name in ORDER of a file: its module, or its package."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if room(path) != "__init__"]


def imported(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def test_every_file_has_its_place():
    assert {room(path) for path in FILES} == set(ORDER)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    for name in imported(path):
        package, *rest = name.split(".")
        if package == "featcache" and rest[0] != "__version__" and rest[0] != room(path):
            assert ORDER.index(rest[0]) < ORDER.index(room(path)), name
        if package in ONLY_IN:
            assert room(path) in ONLY_IN[package], name


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small_enough_to_read(path):
    assert len(path.read_text(encoding="utf-8").splitlines()) <= 420


@pytest.mark.parametrize(
    "code",
    [
        "import featcache",
        "import featcache.cli",
        "import featcache; featcache.extract; featcache.Features",
        "from featcache import cli; cli.app(['extract', '--help'], standalone_mode=False)",
    ],
)
def test_start_up_does_not_import_tensorflow(code):
    code += "\nimport sys; assert not {'tensorflow', 'keras', 'sklearn'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_public_names_are_functions_whatever_was_imported_before():
    code = (
        "import featcache.extraction, featcache.stitching, featcache.finetuning, featcache as fc\n"
        "assert all(callable(getattr(fc, name)) for name in fc.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
