"""LoRA adapters (Hu et al. 2021) in the files of ``peft``, added to the weights of their base while these are read.

An adapter may be kept in int8, which ``peft`` does not read: whole numbers stand under a matrix's name, and the
scales of its rows under that name and ``.scales``.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from redraft.errors import CheckpointError
from redraft.files import replacing
from redraft.formats import safetensors
from redraft.formats.gguf.file import open_gguf
from redraft.formats.gguf.header import SUFFIX
from redraft.formats.json_objects import read_object
from redraft.formats.tensors import Part, RawReader, Rows, StoredTensor, matrix_rows
from redraft.kernels.whole_numbers import WholeNumbers

CONFIG_FILE, WEIGHTS_FILE = "adapter_config.json", "adapter_model.safetensors"
# What PEFT puts before the names of the model that it wraps, and behind those of matrices, and of the rows of an
# embedding that are trained alone.
WRAPPED, DOWN, UP, TOKENS = (
    "base_model.model.",
    ".lora_A.weight",
    ".lora_B.weight",
    ".token_adapter.trainable_tokens_delta",
)
_SCALES, _LARGEST = ".scales", 127
# Kinds of LoRA whose sum is another one than scale * up @ down, by the keys that ask for them.
_OTHER_KINDS = (
    "use_dora",
    "use_rslora",
    "fan_in_fan_out",
    "rank_pattern",
    "alpha_pattern",
    "modules_to_save",
    "lora_bias",
)


@dataclass(frozen=True)
class Matrix:
    """A matrix of an adapter, as it is kept."""

    part: Part
    scales: Part | None
    """The scales of its rows [rows]; None where it is no whole numbers."""

    @property
    def parts(self) -> Iterator[Part]:
        """All that it is made of."""
        yield self.part
        if self.scales is not None:
            yield self.scales

    def values(self, raw: RawReader) -> Tensor:
        """Return it, float32."""
        kept = raw(self.part.file, self.part.name).float()
        return kept if self.scales is None else kept * raw(self.scales.file, self.scales.name).float()[:, None]


@dataclass(frozen=True)
class Adapter:
    """An adapter that was found, its matrices by their names in the file without what wraps them."""

    folder: Path
    config: Mapping[str, Any]
    """All that its configuration says."""
    base: str
    """The name that its base is asked for by; empty where it names none."""
    scale: float
    """The factor of every product: alpha by rank."""
    tokens: Mapping[str, tuple[int, ...]]
    """The rows of embeddings that it replaces, by the embedding."""
    matrices: Mapping[str, Matrix]

    def values(self) -> dict[str, Tensor]:
        """Read all matrices by the names that ``peft`` gives them, of those kept in int8 what they stand for."""
        with safetensors.opening([self.folder / WEIGHTS_FILE]) as raw:
            return {WRAPPED + name: matrix.values(raw) for name, matrix in self.matrices.items()}

    def stored_tensors(self, base: Mapping[str, StoredTensor]) -> dict[str, StoredTensor]:
        """Describe the tensors of the base and the adapter together, by published name.

        Raises CheckpointError for an adapter that is no sum, and naming what it has for no tensor of the base, or of
        another shape.
        """
        if other := [key for key in _OTHER_KINDS if self.config.get(key)]:
            raise CheckpointError(
                f"{self.folder / CONFIG_FILE}: {other[0]} is not supported; merge such an adapter: redraft train merge"
            )
        found, used = dict(base), set()
        for name, tensor in base.items():
            module = name.removesuffix(".weight")
            added: _Sum | _Replaced
            if module + DOWN in self.matrices and module + UP in self.matrices:
                down, up = self.matrices[module + DOWN], self.matrices[module + UP]
                shape = (*up.part.shape[:1], *down.part.shape[1:])
                added = _Sum(tensor, name, down, up, self.scale)
                used |= {module + DOWN, module + UP}
            elif module + TOKENS in self.matrices and module in self.tokens:
                rows = self.matrices[module + TOKENS]
                shape = (tensor.shape[0], *rows.part.shape[1:])
                added = _Replaced(tensor, name, rows, self.tokens[module])
                used.add(module + TOKENS)
            else:
                continue
            if shape != tensor.shape:
                raise CheckpointError(
                    f"{self.folder}: what is for {name} has shape {list(shape)}, and {self.base} has "
                    f"{list(tensor.shape)} there"
                )
            found[name] = StoredTensor(self.folder / WEIGHTS_FILE, tensor.shape, tensor.dtype, encoding=added)
        if unknown := sorted(self.matrices.keys() - used):
            raise CheckpointError(f"{self.folder}: tensor {unknown[0]} of the adapter has no place in {self.base}")
        return found


@dataclass(frozen=True)
class _OfBase:
    """A tensor of the base, read wherever it lies."""

    base: StoredTensor
    name: str

    def _base_parts(self) -> Iterator[Part]:
        if self.base.encoding is not None:
            yield from self.base.encoding.parts
        elif self.base.file.suffix != SUFFIX:
            yield Part(self.base.file, self.name, "", self.base.shape)

    def _values(self, raw: RawReader) -> Tensor:
        if self.base.file.suffix == SUFFIX:
            return open_gguf(self.base.file).tensor(self.name)
        return raw(self.base.file, self.name) if self.base.encoding is None else self.base.encoding.values(raw)

    def _rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor:
        found: Tensor | WholeNumbers
        if self.base.file.suffix == SUFFIX:
            found = open_gguf(self.base.file).rows(self.name, number, rows)
        elif self.base.encoding is None:
            found = matrix_rows(raw(self.base.file, self.name), number, rows)
        else:
            found = self.base.encoding.rows(raw, number, rows)
        return found.values() if isinstance(found, WholeNumbers) else found


@dataclass(frozen=True)
class _Sum(_OfBase):
    """A matrix of the base and the product of two thin ones (``formats.tensors.Encoding``)."""

    down: Matrix
    up: Matrix
    scale: float

    @property
    def parts(self) -> Iterator[Part]:
        yield from self._base_parts()
        yield from self.down.parts
        yield from self.up.parts

    def values(self, raw: RawReader) -> Tensor:
        return self._added(raw, self._values(raw), slice(None))

    def rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor:
        return self._added(raw, self._rows(raw, number, rows), rows)

    def _added(self, raw: RawReader, base: Tensor, rows: Rows) -> Tensor:
        product = self.up.values(raw)[rows] @ self.down.values(raw)
        return (base.float() + self.scale * product).to(self.base.dtype)


@dataclass(frozen=True)
class _Replaced(_OfBase):
    """An embedding of the base of which a few rows are other ones (``formats.tensors.Encoding``)."""

    new: Matrix
    tokens: tuple[int, ...]

    @property
    def parts(self) -> Iterator[Part]:
        yield from self._base_parts()
        yield from self.new.parts

    def values(self, raw: RawReader) -> Tensor:
        table = self._values(raw).clone()
        table[list(self.tokens)] = self.new.values(raw).to(table.dtype)
        return table

    def rows(self, raw: RawReader, number: int, rows: Rows) -> Tensor:
        found = self._rows(raw, number, rows).clone()
        at = torch.arange(self.base.shape[-2])[rows]
        for token, row in zip(self.tokens, self.new.values(raw), strict=True):
            found[at == token] = row.to(found.dtype)
        return found


def stands_in(folder: Path) -> bool:
    """Tell whether a folder holds an adapter in the place of weights."""
    weights = (safetensors.WEIGHTS_FILE, safetensors.INDEX_FILE)
    return (folder / CONFIG_FILE).exists() and not any((folder / name).exists() for name in weights)


def find(folder: Path) -> Adapter | None:
    """Return the adapter that a folder holds in the place of weights; None for a folder with weights, or a file.

    Raises CheckpointError for one that names no base or is no LoRA, and for a file that is missing or damaged.
    """
    if not stands_in(folder):
        return None
    found = read(folder)
    if not found.base:
        raise CheckpointError(f"{folder / CONFIG_FILE} does not name its base in base_model_name_or_path")
    return found


def read_config(folder: Path) -> tuple[dict[str, Any], int, float]:
    """Read an adapter's configuration -> all of it, its rank and its alpha.

    Raises CheckpointError for a folder that has none, or one that describes no LoRA.
    """
    path = folder / CONFIG_FILE
    if not path.exists():
        raise CheckpointError(f"{folder} has no {CONFIG_FILE}; give the folder of an adapter")
    config = read_object(path)
    rank, alpha = config.get("r"), config.get("lora_alpha")
    if config.get("peft_type") != "LORA" or not isinstance(rank, int) or rank < 1 or not isinstance(alpha, int | float):
        raise CheckpointError(f"{path} describes no LoRA with a rank r and a lora_alpha")
    return config, rank, float(alpha)


def read(folder: Path) -> Adapter:
    """Read an adapter's configuration and the header of its file; raises as ``find``."""
    config, rank, alpha = read_config(folder)
    base = config.get("base_model_name_or_path")
    kept = {part.name: part for part in safetensors.parts(folder / WEIGHTS_FILE)}
    matrices = {
        name.removeprefix(WRAPPED): Matrix(part, kept.get(name + _SCALES))
        for name, part in kept.items()
        if not name.endswith(_SCALES)
    }
    named = base if isinstance(base, str) else ""
    return Adapter(folder, config, named, alpha / rank, _tokens(config, matrices), matrices)


def write_int8(folder: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write an adapter's matrices, by the names that ``peft`` gives them, in eight bits with a scale a row."""
    kept: dict[str, Tensor] = {}
    for name, matrix in tensors.items():
        scales = matrix.float().abs().amax(1).clamp(min=torch.finfo(torch.float32).tiny) / _LARGEST
        kept[name] = (matrix.float() / scales[:, None]).round().to(torch.int8)
        kept[name + _SCALES] = scales
    with replacing(folder / WEIGHTS_FILE, keep_link=False) as new:
        save_file(kept, new, {"format": "pt"})


def _tokens(config: Mapping[str, Any], matrices: Mapping[str, Matrix]) -> dict[str, tuple[int, ...]]:
    """Return the rows that are replaced by the published names of their embeddings, of which PEFT has the last part."""
    told = config.get("trainable_token_indices") or {}
    if not isinstance(told, dict):
        raise CheckpointError(f"{CONFIG_FILE}: trainable_token_indices {told!r} must name embeddings")
    modules = [name.removesuffix(TOKENS) for name in matrices if name.endswith(TOKENS)]
    return {own: tuple(rows) for own in modules for name, rows in told.items() if own.rsplit(".", 1)[-1] == name}
