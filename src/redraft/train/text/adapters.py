"""The part of a model that is trained: all layers, the last ones, or LoRA (Hu et al. 2021) by the ``peft`` library.

The embedding and the head stay as they are but for one row, the mask's, which the base never had a use for.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import asdict, dataclass, replace
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Protocol, runtime_checkable

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from redraft.errors import CheckpointError, RedraftError, RoomError
from redraft.files import replacing
from redraft.formats import adapter as adapters
from redraft.formats import source
from redraft.formats.adapter import TOKENS, WRAPPED
from redraft.formats.json_objects import read_object, write_object
from redraft.layers.linear import Linear
from redraft.models import checkpoint, companions
from redraft.models.checkpoint import OWN_FILE, Checkpoint, with_own
from redraft.models.family import PlainModel
from redraft.room import allowed, size_text
from redraft.train.text.batch import Batch
from redraft.train.text.source import digest

MASK_ROW = "mask_row"
_FLOAT = 4


@runtime_checkable
class TreeModel(Protocol):
    """A model of masks that computes token trees (``models.llama_diffusion``)."""

    @property
    def layers(self) -> Sequence[nn.Module]: ...
    @property
    def embed_tokens(self) -> nn.Module: ...
    def trees(
        self, tokens: Tensor, positions: Tensor, masks: Sequence[Tensor], mask_row: Tensor | None = None
    ) -> Tensor: ...


@dataclass(frozen=True)
class Full:
    """All layers and norms; ``embeddings``: the embedding and the head as well."""

    embeddings: bool = False


@dataclass(frozen=True)
class LastLayers:
    """The last ``count`` layers and the norm behind them; the others run without gradients."""

    count: int

    def __post_init__(self) -> None:
        if self.count < 1:
            raise ValueError(f"{self.count} layers to train must be at least 1")


@dataclass(frozen=True)
class Lora:
    """A matrix of ``rank`` beside each linear layer, scaled by ``alpha`` / rank."""

    rank: int = 32
    alpha: float = 64.0
    dropout: float = 0.0
    start: Path | None = None
    """The folder of an adapter whose weights are gone on with; None begins with none."""

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"rank {self.rank} must be at least 1")
        if not 0 < self.alpha < math.inf:
            raise ValueError(f"alpha {self.alpha} must be a finite number above 0")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must be a share below 1")

    @classmethod
    def of(cls, adapter: Path, dropout: float = 0.0) -> "Lora":
        """Return what goes on with an adapter; CheckpointError for a folder that holds none, or one of another kind."""
        _, rank, alpha = adapters.read_config(adapter)
        return cls(rank, alpha, dropout, adapter)


Adaptation = Full | LastLayers | Lora


class TrainedModel:
    """A model under training; ``parameters`` are what is trained, by name."""

    def __init__(self, name: str, base: Checkpoint, model: PlainModel, adaptation: Adaptation) -> None:
        """``base``: what ``model`` was loaded from, asked for by ``name``.

        Raises CheckpointError for a family that cannot be trained so, or an adapter larger than what it adapts.
        """
        if not isinstance(model, TreeModel) or not isinstance(model, nn.Module):
            raise CheckpointError(
                f"{base.path}: a model of architecture {base.architecture} cannot be trained on text yet; "
                "LlamaForBlockDiffusion can"
            )
        smallest = min(min(one.weight.shape) for one in model.modules() if isinstance(one, Linear))
        if isinstance(adaptation, Lora) and adaptation.rank > smallest:
            raise CheckpointError(
                f"{base.path}: rank {adaptation.rank} is more than the {smallest} rows or columns of a matrix of it"
            )
        self.name, self.base, self.model, self.adaptation = name, base, model, adaptation
        self.extract_layout = base.defaults.extract_layout
        """The layout of ``extract`` that what is exported is for."""
        self._trees: TreeModel = model
        self._module: nn.Module = model
        self.mask_token = int(base.config.mask_token_id)  # type: ignore[attr-defined]
        self.mask_row: nn.Parameter | None = None
        self._lora_config: Any = None
        self.beginnings: dict[str, Tensor] = {}
        """The first values of trained numbers, float32, where the model computes with rounded ones."""
        self.parameters = self._choose()
        if not isinstance(adaptation, Lora) and base.stored != next(model.parameters()).dtype:
            self._begin_exactly()

    @property
    def count(self) -> int:
        """Numbers that are trained."""
        return sum(parameter.numel() for parameter in self.parameters.values())

    def hidden(self, batch: Batch) -> Tensor:
        """Return the normed hidden states [R, H]."""
        device = self.model.device
        masks = [mask.to(device) for mask in batch.visible]
        return self._trees.trees(batch.tokens.to(device), batch.positions.to(device), masks, self.mask_row)

    def logits(self, hidden: Tensor) -> Tensor:
        """Return float32 logits [..., V]."""
        return self.model.logits(hidden)

    def train(self, on: bool) -> None:
        """Switch dropout on or off."""
        self._module.train(on)

    @contextmanager
    def holding(self, values: Mapping[str, Tensor]) -> Iterator[None]:
        """Put other values in the place of the trained ones, for as long as this lasts."""
        own = {name: parameter.detach().clone() for name, parameter in self.parameters.items()}
        self._put(values)
        try:
            yield
        finally:
            self._put(own)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, parameter in self.parameters.items():
            parameter.copy_(values[name])

    def export(self, folder: Path, values: Mapping[str, Tensor]) -> Path:
        """Write what was trained, of these float32 ``values``: an adapter's folder, or a whole checkpoint's.

        Returns the folder, which is below ``folder``.
        """
        if isinstance(self.adaptation, Lora):
            return self._export_adapter(folder / "adapter", values)
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        with self.base.weights() as stored:
            # What is not trained is what the base has, whatever dtype it was computed with.
            state = {name: stored(name) for name in self._module.state_dict()}
        for name, parameter in self.parameters.items():
            if name != MASK_ROW:
                state[names[id(parameter)]] = values[name]
        if MASK_ROW in self.parameters:
            table = state["embed_tokens.weight"].clone()
            table[self.mask_token] = values[MASK_ROW].to(table.dtype)
            state["embed_tokens.weight"] = table
        with torch.device("meta"):
            whole = self.base.family.build(self.base.config, {})
        whole.load_state_dict(state, assign=True)
        whole.defaults = replace(self.base.defaults, extract_layout=self.extract_layout)
        _save(self.base, self.name, whole, folder / "checkpoint")
        return folder / "checkpoint"

    def _choose(self) -> dict[str, nn.Parameter]:
        match self.adaptation:
            case Full(embeddings):
                chosen = {
                    name: _own(parameter, parent, leaf)
                    for name, parameter, parent, leaf in _named(self._module)
                    if embeddings or not name.startswith(("embed_tokens.", "lm_head."))
                }
                return chosen if embeddings else chosen | self._own_mask_row()
            case LastLayers(count):
                layers = len(self._trees.layers)
                if count > layers:
                    raise RedraftError(f"the last {count} layers cannot be trained: the model has {layers}")
                names = tuple(f"layers.{i}." for i in range(layers - count, layers))
                return {
                    name: _own(parameter, parent, leaf)
                    for name, parameter, parent, leaf in _named(self._module)
                    if name.startswith((*names, "norm."))
                }
            case Lora() as lora:
                self._lora_config = lora_config(lora, self._trees)
                _tune(self._module, self._lora_config)
                chosen = {
                    name: parameter for name, parameter in self._module.named_parameters() if parameter.requires_grad
                }
                chosen |= self._own_mask_row()
                if lora.start is not None:
                    self._begin_with(lora.start)
                return chosen

    def _own_mask_row(self) -> dict[str, nn.Parameter]:
        """Make the mask's row a parameter that shares the table's memory: what is learned is in the table at once."""
        table: Any = self._trees.embed_tokens
        # Mapped from a file, it must not be written.
        table.weight = nn.Parameter(table.weight.detach().clone(), requires_grad=False)
        self.mask_row = nn.Parameter(table.weight.data[self.mask_token])
        return {MASK_ROW: self.mask_row}

    def _begin_exactly(self) -> None:
        """Begin with the numbers of the base's files, of which the model has rounded ones."""
        embedding = "embed_tokens.weight"
        names = {id(parameter): name for name, parameter in self._module.named_parameters()}
        with self.base.weights() as stored:
            for name, parameter in self.parameters.items():
                own = stored(embedding)[self.mask_token] if name == MASK_ROW else stored(names[id(parameter)])
                self.beginnings[name] = own.float()

    def _begin_with(self, adapter: Path) -> None:
        """Put an adapter's weights in the place of those that adapters begin with."""
        state, rows = _stored_adapter(adapter, self.base, self._module)
        _put_adapter(self._module, state, adapter, self.base)
        self.beginnings = {name.replace(".weight", ".default.weight"): value for name, value in state.items()}
        for row in rows.values():
            assert self.mask_row is not None
            with torch.no_grad():
                self.mask_row.copy_(row[0])
            self.beginnings[MASK_ROW] = row[0].float()

    def _export_adapter(self, folder: Path, values: Mapping[str, Tensor]) -> Path:
        config, stored, embedding = copy(self._lora_config), self.base.family.stored_name, "embed_tokens"
        config.base_model_name_or_path, config.inference_mode = self.name, True
        config.trainable_token_indices = {embedding: [self.mask_token]}
        tensors = {
            WRAPPED + stored(name.replace(".default.", ".")): value.detach().to(self.base.stored).contiguous()
            for name, value in values.items()
            if name != MASK_ROW
        }
        mask_row = values[MASK_ROW].detach().to(self.base.stored)[None].clone()
        tensors[WRAPPED + stored(embedding) + TOKENS] = mask_row
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(folder / adapters.WEIGHTS_FILE) as new:
            save_file(tensors, new, {"format": "pt"})
        # The library writes its file in place.
        with TemporaryDirectory(prefix=".", dir=folder) as aside:
            config.save_pretrained(aside)
            for written in Path(aside).iterdir():
                written.replace(folder / written.name)
        own = {} if self.extract_layout is None else {"extract_layout": self.extract_layout}
        write_object(folder / OWN_FILE, own)
        companions.write_card(
            folder, self.base.path, self.name, "An adapter of `{base}`, made by `redraft train --lora`."
        )
        return folder


def merge(adapter: Path, out: Path, base: str | Path | None = None) -> Path:
    """Add an adapter to its base, which its file names, and write the checkpoint that they are together.

    base: where the base is now. Raises CheckpointError for a folder that holds no adapter of such a model.
    """
    described, *_ = adapters.read_config(adapter)
    found = checkpoint.read(checkpoint.find(base or described.get("base_model_name_or_path") or ""))
    there, needed = allowed("auto"), _FLOAT * sum(prod(tensor.shape) for tensor in found.tensors.values())
    if there is not None and needed > there.free:
        raise RoomError(
            f"merging into {found.path} takes {size_text(needed)} of memory, and {there.limit} has "
            f"{size_text(there.free)} left; to begin all the same, set REDRAFT_MEMORY to none"
        )
    model: Any = found.load("float32")
    config = peft_library().PeftConfig.from_pretrained(str(adapter))
    tokens, config.trainable_token_indices = config.trainable_token_indices, None
    config.inference_mode = True
    state, rows = _stored_adapter(adapter, found, model)
    tuner = _tune(model, config)
    _put_adapter(model, state, adapter, found)
    for module, value in rows.items():
        table = model.get_submodule(module).weight
        table.data = table.data.clone()
        table.data[tokens[module]] = value.to(table.dtype)
    merged = tuner.merge_and_unload()
    own = adapter / OWN_FILE
    merged.defaults = with_own(found.defaults, read_object(own) if own.exists() else {})
    _save(found, str(base or described["base_model_name_or_path"]), merged, out)
    return out


def bundle(adapter: Path, out: Path, weights: str, base: str | Path | None = None) -> Path:
    """Write a checkpoint that holds an adapter in int8, and of its base all but the weights, which are read from
    ``weights`` whenever it is loaded.

    weights: the name of a checkpoint or GGUF file with the same weights as the base. base: where the base is now.
    Raises CheckpointError where the two differ in a weight that the adapter does not replace.
    """
    read = adapters.read(adapter)
    name = str(base or read.base)
    found = checkpoint.read(checkpoint.find(name))
    there = source.stored_tensors(checkpoint.find(weights, bases=True))
    # All that loading it would refuse, before anything is written.
    read.stored_tensors(found.tensors)
    replaced = {f"{module}.weight": list(rows) for module, rows in read.tokens.items()}
    with found.stored_weights() as own, source.reading(there) as other:
        for tensor in found.tensors:
            if tensor not in there or there[tensor].shape != found.tensors[tensor].shape:
                raise CheckpointError(f"{weights} has no tensor {tensor} of the shape that {name} has")
            here, same = own(tensor), other(tensor).to(found.tensors[tensor].dtype)
            if tensor in replaced:
                here = here.clone()
                here[replaced[tensor]] = same[replaced[tensor]]
            if not torch.equal(here, same):
                raise CheckpointError(
                    f"tensor {tensor} of {weights} is not that of {name}, which the adapter was made for"
                )
    out.mkdir(parents=True, exist_ok=True)
    adapters.write_int8(out, read.values())
    write_object(out / adapters.CONFIG_FILE, {**read.config, "base_model_name_or_path": weights})
    companions.copy(found.path, out, (source.CONFIG_FILE, source.GENERATION_FILE))
    said: dict[str, Any] = {}
    for folder in (found.path, adapter):
        said |= read_object(folder / OWN_FILE) if (folder / OWN_FILE).exists() else {}
    write_object(out / OWN_FILE, said)
    companions.write_card(
        out, found.path, weights, "An adapter of `{base}`, which it needs to load, made by `redraft train`."
    )
    companions.write_tokenizer(found.path, out)
    companions.write_terms(found.path, out)
    return out


def lora_config(lora: Lora, model: TreeModel) -> Any:
    """Return PEFT's own configuration for all linear layers of a model that has no adapter yet."""
    linear = {
        name.rsplit(".", 1)[-1]
        for layer in model.layers
        for name, module in layer.named_modules()
        if isinstance(module, Linear)
    }
    return peft_library().LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=sorted(linear),
        bias="none",
        task_type="CAUSAL_LM",
    )


def peft_library() -> Any:
    """Import PEFT, which takes seconds; RedraftError where it is not installed."""
    try:
        import peft
    except ImportError as error:
        raise RedraftError("LoRA needs peft; install it with: pip install 'redraft[train]'") from error
    return peft


def described(adaptation: Adaptation) -> dict[str, object]:
    """Return an adaptation for a run's description."""
    found = {"adaptation": type(adaptation).__name__, **asdict(adaptation)}
    if isinstance(adaptation, Lora) and adaptation.start is not None:
        # The same folder may come to hold another adapter.
        return found | {"start": digest(adaptation.start / adapters.WEIGHTS_FILE)}
    return {name: value for name, value in found.items() if name != "start"}


def _tune(model: Any, config: Any) -> Any:
    peft_library()
    from peft.tuners.lora import LoraModel

    return LoraModel(model, config, "default")


def _stored_adapter(adapter: Path, found: Checkpoint, model: Any) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return an adapter's matrices by PEFT's names, and the rows [n, H] of embeddings by the embedding's."""
    state = _unwrapped(adapters.read(adapter).values(), found, model)
    rows = {name.removesuffix(TOKENS): value for name, value in state.items() if name.endswith(TOKENS)}
    return {name: value for name, value in state.items() if not name.endswith(TOKENS)}, rows


def _put_adapter(model: Any, state: Mapping[str, Tensor], adapter: Path, found: Checkpoint) -> None:
    """Put matrices into a model that has an adapter; CheckpointError for those that do not fit it."""
    try:
        loaded = peft_library().set_peft_model_state_dict(model, dict(state))
    except RuntimeError as error:
        raise CheckpointError(f"{adapter} does not fit {found.path}: {' '.join(str(error).split())}") from error
    if loaded.unexpected_keys:
        raise CheckpointError(f"{adapter}: tensor {loaded.unexpected_keys[0]} has no place in {found.path}")
    missing = sorted(key for key in loaded.missing_keys if ".lora_" in key)
    if missing:
        raise CheckpointError(f"{adapter} lacks {missing[0]}, which an adapter of {found.path} has")


def _unwrapped(tensors: Mapping[str, Tensor], found: Checkpoint, model: Any) -> dict[str, Tensor]:
    """Return an adapter's tensors by the names of our modules."""
    modules = {found.family.stored_name(name): name for name, _ in model.named_modules() if name}
    state = {}
    for name, value in tensors.items():
        stored = name.removeprefix(WRAPPED)
        module = max((m for m in modules if stored.startswith(f"{m}.")), key=len, default=None)
        if module is None:
            raise CheckpointError(f"tensor {name} of the adapter has no place in {found.path}")
        state[modules[module] + stored.removeprefix(module)] = value
    return state


def _save(base: Checkpoint, name: str, model: PlainModel, folder: Path) -> None:
    """Write a checkpoint in the base's dtype, with its tokenizer, its terms and a card."""
    checkpoint.save(model, folder, base.stored)
    companions.write_card(folder, base.path, name, "Made of `{base}` by `redraft train`.")
    companions.write_tokenizer(base.path, folder)
    companions.write_terms(base.path, folder)


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Parameter, nn.Module, str]]:
    """Yield every parameter with the module that holds it, and its name there."""
    for name, parameter in list(model.named_parameters()):
        parent, _, leaf = name.rpartition(".")
        yield name, parameter, model.get_submodule(parent), leaf


def _own(parameter: nn.Parameter, parent: nn.Module, leaf: str) -> nn.Parameter:
    """Put a copy that may be written in the place of a parameter that may be mapped from a file."""
    own = nn.Parameter(parameter.detach().clone())
    setattr(parent, leaf, own)
    return own
