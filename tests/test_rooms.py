"""The rooms of the package, read from its source: what is public, and who imports whom."""

import ast
import inspect
import pathlib
import sys

import pytest

import keras_unpatchify

PACKAGE = pathlib.Path(keras_unpatchify.__file__).parent
ROOMS = {path.stem: ast.parse(path.read_text()) for path in PACKAGE.glob("*.py")}

# From the bottom up: a room imports from those before it only.
ORDER = (
    "geometry",
    "tensors",
    "blocks",
    "lowerings",
    "ops",
    "initializers",
    "patch_layer",
    "from_keras",
    "patchify",
    "unpatchify",
    "torch_layouts",
    "torch_modules",
    "torch_sources",
    "torch_weights",
    "__init__",
)


def imports(tree):
    """The dotted names that a module imports, inside of functions too."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        if isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def rooms_in(tree):
    own = (name.split(".") for name in imports(tree) if name.startswith("keras_unpatchify."))
    return {parts[1] for parts in own}


def test_public_names():
    names = ["Patchify", "Unpatchify", "load_torch_weights", "to_torch_weights"]
    modules = ["initializers", "ops"]
    assert set(keras_unpatchify.__all__) == {*names, *modules, "__version__"}
    for name in (*names, *modules):
        assert inspect.getdoc(getattr(keras_unpatchify, name))


def test_every_room_has_its_place():
    assert set(ORDER) == set(ROOMS)
    assert all(ast.get_docstring(tree) for tree in ROOMS.values())


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_one_way(room):
    assert rooms_in(ROOMS[room]) <= set(ORDER[: ORDER.index(room)])


def test_geometry_knows_the_standard_library_only():
    assert {name.split(".")[0] for name in imports(ROOMS["geometry"])} <= sys.stdlib_module_names


@pytest.mark.parametrize("room", ORDER)
def test_nothing_imports_the_inside_of_keras_or_a_backend(room):
    outside = {name.split(".")[0] for name in imports(ROOMS[room])} - sys.stdlib_module_names
    assert outside <= {"keras", "keras_unpatchify", "numpy"}
    assert not any(name.startswith("keras.src") for name in imports(ROOMS[room]))


def test_two_rooms_ask_for_the_backend():
    """What differs for a tensor, and the rule of "auto"."""
    asking = {
        room for room, tree in ROOMS.items() if "backend.backend()" in ast.unparse(tree)
    }  # but for docstrings
    assert asking == {"tensors", "ops"}


def test_every_name_is_used():
    """Functions and classes that nothing in the package names are dead, but for public ones."""
    used = {
        getattr(node, "id", getattr(node, "attr", None))
        for tree in ROOMS.values()
        for node in ast.walk(tree)
        if isinstance(getattr(node, "ctx", None), ast.Load)
    }
    for room, tree in ROOMS.items():
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                assert node.name in used | set(keras_unpatchify.__all__), f"{room}.{node.name}"
