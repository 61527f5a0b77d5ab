"""LlamaDiffusion as a family: names in files, defaults, and what its tensors count as."""

from collections.abc import Mapping
from typing import Any

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models.base import GenerationDefaults
from redraft.models.family import TIED_COPY, Family, TensorRole, check_options, common_defaults
from redraft.models.llama_diffusion.config import LlamaDiffusionConfig
from redraft.models.llama_diffusion.model import LlamaDiffusion
from redraft.models.llama_diffusion.packed import beside, matrices, packed_model
from redraft.models.packed import PackedModel
from redraft.models.recipes import MatrixRecipe

_PARTS = {".self_attn.": "attention", ".mlp.": "feed-forward", "norm.weight": "norms"}


class LlamaDiffusionFamily:
    """A ``models.family.Family``; see there for what each method means."""

    transformers_package = None
    modes = LlamaDiffusion.modes

    def read_config(self, raw: Mapping[str, Any]) -> LlamaDiffusionConfig:
        """Llama's keys, and those of ``LlamaDiffusionConfig`` that are ours."""
        return LlamaDiffusionConfig.from_json(raw)

    def read_defaults(self, generation: Mapping[str, Any], config: LlamaDiffusionConfig) -> GenerationDefaults:
        """``confidence_threshold`` is the probability from which on a token is revealed: a canvas that is whole stops
        by itself."""
        common = {"t_max": 1.0, "t_min": 1.0, **common_defaults(generation, config.end_token_ids)}
        threshold = common.pop("confidence_threshold", ConfidenceThreshold().threshold)
        return GenerationDefaults(**common, acceptance=ConfidenceThreshold(threshold))

    def defaults_to_json(self, defaults: GenerationDefaults, config: LlamaDiffusionConfig) -> dict[str, Any]:
        """Raises ValueError for an acceptance rule that a file cannot name."""
        rule = defaults.acceptance
        if not isinstance(rule, ConfidenceThreshold):
            raise ValueError(f"acceptance {rule!r} cannot be saved; give a ConfidenceThreshold")
        names = ("max_denoising_steps", "t_max", "t_min")
        return {
            **{name: getattr(defaults, name) for name in names},
            "confidence_threshold": rule.threshold,
            **defaults.sampling.as_object(),
            "eos_token_id": list(defaults.end_token_ids),
        }

    def stored_name(self, name: str) -> str:
        """Llama's published names."""
        return name if name.startswith("lm_head.") else f"model.{name}"

    def unused_part(self, stored_name: str) -> str | None:
        """Files may have the tied head once more, and rotations that are computed."""
        if stored_name == "lm_head.weight":
            return TIED_COPY
        return "rotations" if stored_name.endswith(".rotary_emb.inv_freq") else None

    def build(self, config: LlamaDiffusionConfig, options: Mapping[str, object]) -> LlamaDiffusion:
        """There are no options."""
        check_options(options, {}, "LlamaDiffusion")
        return LlamaDiffusion(config)

    def matrices(self, config: LlamaDiffusionConfig, format: Format) -> list[MatrixRecipe]:
        """The matrices, and how each is made."""
        return matrices(config, format)

    def beside(self, name: str) -> bool:
        """Norms and the embedding."""
        return beside(name)

    def packed(self, model: LlamaDiffusion, made: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
        """Make a model of packed matrices."""
        return packed_model(model, made, format)

    def corruption(self, config: LlamaDiffusionConfig) -> AbsorbingCorruption:
        """One token, the mask, for every other."""
        return AbsorbingCorruption(MaskNoise(config.mask_token_id), config.mask_order)

    def describe(self, config: LlamaDiffusionConfig) -> dict[str, object]:
        """Return the shape."""
        return {
            "hidden size": config.hidden_size,
            "layers": config.num_hidden_layers,
            "heads": f"{config.num_attention_heads}; keys and values {config.num_key_value_heads} x {config.head_dim}",
            "feed-forward": config.intermediate_size,
        }

    def role(self, stored_name: str, config: LlamaDiffusionConfig) -> TensorRole:
        """The head, tied or not, is int8 in int4; the embedding is looked up from what the file stores."""
        part = next((part for mark, part in _PARTS.items() if mark in stored_name), "embedding and head")
        return TensorRole(part)


FAMILY: Family[LlamaDiffusionConfig, LlamaDiffusion] = LlamaDiffusionFamily()
