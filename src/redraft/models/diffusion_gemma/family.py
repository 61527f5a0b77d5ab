"""DiffusionGemma as a family: names in files, defaults, options, and what its tensors count as."""

from collections.abc import Mapping
from typing import Any, get_args

from redraft.canvas.corruption import UniformCorruption
from redraft.canvas.noise import UniformNoise
from redraft.kernels.packed import Format, PackedMatrix
from redraft.models.base import GenerationDefaults, WindowPolicy
from redraft.models.diffusion_gemma.config import DiffusionGemmaConfig
from redraft.models.diffusion_gemma.model import DiffusionGemma
from redraft.models.diffusion_gemma.packed import beside, matrices, packed_model
from redraft.models.family import TIED_COPY, Family, TensorRole, check_options, common_defaults
from redraft.models.packed import PackedModel
from redraft.models.recipes import MatrixRecipe

_SAMPLER = "EntropyBoundSamplerConfig"
# Looked for in a tensor's stored name, in this order.
_PARTS = (
    ("embed_tokens", "embedding and head"),
    ("self_attn", "attention"),
    (".experts.", "experts"),
    (".router.", "routers"),
    ("self_conditioning", "self-conditioning"),
    (".mlp.", "dense feed-forward"),
)


class DiffusionGemmaFamily:
    """A ``models.family.Family``; facts follow google/diffusiongemma-26B-A4B-it."""

    transformers_package = "diffusion_gemma"
    modes = DiffusionGemma.modes

    def read_config(self, raw: Mapping[str, Any]) -> DiffusionGemmaConfig:
        """Read either dialect of ``config.json``."""
        return DiffusionGemmaConfig.from_json(raw)

    def read_defaults(self, generation: Mapping[str, Any], config: DiffusionGemmaConfig) -> GenerationDefaults:
        """Absent and null fields take the reference's values."""
        sampler = generation.get("sampler_config") or {}
        if not isinstance(sampler, dict):
            raise ValueError(f"sampler_config must be an object, not {sampler!r}")
        if sampler.get("_cls_name", _SAMPLER) != _SAMPLER:
            raise ValueError(f"sampler {sampler['_cls_name']!r} is not supported; expected {_SAMPLER!r}")
        bound = sampler.get("entropy_bound")
        own = {} if bound is None else {"entropy_bound": bound}
        return GenerationDefaults(**common_defaults(generation, config.end_token_ids), **own)

    def defaults_to_json(self, defaults: GenerationDefaults, config: DiffusionGemmaConfig) -> dict[str, Any]:
        """Return what ``transformers`` reads as well."""
        return {
            "max_denoising_steps": defaults.max_denoising_steps,
            "sampler_config": {"_cls_name": _SAMPLER, "entropy_bound": defaults.entropy_bound},
            "t_max": defaults.t_max,
            "t_min": defaults.t_min,
            "stability_threshold": defaults.stability_threshold,
            "confidence_threshold": defaults.confidence_threshold,
            **defaults.sampling.as_object(),
            "eos_token_id": list(defaults.end_token_ids),
            "pad_token_id": config.pad_token_id,
            "bos_token_id": config.bos_token_id,
        }

    def stored_name(self, name: str) -> str:
        """The reference keeps two models, of which all is shared but the encoder's scalars."""
        if name.endswith(".encoder_layer_scalar"):
            return f"model.encoder.language_model.{name.removesuffix('.encoder_layer_scalar')}.layer_scalar"
        return f"model.decoder.{name}"

    def unused_part(self, stored_name: str) -> str | None:
        """The vision tower is not loaded yet; tied weights are there under another name."""
        if stored_name.startswith(("model.encoder.vision_tower.", "model.encoder.embed_vision.")):
            return "vision"
        if stored_name == "lm_head.weight" or stored_name.startswith("model.encoder.language_model."):
            return TIED_COPY
        return None

    def build(self, config: DiffusionGemmaConfig, options: Mapping[str, object]) -> DiffusionGemma:
        """``window_policy`` is the one option."""
        policies: tuple[WindowPolicy, ...] = get_args(WindowPolicy)
        check_options(options, {"window_policy": policies}, "DiffusionGemma")
        chosen = options.get("window_policy", "shared")
        return DiffusionGemma(config, next(policy for policy in policies if policy == chosen))

    def matrices(self, config: DiffusionGemmaConfig, format: Format) -> list[MatrixRecipe]:
        """The matrices, and how each is made."""
        return matrices(config, format)

    def beside(self, name: str) -> bool:
        """Norms and the embedding."""
        return beside(name)

    def packed(self, model: DiffusionGemma, made: Mapping[str, PackedMatrix], format: Format) -> PackedModel:
        """Make a model of packed matrices."""
        return packed_model(model, made, format)

    def corruption(self, config: DiffusionGemmaConfig) -> UniformCorruption:
        """Uniform over the whole vocabulary."""
        return UniformCorruption(UniformNoise(config.vocab_size))

    def describe(self, config: DiffusionGemmaConfig) -> dict[str, object]:
        """Return the shape of the text model."""
        layers = config.layers
        full = sum(spec.window is None for spec in layers)
        windows = sorted({spec.window for spec in layers if spec.window is not None})
        kinds = dict.fromkeys(layers)
        return {
            "hidden size": config.hidden_size,
            "layers": f"{len(layers)} ({full} full, {len(layers) - full} sliding"
            + (f" with window {', '.join(map(str, windows))})" if windows else ")"),
            "heads": f"{config.num_attention_heads}; keys and values "
            + ", ".join(
                f"{spec.kv_heads} x {spec.head_dim} in {'full' if spec.window is None else 'sliding'} layers"
                for spec in kinds
            ),
            "experts": f"{config.num_experts}, {config.top_k_experts} per token",
        }

    def role(self, stored_name: str, config: DiffusionGemmaConfig) -> TensorRole:
        """Experts are active by the chosen share alone; routers stay exact in the lossy formats."""
        part = next((part for mark, part in _PARTS if mark in stored_name), "norms and scalars")
        share = config.top_k_experts / config.num_experts if part == "experts" else 1.0
        return TensorRole(part, share)


FAMILY: Family[DiffusionGemmaConfig, DiffusionGemma] = DiffusionGemmaFamily()
