"""The contract of a family: all that it has to say of itself, so that everything else can do without its name."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, Self, TypeVar

from redraft.canvas.corruption import Corruption
from redraft.errors import CheckpointError
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models.base import BlockDiffusionConfig, BlockDiffusionModel, GenerationDefaults, GenerationMode
from redraft.models.packed import PackedModel
from redraft.models.recipes import MatrixRecipe
from redraft.models.sampling import SamplingDefaults

TIED_COPY = "tied copy"
"""The part of an unused tensor that the model has under another name."""


class FamilyConfig(BlockDiffusionConfig, Protocol):
    """A family's configuration; the chat syntax is part of it."""

    @property
    def special_token_ids(self) -> tuple[int, ...]:
        """Ids that are no text: of the beginning, the end, padding, a mask, images."""
        ...

    def to_json(self) -> dict[str, Any]:
        """Return a ``config.json``, with its ``architectures``, that the family reads back to this configuration."""
        ...


class PlainModel(BlockDiffusionModel, Protocol):
    """A family's model in plain torch: an ``nn.Module`` that keeps the contract."""

    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any: ...
    def eval(self) -> Self: ...
    def requires_grad_(self, requires_grad: bool = True) -> Self: ...
    def to(self, device: str) -> Self: ...


@dataclass(frozen=True)
class TensorRole:
    """One tensor's part in a model, for counting."""

    part: str
    """The name that memory is listed under."""
    active: float = 1.0
    """The share of it that computes one token."""


Config = TypeVar("Config", bound=FamilyConfig)
Model = TypeVar("Model", bound=PlainModel)


class Family(Protocol[Config, Model]):
    """Models of one kind. A stored name is a tensor's name in files, any other that of the plain model's module."""

    @property
    def transformers_package(self) -> str | None:
        """The folder in ``transformers.models`` whose ``generate`` a speed can be compared with; None without one."""
        ...

    @property
    def modes(self) -> tuple[GenerationMode, ...]:
        """The ways in which its models can write, their default first."""
        ...

    def read_config(self, raw: Mapping[str, Any]) -> Config:
        """Read ``config.json``; raises CheckpointError naming a field that is missing or not implemented."""
        ...

    def read_defaults(self, generation: Mapping[str, Any], config: Config) -> GenerationDefaults:
        """Read ``generation_config.json``, which may be empty. Raises ValueError or TypeError naming the field."""
        ...

    def defaults_to_json(self, defaults: GenerationDefaults, config: Config) -> dict[str, Any]:
        """Return a ``generation_config.json`` that ``read_defaults`` reads back."""
        ...

    def stored_name(self, name: str) -> str:
        """Return what files call the parameter or buffer ``name``."""
        ...

    def unused_part(self, stored_name: str) -> str | None:
        """Return what a tensor that the model does not load belongs to; None where it belongs to nothing known."""
        ...

    def build(self, config: Config, options: Mapping[str, object]) -> Model:
        """Make the plain model, without its weights' values where the default device is "meta".

        Raises CheckpointError for an option that the family does not have.
        """
        ...

    def matrices(self, config: Config, format: Format) -> list[MatrixRecipe]:
        """Return how each of the model's matrices is packed for the kernels, by names of the family's own."""
        ...

    def beside(self, name: str) -> bool:
        """Tell whether a packed model needs the parameter or buffer ``name`` itself, beside its matrices."""
        ...

    def packed(self, model: Model, made: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
        """Make a model of what ``matrices`` says and of the weights ``beside`` it; ``model`` may have no others."""
        ...

    def corruption(self, config: Config) -> Corruption | None:
        """Return the kind of noise that the family was trained to undo; None for one without a canvas."""
        ...

    def describe(self, config: Config) -> dict[str, object]:
        """Return what a reader wants to know of the shape, by name: layers, heads, windows, experts."""
        ...

    def role(self, stored_name: str, config: Config) -> TensorRole:
        """Return what a tensor counts as."""
        ...


def check_options(given: Mapping[str, object], known: Mapping[str, tuple[object, ...]], family: str) -> None:
    """Raise CheckpointError for an option that ``family`` does not have, or a value that it cannot take."""
    for name, value in given.items():
        if name not in known:
            has = f"it has {', '.join(known)}" if known else "it has none"
            raise CheckpointError(f"{family} has no option {name!r} (given as {value!r}); {has}")
        if value not in known[name]:
            choices = ", ".join(map(repr, known[name]))
            raise CheckpointError(f"{name} {value!r} is not supported; choose one of {choices}")


def common_defaults(generation: Mapping[str, Any], end_token_ids: tuple[int, ...]) -> dict[str, Any]:
    """Return what ``generation_config.json`` says that is called the same in every family; absent and null fields are
    left out.

    ``max_new_tokens`` is not read: a released checkpoint says 256, which would cut every longer answer.
    """
    names = ("max_denoising_steps", "t_max", "t_min", "stability_threshold", "confidence_threshold")
    found = {name: generation[name] for name in names if generation.get(name) is not None}
    end = generation.get("eos_token_id")
    ends = end_token_ids if end is None else tuple(end) if isinstance(end, list) else (end,)
    return {**found, "sampling": SamplingDefaults.read(generation), "end_token_ids": ends}
