"""Gemma 3 and 4 as families, by themselves or beside a vision tower: names in files, defaults, and what tensors are."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from redraft.kernels.packed import Format, PackedMatrix
from redraft.models.base import GenerationDefaults, GenerationMode
from redraft.models.family import TIED_COPY, Family, TensorRole, check_options, common_defaults
from redraft.models.gemma import gemma3, gemma4
from redraft.models.gemma.config import GemmaConfig
from redraft.models.gemma.gemma3 import Gemma3Config
from redraft.models.gemma.gemma4 import Gemma4Config
from redraft.models.gemma.model import Gemma
from redraft.models.gemma.packed import beside, matrices, packed_model
from redraft.models.packed import PackedModel
from redraft.models.recipes import MatrixRecipe

# Looked for in a tensor's stored name, in this order.
_PARTS = (
    ("embed_tokens", "embedding and head"),
    ("self_attn", "attention"),
    (".experts.", "experts"),
    (".router.", "routers"),
    (".mlp.", "dense feed-forward"),
)
# What a checkpoint has beside its text model, without or behind "model.".
_OTHERS = {
    "vision_tower.": "vision",
    "embed_vision.": "vision",
    "multi_modal_projector.": "vision",
    "audio_tower.": "audio",
    "embed_audio.": "audio",
}


@dataclass(frozen=True)
class GemmaFamily:
    """A ``models.family.Family``; see there for what each method means."""

    modes: ClassVar[tuple[GenerationMode, ...]] = Gemma.modes

    transformers_package: str | None
    architecture: str
    config: type[Gemma3Config] | type[Gemma4Config]
    prefix: str
    """The text before a parameter's name in files."""

    def read_config(self, raw: Mapping[str, Any]) -> GemmaConfig:
        """Fields that a file leaves out have the defaults of the reference's class."""
        return self.config.from_json(raw, self.architecture)

    def read_defaults(self, generation: Mapping[str, Any], config: GemmaConfig) -> GenerationDefaults:
        """Nothing of denoising is read: there is no canvas."""
        common, own = common_defaults(generation, config.end_token_ids), ("end_token_ids", "sampling")
        return GenerationDefaults(**{name: common[name] for name in own if name in common})

    def defaults_to_json(self, defaults: GenerationDefaults, config: GemmaConfig) -> dict[str, Any]:
        """Return what ``transformers`` reads as well."""
        return {
            **defaults.sampling.as_object(),
            "eos_token_id": list(defaults.end_token_ids),
            "pad_token_id": config.pad_token_id,
            "bos_token_id": config.bos_token_id,
        }

    def stored_name(self, name: str) -> str:
        """The published names."""
        return f"{self.prefix}{name}"

    def unused_part(self, stored_name: str) -> str | None:
        """The towers for images and sounds are not loaded; files may have the tied head once more."""
        if stored_name in ("lm_head.weight", "language_model.lm_head.weight"):
            return TIED_COPY
        own = stored_name.removeprefix("model.")
        return next((part for start, part in _OTHERS.items() if own.startswith(start)), None)

    def build(self, config: GemmaConfig, options: Mapping[str, object]) -> Gemma:
        """There are no options."""
        check_options(options, {}, "Gemma")
        return Gemma(config)

    def matrices(self, config: GemmaConfig, format: Format) -> list[MatrixRecipe]:
        """The matrices, and how each is made."""
        return matrices(config, format)

    def beside(self, name: str) -> bool:
        """Norms, scalars and the embedding."""
        return beside(name)

    def packed(self, model: Gemma, made: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
        """Make a model of packed matrices."""
        return packed_model(model, made, format)

    def corruption(self, config: GemmaConfig) -> None:
        """None: there is no canvas to corrupt."""
        return None

    def describe(self, config: GemmaConfig) -> dict[str, object]:
        """Return the shape of the text model."""
        layers = config.layers
        full = sum(spec.window is None for spec in layers)
        windows = sorted({spec.window for spec in layers if spec.window is not None})
        shapes = dict.fromkeys((spec.kv_heads, spec.head_dim, spec.window is None) for spec in layers)
        experts = f"{config.num_experts}, {config.top_k_experts} per token"
        return {
            "hidden size": config.hidden_size,
            "layers": f"{len(layers)} ({full} full, {len(layers) - full} sliding"
            + (f" with window {', '.join(map(str, windows))})" if windows else ")"),
            "heads": f"{config.num_attention_heads}; keys and values "
            + ", ".join(f"{kv} x {dim} in {'full' if whole else 'sliding'} layers" for kv, dim, whole in shapes),
            "feed-forward": config.intermediate_size,
            **({"experts": experts} if config.num_experts else {}),
        }

    def role(self, stored_name: str, config: GemmaConfig) -> TensorRole:
        """Experts are active by the chosen share alone; routers stay exact in the lossy formats."""
        part = next((part for mark, part in _PARTS if mark in stored_name), "norms and scalars")
        share = config.top_k_experts / config.num_experts if part == "experts" else 1.0
        return TensorRole(part, share)


GEMMA3: Family[GemmaConfig, Gemma] = GemmaFamily("gemma3", gemma3.CAUSAL, Gemma3Config, "model.")
GEMMA3_WITH_VISION: Family[GemmaConfig, Gemma] = GemmaFamily(
    "gemma3", gemma3.CONDITIONAL, Gemma3Config, "language_model.model."
)
GEMMA4: Family[GemmaConfig, Gemma] = GemmaFamily("gemma4", gemma4.CAUSAL, Gemma4Config, "model.")
GEMMA4_WITH_VISION: Family[GemmaConfig, Gemma] = GemmaFamily(
    "gemma4", gemma4.CONDITIONAL, Gemma4Config, "model.language_model."
)
