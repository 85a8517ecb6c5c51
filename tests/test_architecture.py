"""The house rules that a reader relies on, read from the imports themselves."""

from __future__ import annotations

import ast
import subprocess
import sys

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "src" / "featcache"
# Rooms by floor, from the ground up: a file imports from its own room and from floors below.
FLOORS = [
    ["core"],
    ["data", "networks", "heads"],
    ["store", "scoring"],
    ["extraction", "models", "report"],
    ["selection", "inference"],
    ["finetuning", "detection"],
    ["cli"],
    ["__main__"],
]
FLOOR = {room: number for number, rooms in enumerate(FLOORS) for room in rooms}
ONLY_IN = {  # libraries that only some rooms, or some files of a room, know
    "h5py": ["store/"],
    "sklearn": [
        "data/splits.py",
        "data/examples.py",
        "heads/",
        "extraction/embedder.py",
        "selection/",
        "report/",
    ],
    "openvino": ["networks/engines/", "models/export/"],
}


def room(path):
    """The name in FLOORS of a file: its folder, or its module."""
    return path.relative_to(PACKAGE).parts[0].removesuffix(".py")


def module(path):
    """The dotted name of a file."""
    name = ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts)
    return name.removesuffix(".__init__")


FILES = [path for path in sorted(PACKAGE.rglob("*.py")) if path != PACKAGE / "__init__.py"]
MODULES = {module(path): path for path in FILES}


def imported(path):
    """Names that a file imports, in functions and under TYPE_CHECKING too."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{path}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def modules_imported(path):
    """The files of this package that a file imports."""
    for name in imported(path):
        parts = name.split(".")
        for end in (len(parts), len(parts) - 1):
            found = MODULES.get(".".join(parts[:end]))
            if found is not None and found != path:
                yield found
                break


def test_every_file_has_its_room():
    assert {room(path) for path in FILES} == set(FLOOR)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_imports_go_one_way(path):
    mine = room(path)
    for name in imported(path):
        package, *rest = name.split(".")
        if package == "featcache" and rest[0] not in ("__version__", mine):
            assert FLOOR[rest[0]] < FLOOR[mine], name
        if package in ONLY_IN:
            where = path.relative_to(PACKAGE).as_posix()
            assert any(where.startswith(place) for place in ONLY_IN[package]), name


def test_no_files_import_each_other():
    arrows = {path: set(modules_imported(path)) for path in FILES}
    while arrows:
        ground = [path for path, below in arrows.items() if not below & set(arrows)]
        assert ground, f"in circles: {sorted(module(path) for path in arrows)}"
        for path in ground:
            del arrows[path]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_files_stay_small_enough_to_read(path):
    n_lines = len(path.read_text(encoding="utf-8").splitlines())
    assert n_lines <= (50 if path.name == "__init__.py" else 300)


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "__init__.py"], ids=module)
def test_the_door_of_a_room_holds_no_logic(path):
    body = ast.parse(path.read_text(encoding="utf-8")).body
    kinds = (ast.ImportFrom, ast.Expr, ast.Assign)
    assert all(isinstance(node, kinds) for node in body)
    assert [node.targets[0].id for node in body if isinstance(node, ast.Assign)] in (
        [],
        ["__all__"],
    )


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
        "import featcache.extraction, featcache.models.stitching, featcache.finetuning\n"
        "import featcache as fc\n"
        "assert all(callable(getattr(fc, name)) for name in fc.__all__)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
