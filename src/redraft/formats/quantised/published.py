"""The tensors of a folder of safetensors under published names, whatever they are stored as."""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from redraft.errors import CheckpointError
from redraft.formats import safetensors
from redraft.formats.json_objects import read_object
from redraft.formats.quantised import compressed_tensors, mlx, modelopt
from redraft.formats.quantised.matrices import Matrix, Plain, Quantised, check_told_shape
from redraft.formats.quantised.stacks import stacked
from redraft.formats.tensors import Part, StoredTensor

CONFIG_FILE = "config.json"


@dataclass(frozen=True)
class Method:
    """A way to write quantised copies that is read."""

    describe: Callable[[Mapping[str, Part], Mapping[str, Any]], Mapping[str, Quantised]]
    """The quantised matrices among parts, by the names of their dense weights, from the method's configuration."""
    belongs: Callable[[str], bool]
    """Tells whether a part is no tensor of the model by itself."""


METHODS = {
    compressed_tensors.METHOD: Method(compressed_tensors.describe, compressed_tensors.belongs),
    modelopt.METHOD: Method(modelopt.describe, modelopt.belongs),
    mlx.METHOD: Method(mlx.describe, mlx.belongs),
}
"""Readers by what ``quant_method`` names; MLX, which names nothing, is known by its keys."""


@dataclass(frozen=True)
class Quantisation:
    """The description that a copy has of how it was quantised."""

    method: str
    config: Mapping[str, Any]


def read_quantisation(folder: Path) -> Quantisation | None:
    """Return what a folder's ``config.json``, or the file that modelopt writes beside it, says; None for nothing."""
    config = read_object(folder / CONFIG_FILE) if (folder / CONFIG_FILE).exists() else {}
    beside = folder / modelopt.CONFIG_FILE
    return quantisation(config, read_object(beside) if beside.exists() else {})


def quantisation(config: Mapping[str, Any], beside: Mapping[str, Any]) -> Quantisation | None:
    """Return what a ``config.json`` and modelopt's own file say of quantisation; None where they say nothing."""
    text = config.get("text_config")
    # Models of several parts may say it of their text model; MLX says it by another name, too.
    for own in (config, text if isinstance(text, Mapping) else {}):
        for key in ("quantization_config", "quantization"):
            found = own.get(key)
            if isinstance(found, Mapping):
                return Quantisation(_method(found), found)
    nested = beside.get("quantization")
    if isinstance(nested, Mapping) and nested.get("quant_algo"):
        return Quantisation(modelopt.METHOD, nested)
    return None


def without_quantisation(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a ``config.json`` as the model was published with: without what a method that is read says of itself."""
    found = quantisation(config, {})
    if found is None or found.method not in METHODS:
        return dict(config)
    text = config.get("text_config")
    plain = {key: value for key, value in config.items() if key not in ("quantization_config", "quantization")}
    return plain if not isinstance(text, Mapping) else {**plain, "text_config": without_quantisation(text)}


def stored_tensors(folder: Path) -> dict[str, StoredTensor]:
    """Describe all tensors of a folder by published name, from headers and configuration alone.

    Raises CheckpointError naming the file, tensor or key of the configuration that is missing, damaged or not read.
    """
    found, parts = read_quantisation(folder), safetensors.described(folder)
    method = None if found is None else METHODS.get(found.method)
    if found is None or method is None:
        quantised, plain = {}, parts
    else:
        quantised = dict(method.describe(parts, found.config))
        own = {part.name for matrix in quantised.values() for part in matrix.parts}
        plain = {name: part for name, part in parts.items() if name not in own and not method.belongs(name)}
        _check_told(quantised.values())
    matrices: dict[str, Matrix] = {name: _plain(part, found) for name, part in plain.items()}
    return {name: _stored(name, matrix) for name, matrix in stacked({**matrices, **quantised}).items()}


def _stored(name: str, matrix: Matrix) -> StoredTensor:
    file = next(iter(matrix.parts)).file
    own = isinstance(matrix, Plain) and matrix.part.name == name
    return StoredTensor(file, matrix.shape, matrix.dtype, matrix.label, matrix.grid, None if own else matrix)


def _plain(part: Part, found: Quantisation | None) -> Plain:
    if part.dtype not in safetensors.DTYPES:
        why = "no quantization_config says what for" if found is None else f"that is no part that {found.method} writes"
        raise CheckpointError(
            f"{part} is stored as {part.dtype}, and {why}; supported are {', '.join(safetensors.DTYPES)}"
        )
    return Plain(part)


def _check_told(matrices: Iterable[Quantised]) -> None:
    """Raise CheckpointError where a file says another shape than its tensors have."""
    told = [(matrix.told_shape, matrix.shape) for matrix in matrices if matrix.told_shape is not None]
    with safetensors.opening({part.file for part, _ in told}) as raw:
        for part, shape in told:
            said = raw(part.file, part.name)
            # Where only headers are there, all else are zeros.
            if said.any():
                check_told_shape(part, said, shape)


def _method(config: Mapping[str, Any]) -> str:
    named = config.get("quant_method")
    if named:
        return str(named)
    if isinstance(config.get("quantization"), Mapping) or "quant_algo" in config:
        return modelopt.METHOD
    return mlx.METHOD if "group_size" in config else "an unnamed method"
