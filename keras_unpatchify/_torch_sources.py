"""What a source of PyTorch weights holds: named arrays of a mapping or a file, and what to fold."""

import importlib
import os
from collections.abc import Iterator, Mapping
from types import ModuleType
from typing import Any

import numpy as np

from keras_unpatchify._arguments import described

# What a weight is called: itself, or with weight normalisation its magnitude and its direction.
SPELLINGS = (
    ("weight",),
    ("weight_g", "weight_v"),
    ("parametrizations.weight.original0", "parametrizations.weight.original1"),
)

# What a state dict has beside a weight that is computed from others, by pruning or a norm.
COMPUTED = ("weight_mask", "weight_u", "parametrizations.weight.original")

Names = dict[str, tuple[str, ...]]


def open_source(source: Any, prefix: str) -> dict[str, Any]:
    """The arrays of a mapping or a file by dotted names; those outside the prefix may be None."""
    if isinstance(source, Mapping):
        return dict(_flatten(source))
    is_path = isinstance(source, (str, os.PathLike))
    suffix = os.path.splitext(source)[1] if is_path else None
    if suffix not in READERS:
        raise ValueError(
            "`source` must be a mapping of names to arrays, a PyTorch module, or the path of a "
            f".safetensors, .pt or .pth file. Received: source={described(source)}"
        )
    package, read = READERS[suffix]
    try:
        return read(importlib.import_module(package), os.fspath(source), prefix)
    except ImportError as error:
        raise ImportError(
            f"The package {package} reads {suffix} files. Received: source={str(source)!r}. "
            f"Install it with `pip install {package}`, or pass a mapping of names to arrays."
        ) from error
    except FileNotFoundError:
        raise
    except Exception as error:  # of a dozen kinds, for a file that is cut short or holds code
        holds = "numbers that NumPy has no dtype for, such as float8"
        if "'float8" not in str(error):
            holds = "other objects and you trust it"
        raise ValueError(
            "`source` must be a complete file that holds only named tensors. "
            f"Received: source={str(source)!r} ({type(error).__name__}). "
            f"Fetch it again. If it holds {holds}, load it yourself, and "
            "pass a mapping of names to arrays."
        ) from error


def _flatten(arrays: Mapping, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, array in arrays.items():
        if isinstance(array, Mapping):
            yield from _flatten(array, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}", array


def _read_safetensors(safetensors: ModuleType, path: str, prefix: str) -> dict[str, Any]:
    with safetensors.safe_open(path, framework="numpy") as file:
        names = list(file.keys())
        return {x: file.get_tensor(x) if x.startswith(prefix) else None for x in names}


def _read_torch(torch: ModuleType, path: str, prefix: str) -> dict[str, Any]:
    return dict(_flatten(torch.load(path, map_location="cpu", weights_only=True)))


READERS = {
    ".safetensors": ("safetensors", _read_safetensors),
    ".pt": ("torch", _read_torch),
    ".pth": ("torch", _read_torch),
}


def as_array(name: str, x: Any) -> np.ndarray:
    """An array or tensor as a NumPy array of the same dtype."""
    lazy = "Uninitialized" in type(x).__name__
    if lazy or getattr(x, "is_meta", False):
        kind = "of a lazy module, which was not called yet" if lazy else "on the meta device"
        raise ValueError(
            f"The tensors of `source` must have values. Received: {name!r} {kind}. "
            "Load a checkpoint into the module first, or pass the checkpoint itself."
        )
    x = x.detach().cpu() if hasattr(x, "detach") else x
    try:
        return np.asarray(x)
    except TypeError:  # a float of PyTorch that NumPy itself lacks; float32 holds all its values
        return np.asarray(x.float()).astype(str(x.dtype).removeprefix("torch."))


def names_of(entries: Mapping[str, Any], paths: tuple[str, ...], use_bias: bool) -> Names:
    """What the weight, one array or two, and the bias are called: the first that is there."""
    path, spelling = _find(entries, paths)
    names = {"weight": tuple(path + name for name in spelling)}
    return {**names, "bias": (f"{path}bias",)} if use_bias else names


def _find(entries: Mapping[str, Any], paths: tuple[str, ...]) -> tuple[str, tuple[str, ...]]:
    for path in paths:
        for spelling in SPELLINGS:
            if any(path + name in entries for name in spelling):
                return path, spelling
    return paths[0], SPELLINGS[0]


def wrong_names(entries: Mapping[str, Any], prefix: str, names: Names) -> Iterator[str]:
    """What is missing, and what there is besides under the prefix."""
    expected = [name for kind in names for name in names[kind]]
    present = [name for name in entries if name.startswith(prefix)]
    yield from (f"{name!r} is missing" for name in expected if name not in entries)
    yield from (f"{name!r} is unexpected" for name in present if name not in expected)
    if any(name.endswith(COMPUTED) for name in present):
        yield (
            "the weight is computed from others: call `prune.remove`, `remove_spectral_norm` or "
            "`parametrize.remove_parametrizations` of `torch.nn.utils` first"
        )


def wrong_magnitude(names: tuple[str, str], arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """A magnitude has one number, `()`, or one for each entry of one axis of the direction."""
    magnitude, direction = arrays[names[0]].shape, arrays[names[1]].shape
    shapes: list[tuple[int, ...]] = [()]
    for axis, size in enumerate(direction):
        shapes.append(tuple(size if i == axis else 1 for i in range(len(direction))))
    if magnitude not in shapes:
        yield (
            f"{names[0]!r} has the shape {magnitude} instead of that of {names[1]!r}, "
            f"{direction}, with 1 for all axes but one"
        )


def folded(magnitude: np.ndarray, direction: np.ndarray, dtype: str) -> np.ndarray:
    """The weight `magnitude * direction / norm(direction)`, from float64 rounded once."""
    sizes = magnitude.shape or (1,) * direction.ndim
    axes = tuple(axis for axis, size in enumerate(sizes) if size == 1)
    direction = direction.astype("float64")
    norm = np.sqrt(np.sum(direction**2, axis=axes, keepdims=True))
    weight = magnitude.astype("float64") * (direction / norm)
    return (_to_odd(weight) if dtype == "bfloat16" else weight).astype(dtype)


def _to_odd(x: np.ndarray) -> np.ndarray:
    """Float32 that rounds to the bfloat16 that is nearest to the float64 `x`.

    Float64 becomes bfloat16 by way of float32, whose rounding may end midway between two
    numbers. Here what is not exact ends in an odd digit, which is never midway.
    """
    near = x.astype("float32")
    other = np.nextafter(near, np.where(x > near, np.inf, -np.inf).astype("float32"))
    return np.where((near == x) | (near.view("uint32") % 2 == 1), near, other)
