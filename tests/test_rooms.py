"""The rooms of the package, read from its source: what is public, and who imports whom."""

import ast
import inspect
import pathlib
import sys

import pytest

import keras_unpatchify
from keras_unpatchify import ops

PACKAGE = pathlib.Path(keras_unpatchify.__file__).parent
ROOMS = {path.stem: ast.parse(path.read_text()) for path in PACKAGE.glob("*.py")}

# From the bottom up: a room imports from those before it only.
ORDER = (
    "_sizes",
    "_arguments",
    "_kernels",
    "initializers",
    "_tensors",
    "_blocks",
    "_lowerings",
    "_auto",
    "_compute",
    "ops",
    "_patch_layer",
    "_from_keras",
    "_patchify",
    "_unpatchify",
    "_torch_layouts",
    "_torch_modules",
    "_torch_sources",
    "_torch_weights",
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


def public(module):
    return {name for name in dir(module) if not name.startswith("_")}


def test_public_names():
    names = ["Patchify", "Unpatchify", "load_torch_weights", "to_torch_weights"]
    modules = ["initializers", "ops"]
    assert public(keras_unpatchify) == {*names, *modules}
    assert set(keras_unpatchify.__all__) == {*names, *modules, "__version__"}
    for name in (*names, *modules):
        assert inspect.getdoc(getattr(keras_unpatchify, name))


def test_public_names_of_the_functions():
    assert set(ops.__all__) <= public(ops)
    for name in ops.__all__:
        assert inspect.getdoc(getattr(ops, name))


def test_every_room_has_its_place():
    assert set(ORDER) == set(ROOMS)
    assert all(ast.get_docstring(tree) for tree in ROOMS.values())


@pytest.mark.parametrize("room", ORDER)
def test_imports_run_one_way(room):
    assert rooms_in(ROOMS[room]) <= set(ORDER[: ORDER.index(room)])


@pytest.mark.parametrize("room", ORDER[:2])
def test_sizes_and_arguments_know_the_standard_library_only(room):
    outside = {name.split(".")[0] for name in imports(ROOMS[room])} - sys.stdlib_module_names
    assert outside <= {"keras_unpatchify"}


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
    assert asking == {"_tensors", "_auto"}


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
                assert node.name in used | {*keras_unpatchify.__all__, *ops.__all__}, (
                    f"{room}.{node.name}"
                )
