"""Inkwell as a family."""

from collections.abc import Mapping
from typing import Any

from redraft.canvas.acceptance import ConfidenceThreshold
from redraft.canvas.corruption import AbsorbingCorruption, MaskNoise
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models.base import GenerationDefaults
from redraft.models.family import Family, TensorRole, check_options, common_defaults
from redraft.models.packed import PackedModel
from redraft.models.recipes import MatrixRecipe
from tests.models.toy.config import InkwellConfig
from tests.models.toy.model import Inkwell
from tests.models.toy.packed import matrices, packed_model

# A part of a name is replaced by what the files call it.
_NAMES = {
    "layers.": "blocks.",
    ".attention_norm.": ".ln_a.",
    ".mlp_norm.": ".ln_m.",
    ".query.": ".att.q.",
    ".key.": ".att.k.",
    ".value.": ".att.v.",
    ".out.": ".att.mix.",
    ".gate.": ".ffn.g.",
    ".up.": ".ffn.u.",
    ".down.": ".ffn.d.",
}
_OUTER = {"embedding.weight": "tok", "norm.weight": "ln_f", "head.weight": "unembed"}


class InkwellFamily:
    transformers_package = None
    modes = Inkwell.modes

    def read_config(self, raw: Mapping[str, Any]) -> InkwellConfig:
        return InkwellConfig.from_json(raw)

    def read_defaults(self, generation: Mapping[str, Any], config: InkwellConfig) -> GenerationDefaults:
        common = {"t_max": 1.0, "t_min": 1.0, **common_defaults(generation, (config.end_id,))}
        return GenerationDefaults(**common, acceptance=ConfidenceThreshold(generation.get("threshold", 0.9)))

    def defaults_to_json(self, defaults: GenerationDefaults, config: InkwellConfig) -> dict[str, Any]:
        assert isinstance(defaults.acceptance, ConfidenceThreshold)
        names = ("max_denoising_steps", "t_max", "t_min", "stability_threshold", "confidence_threshold")
        return {
            **{name: getattr(defaults, name) for name in names},
            "threshold": defaults.acceptance.threshold,
            "eos_token_id": list(defaults.end_token_ids),
        }

    def stored_name(self, name: str) -> str:
        if name in _OUTER:
            return _OUTER[name]
        for ours, theirs in _NAMES.items():
            name = name.replace(ours, theirs)
        return name

    def unused_part(self, stored_name: str) -> str | None:
        return "draft head" if stored_name.startswith("draft.") else None

    def build(self, config: InkwellConfig, options: Mapping[str, object]) -> Inkwell:
        check_options(options, {}, "Inkwell")
        return Inkwell(config)

    def matrices(self, config: InkwellConfig, format: Format) -> list[MatrixRecipe]:
        return matrices(config, format)

    def beside(self, name: str) -> bool:
        return name == "embedding.weight" or "norm" in name

    def packed(self, model: Inkwell, made: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
        return packed_model(model, made, format)

    def corruption(self, config: InkwellConfig) -> AbsorbingCorruption:
        return AbsorbingCorruption(MaskNoise(config.mask_id))

    def describe(self, config: InkwellConfig) -> dict[str, object]:
        return {
            "hidden size": config.width,
            "layers": config.depth,
            "heads": f"{config.heads}; keys and values {config.kv_heads} x {config.head_dim}",
        }

    def role(self, stored_name: str, config: InkwellConfig) -> TensorRole:
        if stored_name in ("tok", "unembed"):
            # The embedding is looked up from what the file stores; the head is packed.
            return TensorRole("embedding and head")
        part = "attention" if ".att." in stored_name else "feed-forward" if ".ffn." in stored_name else "norms"
        return TensorRole(part)


FAMILY: Family[InkwellConfig, Inkwell] = InkwellFamily()
